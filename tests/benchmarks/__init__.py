"""Benchmarks: ``make bench``, ``make bench-quick``. Ratios, measured side by side."""

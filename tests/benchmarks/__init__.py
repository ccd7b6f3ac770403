"""Benchmarks (``make bench``, ``make bench-quick``): ratios of interleaved timings."""

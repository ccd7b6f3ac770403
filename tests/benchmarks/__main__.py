"""Run the benchmarks: tables in the terminal, JSON and PNG in ``results/bench``.

> python -m tests.benchmarks [--quick [mini]] [--device cuda] [--only throughput …]
"""

import argparse
import json
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from .measure import in_new_process, machine
from .plot import draw

SECTIONS = (
    "throughput",
    "bilevel",
    "libraries",
    "scaling",
    "data_path",
    "limit",
    "compiled",
    "ranks",
    "formats",
)
ON_DEVICE = ("throughput", "bilevel", "libraries")  # the others are about CPUs


def main():
    """Run the requested sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        nargs="?",
        const="tiny",
        metavar="SIZE",
        help="smaller, with models of one size (tiny: 3 minutes)",
    )
    parser.add_argument(
        "--device", default="cpu", help=f"cpu or cuda, for {', '.join(ON_DEVICE)}"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--output_folder", type=Path, default=Path("results/bench"))
    args = parser.parse_args()
    args.output_folder.mkdir(parents=True, exist_ok=True)

    facts, tables = machine(), []
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()), "\n")
    for name in args.only:
        start = time.perf_counter()
        run = import_module(f"{__package__}.{name}").run
        options = [args.device] if name in ON_DEVICE else []
        # A process of its own has memory that no other section has used.
        section = in_new_process(run, args.quick, *options)
        tables += section
        print("\n\n".join(table.markdown() for table in section))
        print(f"\n({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)
        results = {"machine": facts, "tables": [asdict(table) for table in tables]}
        (args.output_folder / "bench.json").write_text(
            json.dumps(results, indent=1), encoding="utf-8"
        )
    draw(tables, args.output_folder / "bench.png")
    print(f"Tables, JSON and plot are in {args.output_folder}.")


if __name__ == "__main__":
    main()

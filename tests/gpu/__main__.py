"""Check and measure on a GPU: tables in the terminal as they come, JSON and PNG after.

> python -m tests.gpu [--device cpu] [--quick] [--only correctness throughput …]
"""

import argparse
import json
import time
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch

from tests.benchmarks.measure import machine
from tests.benchmarks.plot import draw

from .mini import MINI

SECTIONS = (
    "correctness",
    "ranks",
    "throughput",
    "update",
    "waits",
    "loading",
    "kernels",
    "compilation",
)


def main():
    """Run the requested sections; a section that fails does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a small run")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes only")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--output_folder", type=Path, default=Path("results/gpu"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu runs the small version")
    if args.device == "cpu":
        MINI["num_layers"] = 1  # a second one shows nothing new there
    args.output_folder.mkdir(parents=True, exist_ok=True)

    facts, tables, found, failed = machine(), [], [], []
    print(
        "\n".join(f"{name}: {fact}" for name, fact in facts.items()), "\n", flush=True
    )
    for name in args.only:
        start = time.perf_counter()
        print(f"==== {name}", flush=True)
        try:
            for table in import_module(f"{__package__}.{name}").run(
                args.device, args.quick or args.device == "cpu"
            ):
                tables.append(table)
                failed += table.failures
                found.append({"section": name, **asdict(table)})
                results = {"machine": facts, "tables": found}
                (args.output_folder / "gpu.json").write_text(
                    json.dumps(results, indent=1), encoding="utf-8"
                )
        except Exception:
            failed.append(name)
            traceback.print_exc()
        print(f"({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)
    print("\n\n".join(table.markdown() for table in tables))
    draw(tables, args.output_folder / "gpu.png")
    print(f"\nTables, JSON and plot are in {args.output_folder}.")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

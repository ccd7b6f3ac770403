"""Writes and prints the tables of an experiment.

> python -m hetero_brain report results/demo
"""

from argparse import ArgumentParser
from pathlib import Path


def main(argv):
    """Print and write the tables of an experiment, and its plot.

    Raises
    ------
    InputError
        See :func:`~hetero_brain.pipelines.report.report`.
    """
    parser = ArgumentParser(
        "python -m hetero_brain report",
        description="Writes the tables of an experiment (table.md, table.tex, table.csv "
        "and table.json) and phases.png from what its runs have written so far, and "
        "prints the tables.",
    )
    parser.add_argument("folder", type=Path, help="output folder of an experiment")
    folder = parser.parse_args(argv).folder
    from ..pipelines.report import report

    report(folder)

"""Prints the error rates of fine-tuned models on the same speech.

> python -m hetero_brain compare results/ctc results/attention
"""

from argparse import ArgumentParser
from pathlib import Path


def main(argv):
    """Print the tables of the runs that the command line names.

    Raises
    ------
    InputError
        See :func:`~hetero_brain.pipelines.comparison.compare`.
    """
    parser = ArgumentParser(
        "python -m hetero_brain compare",
        description="Prints the error rates of fine-tuned models per domain, and their "
        "changes from the first model, paired by utterance: those whose 95 % bootstrap "
        "interval excludes 0 have an asterisk.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        type=Path,
        help="output folder of a fine-tuning run; the others are compared with the first",
    )
    parser.add_argument(
        "--split",
        choices=("dev", "test"),
        help="the split to compare on; by default each that all runs were evaluated on",
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="all of CER, WER and their differences, with intervals, as Markdown",
    )
    args = parser.parse_args(argv)
    from ..pipelines.comparison import compare

    splits = [args.split] if args.split else None
    print(compare(args.runs, splits, args.markdown))

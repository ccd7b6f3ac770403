"""Writes a model folder from a run.

> python -m hetero_brain export results/ctc/1 results/model --checkpoint average
"""

from argparse import ArgumentParser


def main(argv):
    """Export from the command line; prints the folder."""
    parser = ArgumentParser(
        "python -m hetero_brain export",
        description="Writes a model folder from a run, at any time.",
    )
    parser.add_argument("run", help="folder of a phase or of a fine-tuning run")
    parser.add_argument("folder", help="model folder to write")
    parser.add_argument(
        "--checkpoint",
        choices=("last", "best", "average"),
        help="default: the last of a phase, the best of a fine-tuning run",
    )
    parser.add_argument(
        "-n",
        type=int,
        default=5,
        help="checkpoints to average at most; default: %(default)s",
    )
    args = parser.parse_args(argv)
    from ..pipelines.export import export

    print(export(**vars(args)))

"""The command line: ``python -m hetero_brain COMMAND …``, or ``hetero-brain COMMAND …``.

A command lives in a module, whose ``main`` takes the words after the command and may
return an exit code. Only the module of the given command is imported, so that the list of
commands does not wait for torch.
"""

import sys
from argparse import ArgumentParser, HelpFormatter
from functools import partial
from importlib import import_module

from . import __version__
from .errors import reported

# Command → its module, and what it does.
COMMANDS = {
    "experiment": (
        "pipelines.experiment",
        "pre-train and fine-tune many models as a YAML says, and tabulate error rates",
    ),
    "report": (
        "pipelines.report",
        "tables and plot of an experiment, also of one that has not finished",
    ),
    "compare": (
        "pipelines.comparison",
        "error rates of any fine-tuned models on the same speech, and differences",
    ),
}


def main(argv=None):
    """Run a command.

    Arguments
    ---------
    argv : list of str
        The command and its words; those of this process by default.

    Returns
    -------
    int or None
        The exit code of the command.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = ArgumentParser(
        "python -m hetero_brain",
        description="Pre-training of speech encoders on heterogeneous audio.",
        epilog="COMMAND --help describes a command.",
        formatter_class=partial(HelpFormatter, max_help_position=30),
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, does) in COMMANDS.items():
        commands.add_parser(name, help=does, add_help=False)
    command = parser.parse_args(argv[:1]).command
    module, _ = COMMANDS[command]
    with reported():
        return import_module(f".{module}", __package__).main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())

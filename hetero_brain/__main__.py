"""The command line, also installed as ``hetero-brain``.

A command is a module of ``commands``, whose ``main`` takes the words after it, and may
return an exit code. Only that of the given command is imported.
"""

import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from importlib import import_module

from . import __version__
from .errors import reported

# Command, a module of ``commands`` → what it does.
COMMANDS = {
    "experiment": "pre-train and fine-tune models as a YAML says, and tabulate",
    "report": "tables and plot of an experiment, finished or not",
    "export": "a model folder from any checkpoint of a run",
    "compare": "error rates of fine-tuned models on the same speech",
    "transcribe": "transcripts of recordings, by a fine-tuned model",
    "features": "encodings of recordings, by any layers of an encoder",
    "manifests": "lists of the audio in some folders, to pre-train on it",
    "recipe": "make a recipe for a corpus of your own",
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
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{does}" for name, does in COMMANDS.items()]
    parser = ArgumentParser(
        "python -m hetero_brain",
        usage="%(prog)s COMMAND …, or %(prog)s COMMAND --help",
        description="\n".join(["Commands:", *lines]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help=SUPPRESS)
    parser.add_argument("--version", action="version", version=__version__)
    with reported():
        command = parser.parse_args(argv[:1]).command
        return import_module(f".commands.{command}", __package__).main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())

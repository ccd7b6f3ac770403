"""The command line of a prepare script."""

import argparse
import logging

from ...errors import reported


def argument_parser(documentation, *positional):
    """Makes the parser of a script.

    Arguments
    ---------
    documentation : str
        The script's ``__doc__``; its first paragraph describes the script.
    *positional : str
        Names of the arguments that have to be given.

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = argparse.ArgumentParser(description=documentation.split("\n\n")[0])
    for name in positional:
        parser.add_argument(name)
    return parser


def run(prepare, parser):
    """Calls a function with the arguments of the command line.

    Its log goes to the terminal. An ``InputError`` ends the process with the message and
    exit code 1, without a traceback.

    Arguments
    ---------
    prepare : Callable
        Takes the arguments of the parser by their names.
    parser : argparse.ArgumentParser
    """
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with reported():
        prepare(**arguments)

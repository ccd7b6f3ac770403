"""Errors in the user's input, reported as a message without a traceback."""

import logging
import sys
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class InputError(ValueError):
    """A file, folder or setting is unusable. The message names it, and says what is wrong
    and what to do."""


class MissingData(InputError, FileNotFoundError):
    """Files or folders of a corpus or of a model are missing."""


@contextmanager
def reported():
    """Turn an :class:`InputError` into its message and exit code 1. The traceback goes to
    the log file of the run, if it has one.

    Raises
    ------
    SystemExit
        Instead of the InputError.
    """
    try:
        yield
    except InputError as error:
        logger.debug("InputError", exc_info=True)
        sys.exit(str(error))

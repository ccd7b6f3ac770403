"""Faults of what a user gives: told in a message, without a traceback."""

import logging
import sys
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class InputError(ValueError):
    """A file, folder or setting that cannot be used. The message names it, and says what
    is wrong and what to do."""


class MissingData(InputError, FileNotFoundError):
    """Files or folders of a corpus that are not there."""


@contextmanager
def reported():
    """End the process with an :class:`InputError`'s message and exit code 1; the
    traceback goes to the log file of the run, if it has one.

    Raises
    ------
    SystemExit
        In place of the InputError.
    """
    try:
        yield
    except InputError as error:
        logger.debug("refused", exc_info=True)
        sys.exit(str(error))

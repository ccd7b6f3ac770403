"""Errors in the user's input, reported as a message without a traceback."""

import difflib
import logging
import os
import select
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

STDOUT = 1  # its file descriptor
# Names what the files begin with that ranks write the reason to for which they leave.
REASONS = "HETERO_BRAIN_REASON_FILES"


class InputError(ValueError):
    """A file, folder or setting is unusable. The message names it, and says what is wrong
    and what to do."""


class MissingData(InputError, FileNotFoundError):
    """Files or folders of a corpus or of a model are missing."""


def meant(names, known, prefix=""):
    """What is meant by names that are unknown, for the end of a sentence.

    Arguments
    ---------
    names, known : iterable of str
        Those that are unknown, and those that there are.
    prefix : str
        What stands before a name.

    Returns
    -------
    str
        Empty if none is alike.

    Example
    -------
    >>> meant(["dee", "xx"], ["de", "en"])
    '; did you mean de?'
    """
    by_lower = {name.lower(): name for name in known}
    near = (difflib.get_close_matches(x.lower(), by_lower, n=1) for x in names)
    found = dict.fromkeys(by_lower[match] for matches in near for match in matches)
    found = ", ".join(f"{prefix}{name}" for name in found)
    return f"; did you mean {found}?" if found else ""


@contextmanager
def reported():
    """Turn an :class:`InputError` into its message and exit code 1. The traceback goes to
    the log file of the run, if it has one. See also :func:`until_nobody_reads`.

    Raises
    ------
    SystemExit
        Instead of the InputError.
    """
    try:
        with until_nobody_reads():
            yield
    except InputError as error:
        logger.debug("InputError", exc_info=True)
        leave(str(error))
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        leave(end.code)


def leave(reason):
    """Exit with code 1 and a reason. Ranks of templates/torchrun.py leave it to that, for
    it to be said once, and last."""
    if REASONS not in os.environ:
        sys.exit(reason)
    rank = int(os.environ.get("RANK", "0"))
    Path(f"{os.environ[REASONS]}.{rank:06}").write_text(reason, "utf-8")
    sys.exit(1)


@contextmanager
def until_nobody_reads():
    """If what reads stdout has had enough, as ``head`` has, exit as programs do that know
    nothing of this: without a word.

    Raises
    ------
    SystemExit
        Instead of the BrokenPipeError.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not is_closed(STDOUT):  # it was another pipe
            raise
        with open(os.devnull, "w") as nowhere:  # what Python writes when it exits
            os.dup2(nowhere.fileno(), STDOUT)
        sys.exit(128 + signal.SIGPIPE)


def is_closed(pipe):
    """Whether nobody reads a pipe any more, given as a file descriptor."""
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))

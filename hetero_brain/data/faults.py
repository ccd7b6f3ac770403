"""Why audio files cannot be used, in the same words everywhere."""

import os

CUT, UNREADABLE = "cut short", "unreadable"
SHORTEN = "shorten-compressed SPHERE: convert with sph2pipe -f wav"


def fault(path):
    """What is wrong with an audio file that cannot be opened.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    str

    Example
    -------
    >>> fault("/no/such.wav")
    'no such file'
    """
    if not os.path.isfile(path):
        return "no such file"
    if not os.path.getsize(path):
        return "empty"
    return SHORTEN if _is_shorten(path) else UNREADABLE


def reason(path, error):
    """The path, and why it could not be opened (an OSError), or read to its end (an error
    of libsndfile)."""
    if not isinstance(error, OSError):
        return f"{path}: {CUT}: {error.error_string}"
    found = fault(path)
    why = f": {error.strerror}" if found == UNREADABLE and error.strerror else ""
    return f"{path}: {found}{why}"


def _is_shorten(path):
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError:  # not ours to read
        return False
    return start.startswith(b"NIST_1A") and b"shorten" in start

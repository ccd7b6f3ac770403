"""Writing files so that a crash or a kill cannot leave them half written."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = "unfinished."  # prefix of the name of what is being written
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def prefixed(path, prefix):
    """The path with a prefix before its last component."""
    return path.with_name(f"{prefix}{path.name}")


def sync(path):
    """Flush a file, or a folder's list of entries, to disk.

    Some file systems (CIFS, some FUSE ones) cannot sync a folder and report the call as
    invalid; that is ignored.

    Arguments
    ---------
    path : str or Path
        File or folder.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC or not os.path.isdir(path):
            raise
    finally:
        os.close(handle)


def write_atomically(path, data):
    """Write a file so that a kill leaves either the old contents or the new ones.

    Arguments
    ---------
    path : str or Path
        The file.
    data : bytes
        Its whole contents.
    """
    path = Path(path)
    draft = prefixed(path, UNFINISHED)
    draft.write_bytes(data)
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)


def disk_is_full(error, folder):
    """Whether writing to a folder failed because the disk is full.

    torch.save does not say so: for a RuntimeError, some bytes are written to find out.
    """
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    if not isinstance(error, RuntimeError):
        return False
    probe = folder / f"{UNFINISHED}probe"
    try:
        with open(probe, "wb") as file:
            file.write(bytes(2**20))
            os.fsync(file.fileno())
    except OSError as probe_error:
        return probe_error.errno in DISK_FULL
    finally:
        probe.unlink(missing_ok=True)
    return False


@contextmanager
def replacing(path):
    """Write a text file piece by piece; it replaces the old one when all is written.

    Arguments
    ---------
    path : str or Path
        The file.

    Yields
    ------
    file
        Open for writing; named ``unfinished.<name>`` until the end, and if it fails.
    """
    path = Path(path)
    draft = path.with_name(f"{UNFINISHED}{path.name}")
    with open(draft, "w", encoding="utf-8") as file:
        yield file
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)

"""Files that a crash or a kill leaves whole."""

import errno
import os
from pathlib import Path

UNFINISHED = "unfinished."  # before the name of what is being written
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)


def sync(path):
    """Have the disk hold what was written to a file, or to a folder's list of files.

    Some file systems (CIFS, some of FUSE) cannot do so for folders and say that the call
    is invalid; their lists are then on the disk when they are.

    Arguments
    ---------
    path : str or Path
        The file or folder.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as fault:
        if fault.errno not in NO_SYNC or not os.path.isdir(path):
            raise
    finally:
        os.close(handle)


def write_atomically(path, data):
    """Write bytes to a file that a kill leaves either absent, as it was, or whole.

    Arguments
    ---------
    path : str or Path
        The file.
    data : bytes
        All of it.
    """
    path = Path(path)
    draft = path.with_name(f"{UNFINISHED}{path.name}")
    draft.write_bytes(data)
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)

"""Files that a release may hold plain or gzipped."""

import gzip
import zlib


def read_bytes(path):
    """Reads all of a file, decompressed if its name ends in ``.gz``.

    Arguments
    ---------
    path : Path
        The file.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the compressed file is cut short or damaged.
    """
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} is cut short or damaged ({error}): get it again"
        ) from error

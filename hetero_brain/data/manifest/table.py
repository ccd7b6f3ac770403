"""The manifest as a table whose rows are read from the file when they are needed."""

import copy
import hashlib
import operator
import os
from collections.abc import Sequence

import numpy as np

from .csv_format import split_line
from .errors import ManifestError


class Manifest(Sequence):
    """The rows of a manifest, each read from the file when it is asked for.

    In memory are 14 bytes per row: duration and domain, which a plan needs, and the
    position of the row in the file. A manifest can be pickled and shared by loader
    workers. :func:`read` makes one.

    Attributes
    ----------
    path : str
        The CSV file.
    domains : tuple of str
        Domain names, sorted.
    duration : np.ndarray
        Seconds, float32, shape (rows,).
    domain : np.ndarray
        Indices into ``domains``, int16, shape (rows,).

    Example
    -------
    >>> from hetero_brain.data import manifest
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a.wav").touch()
    >>> manifest.write(
    ...     folder / "train.csv",
    ...     [{"ID": "a", "duration": 2, "wav": "{data_root}/a.wav", "domain": "en"}],
    ... )
    >>> rows = manifest.read(folder / "train.csv", data_root=folder)
    >>> rows.domains, rows[0]["duration"], rows[0]["start"]
    (('en',), 2.0, None)
    """

    def __init__(self, path, data_root, header, version, index):
        self.path = str(path)
        self.data_root = str(data_root)
        self.domains = index.domains
        self.duration = np.array(index.duration, dtype=np.float32)
        self.domain = np.array(index.domain, dtype=np.int16)
        self._offset = np.array(index.offset, dtype=np.int64)
        self._longest = index.longest
        self._header = header
        self._version = version
        self._file = None

    def __len__(self):
        return len(self._offset)

    def __getitem__(self, index):
        """One row.

        Arguments
        ---------
        index : int
            Position of the row; a negative one counts from the end.

        Returns
        -------
        dict
            ``ID``, ``wav`` (with the data root filled in), ``domain``, ``spk_id`` and
            ``wrd`` (str), ``duration`` (float, seconds), ``start`` and ``stop`` (int,
            samples, or None for a whole file), ``channel`` if the file has that column
            (int, or None for the average of all channels), and further columns of the
            file as str. In ``wrd``, white space is normalised to single spaces between
            words, so that training and scoring see the same text.

        Raises
        ------
        ManifestError
            If the file has been changed or replaced since it was read.
        """
        row = self.raw_row(operator.index(index))
        row["duration"] = float(row["duration"])
        row["wrd"] = " ".join(row["wrd"].split())
        for key in ("start", "stop"):
            row[key] = int(row[key]) if row[key] else None
        if "channel" in row:
            row["channel"] = int(row["channel"]) if row["channel"] else None
        return row

    def subset(self, rows):
        """A manifest of some of the rows.

        Arguments
        ---------
        rows : array_like of int
            Positions of the rows, in their new order.

        Returns
        -------
        Manifest
            With the same ``domains``, also if some of them have no rows in it.
        """
        other = copy.copy(self)
        for key in ("duration", "domain", "_offset"):
            setattr(other, key, getattr(self, key)[np.asarray(rows, dtype=np.int64)])
        other._file = None
        return other

    def digest(self):
        """Number of rows, and a hash of their domains and durations, as text.

        Paths do not enter the hash, so that it is the same wherever the data is stored.
        """
        digest = hashlib.blake2b("\n".join(self.domains).encode(), digest_size=8)
        digest.update(self.domain.tobytes())
        digest.update(self.duration.tobytes())
        return f"{len(self)} rows, {digest.hexdigest()}"

    def raw_row(self, index):
        """One row with every field as str; only the data root is filled in."""
        offset = int(self._offset[index])
        line = os.pread(self._open().fileno(), self._longest, offset)
        row = dict(zip(self._header, split_line(line.split(b"\n", 1)[0])))
        row["wav"] = row["wav"].replace("{data_root}", self.data_root)
        return row

    def _open(self):
        """The file, opened once per process.

        It is read with ``pread`` only, which leaves the file position alone: a forked
        worker can share the open file, and a spawned one opens the file anew.
        """
        if self._file is None:
            file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (it stays open)
            if file_version(file) != self._version:
                raise ManifestError(
                    f"{self.path} has changed since this run read it; start again"
                )
            self._file = file
        return self._file

    def __getstate__(self):
        return {**self.__dict__, "_file": None}


def file_version(file):
    """Size and modification time of an open file, which reveal that it was replaced."""
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns

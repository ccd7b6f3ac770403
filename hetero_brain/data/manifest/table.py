"""The rows of a manifest, parsed one at a time when asked for."""

import copy
import hashlib
import operator
import os
from collections.abc import Sequence

import numpy as np

from .csv_format import split_line
from .errors import ManifestError


class Manifest(Sequence):
    """The rows of a manifest, parsed one at a time when asked for.

    Keeps 14 bytes a row: what a plan needs, as arrays, and where the row is in the
    file. May be pickled, and shared by loader workers.
    Made by ``read``.

    Attributes
    ----------
    path : str
        The file.
    domains : tuple of str
        Names of the domains that have rows, sorted.
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

    def __init__(self, path, data_root, header, version, rows):
        self.path = str(path)
        self.data_root = str(data_root)
        self.domains = rows.domains
        self.duration = np.array(rows.duration, dtype=np.float32)
        self.domain = np.array(rows.domain, dtype=np.int16)
        self._offset = np.array(rows.offset, dtype=np.int64)
        self._longest = rows.longest
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
            Position; negative counts from the end.

        Returns
        -------
        dict
            ``ID``, ``wav`` (with the data root filled in), ``domain``,
            ``spk_id``, ``wrd`` (str), ``duration`` (float, seconds), ``start``
            and ``stop`` (int, samples, or None for a whole file), ``channel``
            where the file has that column (int, or None for all channels), and
            further columns of the file as str. ``wrd`` has one space between words,
            whatever the file has, and none around them: what is trained on and
            what is scored.

        Raises
        ------
        ManifestError
            If the file is no longer the one that was read.
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
        """The manifest of some rows.

        Arguments
        ---------
        rows : array_like of int
            Positions, in the order wanted; domains without rows remain known.

        Returns
        -------
        Manifest
        """
        other = copy.copy(self)
        for key in ("duration", "domain", "_offset"):
            setattr(other, key, getattr(self, key)[np.asarray(rows, dtype=np.int64)])
        other._file = None
        return other

    def digest(self):
        """Tells manifests apart: number of rows, and a digest of domains and durations.

        Paths are no part of it, so that the same data elsewhere is the same.
        """
        digest = hashlib.blake2b("\n".join(self.domains).encode(), digest_size=8)
        digest.update(self.domain.tobytes())
        digest.update(self.duration.tobytes())
        return f"{len(self)} rows, {digest.hexdigest()}"

    def raw_row(self, index):
        """One row, every field still a str."""
        offset = int(self._offset[index])
        line = os.pread(self._open().fileno(), self._longest, offset)
        row = dict(zip(self._header, split_line(line.split(b"\n", 1)[0])))
        row["wav"] = row["wav"].replace("{data_root}", self.data_root)
        return row

    def _open(self):
        """The file, opened once per process and read by ``pread`` only: a
        forked worker shares it safely, a spawned one opens its own."""
        if self._file is None:
            file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (stays open)
            if file_version(file) != self._version:
                raise ManifestError(
                    f"{self.path} has changed since this run read it; start again"
                )
            self._file = file
        return self._file

    def __getstate__(self):
        return {**self.__dict__, "_file": None}


def file_version(file):
    """Tells a file from its replacement."""
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns

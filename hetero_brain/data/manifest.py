"""The manifest: one CSV per split, in SpeechBrain's own format.

====================  =====================================================
column                holds
====================  =====================================================
``ID``                a name, unique in the file
``duration``          seconds
``wav``               path of the audio file; may hold ``{data_root}``
``start``, ``stop``   samples; both empty for a whole file
``domain``            the source: a corpus, a condition, a language
``spk_id``            the speaker, or empty
``wrd``               the words; empty for unlabelled speech
``channel``           optional column: the channel of a file that has several,
                      counted from 0; empty for the average of all
====================  =====================================================

Columns may be in any order and there may be more of them. A row is one line:
no field holds a line break. ``DynamicItemDataset.from_csv`` reads these files
too, but its own placeholder is ``$name``, so it leaves ``{data_root}`` alone.
"""

import copy
import csv
import filecmp
import hashlib
import math
import numbers
import operator
import os
import re
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from ..errors import InputError

COLUMNS = ("ID", "duration", "wav", "start", "stop", "domain", "spk_id", "wrd")
OPTIONAL_COLUMNS = ("channel",)
MAX_FAULTS_SHOWN = 20


class ManifestError(InputError):
    """A manifest that cannot be used; the message lists every fault."""


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
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a.wav").touch()
    >>> write(
    ...     folder / "train.csv",
    ...     [{"ID": "a", "duration": 2, "wav": "{data_root}/a.wav", "domain": "en"}],
    ... )
    >>> manifest = read(folder / "train.csv", data_root=folder)
    >>> manifest.domains, manifest[0]["duration"], manifest[0]["start"]
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
        row = self._row(operator.index(index))
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

    def _row(self, index):
        """One row, every field still a str."""
        offset = int(self._offset[index])
        line = os.pread(self._open().fileno(), self._longest, offset)
        row = dict(zip(self._header, _fields(line.split(b"\n", 1)[0])))
        row["wav"] = row["wav"].replace("{data_root}", self.data_root)
        return row

    def _open(self):
        """The file, opened once per process and read by ``pread`` only: a
        forked worker shares it safely, a spawned one opens its own."""
        if self._file is None:
            file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (stays open)
            if _version(file) != self._version:
                raise ManifestError(
                    f"{self.path} has changed since this run read it; start again"
                )
            self._file = file
        return self._file

    def __getstate__(self):
        return {**self.__dict__, "_file": None}


def read(path, data_root="", domains=None, check_files=True):
    """Opens a manifest and checks all of it.

    Arguments
    ---------
    path : str or Path
        The CSV file, UTF-8, with or without byte-order mark or CRLF.
    data_root : str or Path
        Stands for ``{data_root}`` in ``wav``.
    domains : sequence of str, optional
        Keep the rows of these domains only. Default: all.
    check_files : bool
        Whether to look up the audio files of the rows that are kept.

    Returns
    -------
    Manifest

    Raises
    ------
    ManifestError
        Naming the file and every fault, rows counted as lines of the file (the
        header is row 1): file or columns missing, no rows, wrong number of
        fields, duplicate or empty ID, duration not positive and finite, start
        and stop not integers or not in order or only one of them, channel not a
        number from 0 on, no domain, audio file missing, a wanted domain that no
        row has.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path}: no such file")
    return _read(path, path, data_root, domains, check_files)


def write(path, rows, columns=COLUMNS):
    """Writes a manifest, whole or not at all.

    A file that already holds exactly these rows is left as it is, so that runs
    which are reading it go on.

    Arguments
    ---------
    path : str or Path
        The CSV file; its folder is made if need be.
    rows : iterable of Mapping
        Keys from ``columns``; one that is absent or None gives an empty field.
        ``duration`` is written with four decimals. Their order is kept.
    columns : sequence of str
        ``COLUMNS``, or those and some of ``OPTIONAL_COLUMNS``.

    Raises
    ------
    ManifestError
        For the faults that ``read`` finds, audio files aside, and for unknown
        keys and line breaks in a field. What was at ``path`` is then unharmed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    faults = _Faults()
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for number, row in enumerate(rows, start=2):
                fields = [_text(key, row.get(key)) for key in columns]
                unknown = sorted(set(row) - set(columns))
                if unknown:
                    faults.add(number, f"unknown columns {unknown}")
                for key, field in zip(columns, fields):
                    if "\n" in field or "\r" in field:
                        faults.add(number, f"line break in {key}: {field!r}")
                writer.writerow(fields)
            file.flush()
            os.fsync(file.fileno())
        faults.raise_any(path)
        _read(temporary, path, check_files=False)
        if not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_if_any(path, rows, columns=COLUMNS):
    """As :func:`write`; without any row there is no manifest, also no older one."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        Path(path).unlink(missing_ok=True)
    else:
        write(path, chain([first], rows), columns)


def _text(key, value):
    """A value as it stands in the file."""
    if value is None:
        return ""
    if key == "duration" and isinstance(value, numbers.Real):
        return f"{value:.4f}"
    return str(value)


def _fields(line):
    """The fields of one line of bytes, as SpeechBrain reads them."""
    text = line.decode().rstrip("\r\n")
    if '"' not in text and ", " not in text:  # four times as fast as csv
        return text.split(",")
    return next(csv.reader([text], skipinitialspace=True, strict=True))


def _version(file):
    """Tells a file from its replacement."""
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


class _Faults:
    """Collects what is wrong, in bounded memory."""

    def __init__(self):
        self.count = 0
        self.first = []

    def add(self, row, text):
        self.count += 1
        self.first.append((row, text))
        if len(self.first) > 100 * MAX_FAULTS_SHOWN:
            self._trim()

    def _trim(self):
        self.first.sort(key=lambda fault: fault[0])
        del self.first[MAX_FAULTS_SHOWN:]

    def raise_any(self, name):
        if not self.count:
            return
        self._trim()
        lines = [f"{name}: {self.count} fault(s)"]
        lines += [f"  row {row}: {text}" for row, text in self.first]
        if self.count > len(self.first):
            lines.append(f"  and {self.count - len(self.first)} more")
        raise ManifestError("\n".join(lines))


class _Rows:
    """What one pass over the rows leaves, 34 bytes for each."""

    def __init__(self):
        self.domains = ()
        self.duration = array("f")
        self.domain = array("h")
        self.offset = array("q")
        self.id_hash = array("q")
        self.wav_hash = array("q")
        self.number = array("i")
        self.longest = 0


def _read(path, name, data_root="", domains=None, check_files=True):
    """``read`` of the file at ``path``, called ``name`` in messages."""
    faults = _Faults()
    with open(path, "rb") as file:
        version = _version(file)
        first = file.readline()
        header = _header(first, name)
        rows = _scan(file, len(first), header, faults)
    if not rows.offset and not faults.count:
        raise ManifestError(f"{name}: no rows")

    manifest = Manifest(path, data_root, header, version, rows)
    _check_ids(manifest, rows, faults)
    kept = _select(manifest, domains, faults)
    if check_files:
        _check_files(manifest, rows, kept, faults)
    faults.raise_any(name)
    return manifest.subset(np.flatnonzero(kept))


def _header(line, name):
    """The names of the columns, from the first line."""
    try:
        header = _fields(line.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError:
        raise ManifestError(f"{name}: not a UTF-8 CSV file") from None
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ManifestError(f"{name}: no columns {missing}; the header has {header}")
    return header


def _scan(file, offset, header, faults):
    """Checks every row by itself, in one pass.

    Arguments
    ---------
    file : binary file
        At its second line.
    offset : int
        Bytes before that line.
    header : list of str
        Column names.
    faults : _Faults
        Collects what is wrong.

    Returns
    -------
    _Rows
        Its ``domains`` in order of appearance.
    """
    rows = _Rows()
    codes = {}
    pick = operator.itemgetter(*(header.index(column) for column in COLUMNS))
    channel_at = header.index("channel") if "channel" in header else None
    for number, line in enumerate(file, start=2):
        here, offset = offset, offset + len(line)
        if not line.strip():
            continue
        try:
            fields = _fields(line)
        except (UnicodeDecodeError, csv.Error) as error:
            faults.add(number, f"unreadable: {error}")
            continue
        if len(fields) != len(header):
            faults.add(number, f"{len(fields)} fields instead of {len(header)}")
            continue
        id_, duration, wav, start, stop, domain, _, _ = pick(fields)
        if not (id_ and wav and domain):
            empty = [k for k in ("ID", "wav", "domain") if not fields[header.index(k)]]
            faults.add(number, f"empty {' and '.join(empty)}")
        try:
            seconds = float(duration)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            faults.add(number, f"duration {duration!r} is not a positive number")
        if (start or stop) and not _is_span(start, stop):
            faults.add(
                number,
                f"start {start!r} and stop {stop!r} are neither both empty nor "
                "samples with 0 <= start < stop",
            )
        if channel_at is not None and not re.fullmatch("[0-9]*", fields[channel_at]):
            faults.add(
                number, f"channel {fields[channel_at]!r} is not a number from 0 on"
            )
        rows.duration.append(seconds)
        rows.domain.append(codes.setdefault(domain, len(codes)))
        rows.offset.append(here)
        rows.id_hash.append(hash(id_))
        rows.wav_hash.append(hash(wav))
        rows.number.append(number)
        rows.longest = max(rows.longest, len(line))
    rows.domains = tuple(codes)
    return rows


def _is_span(start, stop):
    """Whether two fields are a first and a last sample."""
    try:
        return 0 <= int(start) < int(stop)
    except ValueError:
        return False


def _check_ids(manifest, rows, faults):
    """Finds duplicate IDs: by hash, so that 10 M of them take 80 MB, then for
    certain among the few rows whose hash occurs again."""
    hashes = np.array(rows.id_hash)
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(np.diff(hashes[order]) == 0)
    first = {}
    for index in np.union1d(order[again], order[again + 1]):
        id_, number = manifest._row(index)["ID"], rows.number[index]
        if first.setdefault(id_, number) != number:
            faults.add(number, f"ID {id_!r} is already in row {first[id_]}")


def _select(manifest, wanted, faults):
    """Recodes ``manifest.domain`` into the sorted names of the wanted domains
    (None: all) and gives the mask of their rows, shape (rows,)."""
    present = set(manifest.domains)
    absent = sorted(set(wanted or ()) - present)
    if absent:
        faults.add(1, f"no rows of domain {absent}; there are {sorted(present)}")
    names = sorted(present if wanted is None else present & set(wanted))
    code = {name: index for index, name in enumerate(names)}
    recode = np.array([code.get(name, -1) for name in manifest.domains], np.int16)
    manifest.domain = recode[manifest.domain]
    manifest.domains = tuple(names)
    return manifest.domain >= 0


def _check_files(manifest, rows, kept, faults):
    """Looks up every distinct audio file of the rows that are kept, once."""
    indices = np.flatnonzero(kept)
    _, first = np.unique(np.array(rows.wav_hash)[indices], return_index=True)
    for index in np.sort(indices[first]):
        wav = manifest._row(index)["wav"]
        if wav and not os.path.isfile(wav):
            faults.add(rows.number[index], f"no file {wav!r}")

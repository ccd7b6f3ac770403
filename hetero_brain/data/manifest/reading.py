"""Opens a manifest and checks all of its rows."""

import csv
import math
import operator
import os
import re
from array import array
from pathlib import Path

import numpy as np

from .csv_format import COLUMNS, split_line
from .errors import ErrorList, ManifestError
from .table import Manifest, file_version


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
    return read_as(path, path, data_root, domains, check_files)


class RowIndex:
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


def read_as(path, name, data_root="", domains=None, check_files=True):
    """``read`` of the file at ``path``, called ``name`` in messages."""
    faults = ErrorList()
    with open(path, "rb") as file:
        version = file_version(file)
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
        header = split_line(line.removeprefix(b"\xef\xbb\xbf"))
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
    faults : ErrorList
        Collects what is wrong.

    Returns
    -------
    RowIndex
        Its ``domains`` in order of appearance.
    """
    rows = RowIndex()
    codes = {}
    pick = operator.itemgetter(*(header.index(column) for column in COLUMNS))
    channel_at = header.index("channel") if "channel" in header else None
    for number, line in enumerate(file, start=2):
        here, offset = offset, offset + len(line)
        if not line.strip():
            continue
        try:
            fields = split_line(line)
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
        id_, number = manifest.raw_row(index)["ID"], rows.number[index]
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
        wav = manifest.raw_row(index)["wav"]
        if wav and not os.path.isfile(wav):
            faults.add(rows.number[index], f"no file {wav!r}")

"""Reads manifests and checks them: first each row by itself, then all rows together."""

import csv
import math
import operator
import os
import re
from array import array
from pathlib import Path

import numpy as np

from ...errors import meant
from .csv_format import COLUMNS, split_line
from .errors import ErrorList, ManifestError
from .table import Manifest, file_version

MAY_BE_EMPTY = ("start", "stop", "spk_id", "wrd")  # columns whose cells may be
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PLAUSIBLE = 1_000, 400_000  # Hz: between these are the sample rates of all audio


def read(path, data_root="", domains=None, check_files=True):
    """Read a manifest and check all of it.

    Arguments
    ---------
    path : str or Path
        The CSV file: UTF-8, with or without a byte-order mark, with LF or CRLF.
    data_root : str or Path
        Replaces ``{data_root}`` in ``wav``.
    domains : sequence of str, optional
        Keep only the rows of these domains. Default: all.
    check_files : bool
        Whether to check that the audio files of the rows that are kept exist.

    Returns
    -------
    Manifest

    Raises
    ------
    ManifestError
        Names the file and every error, with row numbers that are line numbers of the
        file (the header is row 1). Errors are: a missing file or column, no rows, a
        wrong number of fields, an empty or duplicate ID, an empty wav or domain, a
        duration that is not positive and finite, start and stop that are not integers,
        not in order, not both given or not samples at a :data:`PLAUSIBLE` rate, a
        channel that is not an integer from 0 on, an audio file that does not exist, and a
        requested domain that has no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path}: no such file")
    return read_as(path, path, data_root, domains, check_files)


def read_as(path, name, data_root="", domains=None, check_files=True):
    """As :func:`read` for the file at ``path``, which messages call ``name``."""
    errors = ErrorList()
    with open(path, "rb") as file:
        version = file_version(file)
        first_line = file.readline()
        header = _header(first_line, name)
        index = _scan(file, len(first_line), header, errors)
    if not index.offset and not errors.count:
        raise ManifestError(f"{name}: no rows")

    manifest = Manifest(path, data_root, header, version, index)
    _check_ids(manifest, index, errors)
    selected = _select_domains(manifest, domains, errors)
    if check_files:
        _check_files(manifest, index, selected, errors)
    errors.raise_any(name)
    return manifest.subset(np.flatnonzero(selected))


# --------------------------------------------------------------------- row by row


class RowIndex:
    """What a single pass over a file collects: 34 bytes for each row.

    Attributes
    ----------
    domains : tuple of str
        Domain names in order of appearance.
    duration, domain : array
        Seconds, and an index into ``domains``.
    offset, number : array
        Where the line starts, in bytes, and its line number.
    id_hash, wav_hash : array
        Hashes of the fields ``ID`` and ``wav``.
    longest : int
        Bytes of the longest line.
    """

    def __init__(self):
        self.domains = ()
        self.duration = array("f")
        self.domain = array("h")
        self.offset = array("q")
        self.id_hash = array("q")
        self.wav_hash = array("q")
        self.number = array("i")
        self.longest = 0


def _header(line, name):
    """The column names, from the first line of the file."""
    try:
        header = split_line(line.removeprefix(BYTE_ORDER_MARK))
    except (UnicodeDecodeError, csv.Error):
        raise ManifestError(f"{name}: not a UTF-8 CSV file") from None
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise ManifestError(f"{name}: the header names {', '.join(twice)} twice")
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        empty = ", ".join(column for column in missing if column in MAY_BE_EMPTY)
        hint = f"; cells of {empty} may be empty" if empty else ""
        raise ManifestError(
            f"{name}: no columns {missing}; the header has {header}{hint}"
        )
    return header


def _scan(file, offset, header, errors):
    """Check every row by itself and index those that could be split into fields.

    Arguments
    ---------
    file : binary file
        Positioned at its second line.
    offset : int
        Where that line starts, in bytes.
    header : list of str
        Column names.
    errors : ErrorList
        Collects the errors found.

    Returns
    -------
    RowIndex
    """
    index, codes = RowIndex(), {}
    pick = operator.itemgetter(*(header.index(column) for column in COLUMNS))
    channel_column = header.index("channel") if "channel" in header else None
    for number, line in enumerate(file, start=2):
        line_offset, offset = offset, offset + len(line)
        if not line.strip():
            continue
        try:
            fields = split_line(line)
        except (UnicodeDecodeError, csv.Error) as error:
            errors.add(number, f"unreadable: {error}")
            continue
        if len(fields) != len(header):
            errors.add(number, f"{len(fields)} fields instead of {len(header)}")
            continue
        id_, duration, wav, start, stop, domain, _, _ = pick(fields)
        channel = "" if channel_column is None else fields[channel_column]
        _check_names(number, id_, wav, domain, errors)
        seconds = _check_numbers(number, duration, start, stop, channel, errors)

        index.duration.append(seconds)
        index.domain.append(codes.setdefault(domain, len(codes)))
        index.offset.append(line_offset)
        index.id_hash.append(hash(id_))
        index.wav_hash.append(hash(wav))
        index.number.append(number)
        index.longest = max(index.longest, len(line))
    index.domains = tuple(codes)
    return index


def _check_names(number, id_, wav, domain, errors):
    """Report which of the fields that must not be empty are empty."""
    if not (id_ and wav and domain):
        fields = {"ID": id_, "wav": wav, "domain": domain}
        empty = [column for column, field in fields.items() if not field]
        errors.add(number, f"empty {' and '.join(empty)}")


def _check_numbers(number, duration, start, stop, channel, errors):
    """Check the numeric fields of a row; return the duration in seconds, or NaN."""
    try:
        seconds = float(duration)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        errors.add(number, f"duration {duration!r} is not a positive number")
    if (start or stop) and not _is_segment(start, stop):
        errors.add(
            number,
            f"start {start!r} and stop {stop!r} are neither both empty nor "
            "samples with 0 <= start < stop",
        )
    elif start and 0 < seconds < math.inf:
        rate = (int(stop) - int(start)) / seconds
        if not PLAUSIBLE[0] <= rate <= PLAUSIBLE[1]:
            errors.add(
                number,
                f"start {start} to stop {stop} in a duration of {duration} s are "
                f"{rate:.4g} samples a second; start and stop are samples, duration is "
                "in seconds",
            )
    if channel and not re.fullmatch("[0-9]*", channel):
        errors.add(number, f"channel {channel!r} is not a number from 0 on")
    return seconds


def _is_segment(start, stop):
    """Whether two fields are the first sample of a segment and the one after its last."""
    try:
        return 0 <= int(start) < int(stop)
    except ValueError:
        return False


# --------------------------------------------------------------- all rows together


def _check_ids(manifest, index, errors):
    """Report duplicate IDs.

    IDs are compared by their hashes, which take 80 MB for 10 M rows. Only the few rows
    whose hash occurs more than once are read again and compared as text.
    """
    hashes = np.array(index.id_hash)
    order = np.argsort(hashes, kind="stable")
    repeated = np.flatnonzero(np.diff(hashes[order]) == 0)
    first = {}
    for row in np.union1d(order[repeated], order[repeated + 1]):
        id_, number = manifest.raw_row(row)["ID"], index.number[row]
        if first.setdefault(id_, number) != number:
            errors.add(number, f"ID {id_!r} is already in row {first[id_]}")


def _select_domains(manifest, requested, errors):
    """Reduce ``manifest.domains`` to the requested ones, sorted by name.

    Returns
    -------
    np.ndarray of bool, shape (rows,)
        Which rows belong to them; ``manifest.domain`` is -1 for the others.
    """
    present = set(manifest.domains)
    absent = sorted(set(requested or ()) - present)
    if absent:
        errors.add(0, absent_domains(absent, present))
    names = sorted(present if requested is None else present & set(requested))
    codes = {name: code for code, name in enumerate(names)}
    new_code = np.array([codes.get(name, -1) for name in manifest.domains], np.int16)
    manifest.domain = new_code[manifest.domain]
    manifest.domains = tuple(names)
    return manifest.domain >= 0


def absent_domains(absent, present):
    """In words: domains that have no rows, and those that have."""
    there = f"there are {sorted(present)}"
    return f"no rows of domain {sorted(absent)}; {there}{meant(absent, present)}"


def first_look(path, domains):
    """Raise a ManifestError if a domain has no rows; a fast look at a file that nothing
    has checked, and whose other errors are left to :func:`read`."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if "domain" not in header:
            return
        column = header.index("domain")
        present = {line[column] for line in lines if len(line) == len(header)}
    if absent := {*domains} - present:
        raise ManifestError(f"{path}: {absent_domains(absent, present)}")


def _check_files(manifest, index, selected, errors):
    """Report missing audio files; each file of the selected rows is looked up once."""
    rows = np.flatnonzero(selected)
    _, first = np.unique(np.array(index.wav_hash)[rows], return_index=True)
    for row in np.sort(rows[first]):
        wav = manifest.raw_row(row)["wav"]
        if wav and not os.path.isfile(wav):
            errors.add(index.number[row], f"no file {wav!r}{_hint(wav, manifest)}")


def _hint(wav, manifest):
    """Where a missing file is, if its path is relative to the data root."""
    if not os.path.isfile(os.path.join(manifest.data_root, wav)):
        return ""
    return f"; it is in the data folder: write {{data_root}}/{wav}"

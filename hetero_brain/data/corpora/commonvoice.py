"""Mozilla Common Voice, any release and language, scripted speech.

A language's folder, as ``cv-corpus-17.0-2024-03-15/sv-SE``:

======================  =====================================================
file                    holds
======================  =====================================================
``train.tsv``, …        the clips of a split, a line each
``clips/*.mp3``         the audio
``clip_durations.tsv``  milliseconds of each clip; absent from old releases
======================  =====================================================

The tables are not CSV: a field ends at a tab and a row at a line feed, whatever quotes
are in it. (U+0085 and U+2028 are characters of a sentence.) ``"`` is a character too,
but for a sentence that certainly went through a CSV writer: in quotes, with every quote
in it doubled, and some in it, since such a writer quotes only where it has to.

What a clip is left out for, the first that holds:

=================================  ==========================================
reason                             when
=================================  ==========================================
``row of the wrong length``        fewer or more fields than the header
``row without clip or speaker``    no ``path`` or no ``client_id``
``other COLUMN``                   not what ``where`` asks for
``duplicate``                      the clip has had a row in this split
``no file``                        nothing, or a dead link, of this name
``empty``                          a file of no bytes
``unreadable``                     no duration in the table, and no audio
``too short``, ``too long``        not within ``MIN_SECONDS``, ``MAX_SECONDS``
``cut short``                      fewer bytes than mp3 needs for the duration
                                   in the table, or than its own header says
=================================  ==========================================

Only clips without a usable duration in ``clip_durations.tsv`` are opened, and of these
only those whose header does not say how long they are are decoded. Of the others
the name and size are looked at, so that one cut short by less than ``MIN_BYTE_RATE``
shows is found when it is read in training (``hetero_brain.data.audio.read_audio``).
"""

import logging
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import InputError, MissingData
from .headers import read_header

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test", "validated", "other", "invalidated")
MIN_SECONDS, MAX_SECONDS = 0.1, 60.0
MIN_BYTE_RATE = 1000  # of mp3 at its lowest bit rate, 8 kbit/s, in bytes a second
ALIASES = {
    "accent": "accents",
    "accents": "accent",
}  # the column in releases to 7, from 8
HEADER_THREADS = 16  # more than cores: on a network disk they wait
HEADERS_A_REPORT = 20_000


class Clip(NamedTuple):
    """A clip that can be used.

    Attributes
    ----------
    name : str
        Of its file in ``clips/``.
    seconds : float
        Its length.
    speaker : str
        The first 16 digits of ``client_id``, which is a hash of 128: among a million
        speakers any two agree in them with probability 3e-8. One that is no such hash
        is as it stands.
    sentence : str
        What was to be read, as it stands.
    """

    name: str
    seconds: float
    speaker: str
    sentence: str


def find_languages(folder, language):
    """The folders of a language: ``folder/language``, ``folder`` itself if that is its
    name, ``folder/cv-corpus-*/language``. A list, of one Path if all is well."""
    folder = Path(folder)
    candidates = [folder / language, *sorted(folder.glob(f"cv-corpus-*/{language}"))]
    if folder.resolve().name == language:
        candidates.append(folder)
    return [path for path in candidates if path.is_dir()]


def clips_folder(folder, language):
    """Where the files of ``Clip.name`` are, once :func:`missing` is empty."""
    return find_languages(folder, language)[0] / "clips"


def missing(folder, language, splits):
    """What a language lacks, so that an error can tell of all languages at once.

    Arguments
    ---------
    folder, language, splits
        As for :func:`read_release`.

    Returns
    -------
    list of str
        A line each; empty if nothing is missing.

    Raises
    ------
    InputError
        A split that no release has.
    """
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise InputError(f"splits {unknown} are unknown; known: {list(SPLITS)}")
    found = find_languages(folder, language)
    if not found:
        return [f"{language}: no folder {Path(folder) / language}"]
    if len(found) > 1:
        return [f"{language}: in several folders, name one: {list(map(str, found))}"]
    needed = [found[0] / f"{split}.tsv" for split in splits]
    lines = [f"{language}: no {path}" for path in needed if not path.is_file()]
    if not (found[0] / "clips").is_dir():
        lines.append(f"{language}: no folder {found[0] / 'clips'}")
    return lines


def read_release(folder, language, splits, summary, domain, where=None):
    """The usable clips of a language.

    Arguments
    ---------
    folder : str or Path
        Holds the language's folder, see :func:`find_languages`.
    language : str
        Its code, e.g. ``sv-SE``.
    splits : sequence of str, or Mapping
        From ``SPLITS``; a mapping gives each the name that it has in the summary.
    summary : hetero_brain.data.corpora.summary.Summary
        Counts what is left out, and why; what is returned is not counted.
    domain : str
        Under which it counts.
    where : dict, optional
        {column: values}: the rows that have one of the values in each column, in any
        case. A field may hold several, parted by ``,`` or ``|``. ``accents`` and
        ``accent`` are one column, with names such as ``England English`` in new
        releases and codes such as ``england`` in old ones.

    Returns
    -------
    dict
        {split: list of :class:`Clip`}, in the order of the table, no clip twice.

    Raises
    ------
    MissingData
        Naming all that is missing.
    InputError
        A split is unknown, or a table has not the columns needed.
    """
    if lines := missing(folder, language, splits):
        raise MissingData("\n".join(lines))
    called = splits if isinstance(splits, Mapping) else {name: name for name in splits}
    root = find_languages(folder, language)[0]
    tables, place = {}, {}  # place: file name → its index among all that are named
    for split in splits:
        tables[split] = _read_table(root / f"{split}.tsv", where or {})
        for name in tables[split].names:
            place.setdefault(name, len(place))

    seconds, fault = _inspect(root, place, language)
    clips = {}
    for split, table in tables.items():
        at = np.fromiter(map(place.__getitem__, table.names), int, len(table.names))
        table.left_out.update(filter(None, map(fault.__getitem__, at)))
        for reason, count in table.left_out.items():
            summary.leave_out(domain, called[split], reason, count)
        columns = (table.names, seconds[at].tolist(), table.speakers, table.sentences)
        usable = [not fault[index] for index in at]
        clips[split] = list(map(Clip._make, compress(zip(*columns), usable)))
    return clips


# ---------------------------------------------------------------------------- tables


class _Table:
    """The rows of a split, column by column, and Counter ``left_out`` of the others."""

    def __init__(self):
        self.names, self.speakers, self.sentences = [], [], []
        self.left_out = Counter()


def _read_table(path, where):
    """Reads one TSV.

    Arguments
    ---------
    path : Path
        UTF-8, with or without byte-order mark or CRLF.
    where : dict
        As for :func:`read_release`.

    Returns
    -------
    _Table
    """
    table, seen, speakers = _Table(), set(), {}
    with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        header = file.readline().rstrip("\r\n").split("\t")
        speaker_at, name_at, sentence_at = (
            _column(header, name, path) for name in ("client_id", "path", "sentence")
        )
        filters = [
            (name, _column(header, name, path), _matcher(values))
            for name, values in where.items()
        ]
        for line in file:
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != len(header):
                if line.strip():
                    table.left_out["row of the wrong length"] += 1
                continue
            client, name = fields[speaker_at], fields[name_at]
            if not (client and name):
                table.left_out["row without clip or speaker"] += 1
                continue
            other = [c for c, index, matches in filters if not matches(fields[index])]
            if other:
                table.left_out[f"other {other[0]}"] += 1
                continue
            if "/" in name:
                name = name.rpartition("/")[2]
            if not name.endswith(".mp3"):  # the first releases
                name += ".mp3"
            if name in seen:
                table.left_out["duplicate"] += 1
                continue
            seen.add(name)
            if client not in speakers:
                speakers[client] = _speaker(client)
            table.names.append(name)
            table.speakers.append(speakers[client])
            table.sentences.append(_unquoted(fields[sentence_at]))
    return table


def _column(header, name, path):
    """The index of a column, under either of its names."""
    for known in (name, ALIASES.get(name)):
        if known in header:
            return header.index(known)
    raise InputError(f"{path}: no column {name!r}; the first line has {header}")


def _matcher(values):
    """Whether a field has one of some values, remembered for each field."""
    values = [values] if isinstance(values, str) else values
    wanted = {value.strip().casefold() for value in values}

    @cache
    def matches(field):
        # A comma in brackets is part of a name: "… South Asia (India, Pakistan)".
        entries = [field, *field.split("|"), *re.split(r"[,|](?![^()]*\))", field)]
        return any(entry.strip().casefold() in wanted for entry in entries)

    return matches


def _speaker(client_id):
    """A shorter name of a speaker, see :class:`Clip`."""
    is_hash = re.fullmatch(r"[0-9a-f]{64,}", client_id)
    return client_id[:16] if is_hash else client_id


def _unquoted(sentence):
    """A sentence less the quotes that a CSV writer put around it and doubled in it."""
    if len(sentence) > 3 and sentence[0] == sentence[-1] == '"':
        inner = sentence[1:-1]
        if '"' in inner and '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return sentence


# ---------------------------------------------------------------------------- clips


def _inspect(root, place, language):
    """Durations of clips, and what is wrong with them.

    Arguments
    ---------
    root : Path
        The language's folder.
    place : dict
        {file name: index}.
    language : str
        For the log.

    Returns
    -------
    seconds : np.ndarray
        float64, shape (clips,).
    fault : list of str or None
        A reason for each clip.
    """
    size = _sizes(root / "clips", place)
    seconds = _durations(root / "clip_durations.tsv", place)
    unknown = np.flatnonzero((size > 0) & ~np.isfinite(seconds))
    headers, cut = [], np.zeros(len(place), bool)
    if len(unknown):
        names = list(place)
        logger.info("%s: %d clips have no duration in a table", language, len(unknown))
        paths = [root / "clips" / names[index] for index in unknown]
        headers = _read_headers(paths, language)
        seconds[unknown] = [header.frames / header.rate for header in headers]
        cut[unknown] = [header.cut for header in headers]
    fault = [None] * len(place)
    for reason, bad in {  # the last that holds is what stays
        "cut short": cut | (size < MIN_BYTE_RATE * seconds),
        "too long": seconds > MAX_SECONDS,
        "too short": seconds <= MIN_SECONDS,
        "empty": size == 0,
        "no file": size < 0,
    }.items():
        for index in np.flatnonzero(bad):
            fault[index] = reason
    for index, header in zip(unknown, headers):
        fault[index] = header.fault or fault[index]
    return seconds, fault


def _sizes(folder, place):
    """Bytes of each file, -1 where there is none, int64, shape (clips,). One pass over
    the folder, which on a disk far away is faster than asking for each by its name."""
    sizes = array("q", [-1]) * len(place)
    with os.scandir(folder) as entries:
        for entry in entries:
            index = place.get(entry.name)
            if index is not None:
                try:
                    sizes[index] = entry.stat().st_size
                except OSError:  # a dead link
                    continue
    return np.frombuffer(sizes, dtype=np.int64) if sizes else np.zeros(0, np.int64)


def _durations(path, place):
    """Seconds of each clip by the table, NaN where it has none, float64, (clips,)."""
    seconds = array("d", [math.nan]) * len(place)
    if path.is_file():
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for line in file:
                name, _, milliseconds = line.partition("\t")
                index = place.get(name)
                if index is not None:
                    try:
                        seconds[index] = float(milliseconds) / 1000
                    except ValueError:
                        continue
    return np.array(seconds, dtype=np.float64)


def _read_headers(paths, language):
    """The ``Header`` of each file, many read at a time; reports how far it is."""
    headers = []
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        for first in range(0, len(paths), HEADERS_A_REPORT):
            headers += pool.map(read_header, paths[first : first + HEADERS_A_REPORT])
            logger.info("%s: %d of %d headers read", language, len(headers), len(paths))
    return headers

"""Reads the corpora of a list of domains into rows of manifests."""

import json
import logging
import os
from collections import defaultdict
from itertools import compress
from pathlib import Path

from ...errors import InputError
from . import commonvoice
from .domain_entries import APART, USES, parts_of
from .domain_rows import Row
from .lhotse_corpora import read_corpus
from .segments import CorpusPart, Segment
from .selection import percent_of_speakers
from .summary import ALL_SPLITS, Summary

logger = logging.getLogger(__name__)


def read_rows(entries, summary):
    """Reads what the entries ask for.

    Arguments
    ---------
    entries : list of dict
        From ``domain_entries.check_entries``.
    summary : Summary
        Counts what cannot be used, and what ``where`` does not select.

    Returns
    -------
    dict
        {use: list of Row} with all of ``USES``; the rows have no words yet.

    Raises
    ------
    InputError
        If a corpus cannot be read, or does not have a value that ``where`` asks for.
    """
    rows = {use: [] for use in USES}
    for entry, parts in _read_entries(entries):
        for use, row in _select(entry, parts, summary):
            rows[use].append(row)
    return rows


def _read_entries(entries):
    """Yields each entry with {part: CorpusPart}, which has at least the parts that it
    uses. A corpus is read once for all of its entries."""
    shared = defaultdict(list)
    for entry in entries:
        where = entry["where"] if entry["corpus"] == "commonvoice" else None
        key = [entry["corpus"], str(entry["folder"]), entry["options"], where]
        shared[json.dumps(key, sort_keys=True, default=str)].append(entry)
    for group in shared.values():
        first = group[0]
        parts = sorted({part for entry in group for part in parts_of(entry)})
        names = ", ".join(entry["name"] for entry in group)
        logger.info("%s: reading %s in %s", names, first["corpus"], first["folder"])
        try:
            if first["corpus"] == "commonvoice":
                found = _read_commonvoice(first, parts)
            else:
                fields = sorted({name for entry in group for name in entry["where"]})
                folder = os.path.abspath(first["folder"])
                found = read_corpus(
                    first["corpus"], folder, parts, first["options"], fields
                )
        except ValueError as error:
            raise InputError(f"domains: {names}: {error}") from error
        for entry in group:
            yield entry, found


def _read_commonvoice(entry, parts):
    """The clips of a CommonVoice language, in the form in which ``read_corpus`` returns
    other corpora."""
    folder, language = os.path.abspath(entry["folder"]), entry["options"]["language"]
    counts = Summary()
    clips = commonvoice.read_release(
        folder, language, parts, counts, "", where=entry["where"]
    )
    wavs = commonvoice.clips_folder(folder, language)
    return {
        part: CorpusPart(
            [
                Segment(
                    Path(clip.name).stem,
                    clip.speaker,
                    clip.sentence,
                    wav=str(wavs / clip.name),
                    seconds=clip.seconds,
                )
                for clip in clips[part]
            ],
            counts.left_out["", part],
        )
        for part in parts
    }


def _select(entry, parts, summary):
    """Yields (use, Row) for what one entry uses of {part: CorpusPart}, and counts the
    rest."""
    # read_release has already applied where to CommonVoice.
    where = {} if entry["corpus"] == "commonvoice" else entry["where"]
    _check_where(entry, where, parts)
    folder = os.path.abspath(entry["folder"])
    destinations = defaultdict(list)  # part → [(domain, split)]
    for use, wanted in entry["splits"].items():
        for part, first, last in wanted:
            tests_several = use == "test" and len(wanted) > 1
            domain = f"{entry['name']}/{part}" if tests_several else entry["name"]
            destinations[part].append((domain, USES[use]))
            for segment in _in_range(parts[part].segments, first, last, entry[APART]):
                other = [n for n, v in where.items() if segment.fields.get(n) not in v]
                problem = f"other {other[0]}" if other else segment.problem
                if problem:
                    summary.leave_out(domain, USES[use], problem)
                    continue
                names = (entry["name"], domain, part, entry["corpus"], folder)
                yield use, Row(segment, *names)
    # What the reader itself left out belongs to a split if only one uses the part.
    for part in {*destinations, *parts} & {*destinations, ""}:
        found = destinations.get(part, [])
        domain, split = found[0] if len(found) == 1 else (entry["name"], ALL_SPLITS)
        for reason, number in parts[part].left_out.items():
            summary.leave_out(domain, split, reason, number)


def _in_range(segments, first, last, apart):
    """The segments of some percent of the speakers, or of some percent of the segments if
    speakers are not kept apart. Each segment without speaker counts as a speaker."""
    if (first, last) == (0, 100):
        return segments
    names = [apart and segment.speaker or segment.id for segment in segments]
    return compress(segments, percent_of_speakers(names, first, last))


def _check_where(entry, where, parts):
    """Raises InputError if no segment has one of the values that are asked for."""
    for name, values in where.items():
        segments = (s for part in parts_of(entry) for s in parts[part].segments)
        existing = {segment.fields.get(name) for segment in segments} - {None}
        if absent := sorted(set(map(str, values)) - set(map(str, existing))):
            shown = sorted(map(str, existing))[:50] or f"no field {name!r}"
            raise InputError(
                f"domains: {entry['name']}: where: no {name} {absent}; there is {shown}"
            )

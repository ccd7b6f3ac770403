"""Selects rows of a list of domains: by speaker, by words and by hours."""

import logging
from collections import Counter, defaultdict
from dataclasses import replace

from ...errors import InputError
from .domain_entries import APART, HELD_OUT, USES
from .selection import HEARD, SPEAKER_HELD_OUT, hours_cap, without_speakers
from .summary import ALL_SPLITS

logger = logging.getLogger(__name__)

HOW_TO_KEEP = """\
Name other parts for dev and test. If all parts have the same speakers, write
keep_speakers_apart: False in the entry to train on them, too. Percents are then of
utterances, and error rates are those of voices heard in training."""


def keep_speakers_apart(entries, rows, summary):
    """Removes speakers of dev and test from the rows that are trained on.

    This concerns the speakers of the same corpus folder, whichever entry has them in dev
    or test. An entry with ``keep_speakers_apart: False`` keeps its rows, and those of
    such speakers are noted.

    Arguments
    ---------
    entries : list of dict
        From ``check_entries``.
    rows : dict
        {use: list of Row}; the lists are replaced.
    summary : Summary
        Counts what is left out.

    Raises
    ------
    InputError
        Naming the entries of which nothing is left to train on because of this. An entry
        of which nothing is left for other reasons gives a warning.
    """
    held_out = defaultdict(set)
    for row in (row for use in HELD_OUT for row in rows[use]):
        held_out[row.folder].add(row.segment.speaker)
    mixed = {entry["name"] for entry in entries if not entry[APART]}
    trained = [use for use in USES if use not in HELD_OUT]
    for use in trained:
        rows[use] = _without_held_out(rows[use], held_out, mixed, summary, USES[use])
    errors = []
    for use in trained:
        errors += _emptied(entries, rows[use], use, summary)
    if errors:
        raise InputError("\n".join(["domains:", *errors, HOW_TO_KEEP]))


def _without_held_out(rows, held_out, mixed, summary, split):
    """The rows of speakers that are not in {folder: speakers of dev and test}, and all
    rows of the entries ``mixed``."""
    kept = []
    for folder, of_folder in _grouped(rows, lambda row: row.folder).items():
        speakers = [row.segment.speaker for row in of_folder]
        mask = without_speakers(speakers, held_out[folder])
        for row, keep in zip(of_folder, mask):
            if not keep and row.entry in mixed:
                row.segment = replace(row.segment, note=row.segment.note or HEARD)
            if keep or row.entry in mixed:
                kept.append(row)
            else:
                summary.leave_out(row.domain, split, SPEAKER_HELD_OUT)
    return kept


def _emptied(entries, rows, use, summary):
    """Lines that name the entries of which nothing is left for a use, since speakers are
    kept apart; logs a warning if there is another reason."""
    found = {row.entry for row in rows}
    lines = []
    for entry in entries:
        name = entry["name"]
        if use in entry["splits"] and name not in found:
            reasons = summary.left_out.get((name, USES[use]), Counter())
            reasons = reasons + summary.left_out.get((name, ALL_SPLITS), Counter())
            why = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
            why = why or "no speaker is in its range of percent"
            line = f"{name}: nothing is left for {use}: {why}"
            if reasons and SPEAKER_HELD_OUT not in reasons:
                logger.warning(line)
            else:
                lines.append(f"  {line}")
    return lines


def with_words(rows, split, summary):
    """The rows that have words; the others are counted in the summary."""
    for row in rows:
        if not row.words:
            summary.leave_out(row.domain, split, row.no_words)
    return [row for row in rows if row.words]


def within_max_hours(rows, entries, use, seed, summary):
    """Limits the rows of each entry to its ``max_hours``.

    Arguments
    ---------
    rows : list of Row
        All rows for this use.
    entries : list of dict
        From ``check_entries``.
    use : str
        From ``USES``.
    seed : int
        Seed of the draw, see ``hours_cap``.
    summary : Summary
        Counts what is left out.

    Returns
    -------
    list of Row
    """
    caps = {entry["name"]: entry["max_hours"].get(use) for entry in entries}
    kept = []
    for name, of_entry in _grouped(rows, lambda row: row.entry).items():
        seconds = [row.segment.seconds for row in of_entry]
        ids = [row.id for row in of_entry]
        for row, keep in zip(of_entry, hours_cap(ids, seconds, caps[name], seed)):
            if keep:
                kept.append(row)
            else:
                summary.leave_out(row.domain, USES[use], "over max_hours")
    return kept


def _grouped(rows, key):
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups

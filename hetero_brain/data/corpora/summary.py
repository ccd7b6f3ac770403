"""What a prepare script reports, and the choices of rows that every corpus needs."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

MAX_ALIGNED = 40
ALL_SPLITS = "all"  # of what cannot be said to be in one
SPEAKER_HELD_OUT = "speaker also in dev or test"
HEARD = "of a speaker of dev or test: error rates are of voices heard in training"


@dataclass
class Total:
    """What one split of a domain has: numbers of utterances, and seconds of audio."""

    utterances: int = 0
    transcribed: int = 0
    seconds: float = 0.0


class Summary:
    """Counts what manifests hold, what they leave out, and why.

    Attributes
    ----------
    totals : dict
        {(domain, split): Total}, in the order of the first mention.
    left_out, without_transcript, notes : dict
        {(domain, split): Counter of reasons}.

    Example
    -------
    >>> summary = Summary()
    >>> summary.add("libri", "pretrain", seconds=5400, transcribed=2, utterances=3)
    >>> summary.untranscribed("libri", "pretrain", "digits")
    >>> summary.leave_out("libri", "pretrain", "unreadable", 2)
    >>> print(summary.table())
    | domain | split    | utterances | transcribed | hours |
    |--------|----------|------------|-------------|-------|
    | libri  | pretrain | 3          | 2           | 1.50  |
    <BLANKLINE>
    | domain | split    | left out     | without transcript |
    |--------|----------|--------------|--------------------|
    | libri  | pretrain | 2 unreadable | 1 digits           |
    """

    def __init__(self):
        self.totals = defaultdict(Total)
        self.left_out = defaultdict(Counter)
        self.without_transcript = defaultdict(Counter)
        self.notes = defaultdict(Counter)

    def add(self, domain, split, seconds, transcribed, utterances=1):
        """Counts rows of a manifest.

        Arguments
        ---------
        domain, split : str
            Whose.
        seconds : float
            Their audio in all.
        transcribed : bool or int
            How many of them have a transcript.
        utterances : int
            How many there are.
        """
        total = self.totals[domain, split]
        total.utterances += int(utterances)
        total.transcribed += int(transcribed)
        total.seconds += float(seconds)

    def leave_out(self, domain, split, reason, count=1):
        """Counts what is not in the manifest, if ``count`` is not 0."""
        if count:
            if split != ALL_SPLITS:  # one of which nothing is left has its line
                self.totals[domain, split]
            self.left_out[domain, split][reason] += int(count)

    def untranscribed(self, domain, split, reason, count=1):
        """Counts rows that are in the manifest without their words, likewise."""
        if count:
            self.without_transcript[domain, split][reason] += int(count)

    def note(self, domain, split, reason, count=1):
        """Counts rows that are in the manifest and unusual, likewise."""
        if count:
            self.notes[domain, split][reason] += int(count)

    def table(self):
        """Two Markdown tables, a line for each split of a domain: what there is, with
        the sum of each split where there are several domains, and, of those that have
        any, what was left out, what has no transcript and what was noted, the most
        frequent reason first."""
        lines = []
        for key in self._in_order(self.totals):
            n = self.totals[key]
            lines.append((*key, n.utterances, n.transcribed, f"{n.seconds / 3600:.2f}"))
        splits = dict.fromkeys(split for _, split in self.totals)
        if len({domain for domain, _ in self.totals}) > 1:
            for split in splits:
                of_split = [n for (_, s), n in self.totals.items() if s == split]
                utterances = sum(n.utterances for n in of_split)
                transcribed = sum(n.transcribed for n in of_split)
                hours = sum(n.seconds for n in of_split) / 3600
                lines.append(("all", split, utterances, transcribed, f"{hours:.2f}"))
        header = ("domain", "split", "utterances", "transcribed", "hours")
        text = markdown(header, lines)

        reasons = {
            "left out": self.left_out,
            "without transcript": self.without_transcript,
            "noted": self.notes,
        }
        used = {title: by_key for title, by_key in reasons.items() if by_key}
        lines = [
            (*key, *(_reasons(by_key.get(key)) for by_key in used.values()))
            for key in self._in_order(key for by_key in used.values() for key in by_key)
        ]
        if lines:
            text += "\n\n" + markdown(("domain", "split", *used), lines)
        return text

    def _in_order(self, keys):
        """Each key once, by domain, then split, as these were first mentioned."""
        known = [*self.totals, *self.left_out, *self.without_transcript, *self.notes]
        domains = list(dict.fromkeys(domain for domain, _ in known))
        splits = list(dict.fromkeys(split for _, split in known))
        domains, splits = (
            {name: at for at, name in enumerate(names)} for names in (domains, splits)
        )
        return sorted(set(keys), key=lambda key: (domains[key[0]], splits[key[1]]))


def _reasons(counter):
    """``3 unreadable, 1 empty``; nothing for None."""
    return ", ".join(
        f"{n} {reason}" for reason, n in (counter or Counter()).most_common()
    )


def markdown(header, lines):
    """A Markdown table from a header and lines of values. Columns are aligned, but for
    what is wider than ``MAX_ALIGNED``."""
    cells = [[str(value).replace("|", "\\|") for value in line] for line in lines]
    widths = [min(MAX_ALIGNED, max(map(len, column))) for column in zip(header, *cells)]
    rule = ["-" * (width + 2) for width in widths]
    table = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |"
        for line in [header, *cells]
    ]
    return "\n".join([table[0], "|" + "|".join(rule) + "|", *table[1:]])


def keyed_hash(seed, purpose, names):
    """A number for each name, the same on every machine and whatever else is there.

    Arguments
    ---------
    seed : int
        Another seed gives independent numbers,
    purpose : str
        as does another purpose.
    names : iterable of str
        What to hash; a million takes about a second.

    Returns
    -------
    np.ndarray
        uint64, shape (names,).
    """
    key = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest()
    hash_ = hashlib.blake2b(key=key, digest_size=8)
    digests = bytearray()
    for name in names:
        one = hash_.copy()
        one.update(name.encode("utf-8", "surrogateescape"))
        digests += one.digest()
    return np.frombuffer(bytes(digests), dtype=">u8").astype(np.uint64)


def hours_cap(ids, durations, hours, seed):
    """Draws rows at random up to some hours.

    A row is drawn by its ID alone: the order of rows does not matter, and a smaller cap
    is part of a larger one.

    Arguments
    ---------
    ids : sequence of str
        IDs of the rows.
    durations : array_like of float, shape (rows,)
        Seconds.
    hours : float or None
        The cap; None keeps all.
    seed : int
        Of the draw.

    Returns
    -------
    np.ndarray
        Mask of the rows to keep, bool, shape (rows,).

    Raises
    ------
    ValueError
        If the cap is not positive.

    Example
    -------
    >>> ids, durations = [f"clip{i}" for i in range(100)], [3600] * 100
    >>> hours_cap(ids, durations, hours=25, seed=1).sum()
    np.int64(25)
    """
    if hours is None:
        return np.ones(len(ids), bool)
    if not hours > 0:
        raise ValueError(f"a cap must be more than 0 hours, not {hours!r}")
    order = np.argsort(keyed_hash(seed, "hours", ids), kind="stable")
    kept = np.zeros(len(ids), bool)
    total = np.cumsum(np.asarray(durations, np.float64)[order])
    kept[order[total <= hours * 3600]] = True
    return kept


def without_speakers(speakers, held_out):
    """Rows of a training split whose speakers are not in dev or test.

    Arguments
    ---------
    speakers : iterable of str
        The speaker of each row; one who is not known is "" and is kept.
    held_out : collection of str
        Speakers of dev and test.

    Returns
    -------
    np.ndarray
        Mask of the rows to keep, bool, shape (rows,). Count the others under
        ``SPEAKER_HELD_OUT``.
    """
    held_out = set(held_out) - {""}
    return np.array([speaker not in held_out for speaker in speakers], bool)

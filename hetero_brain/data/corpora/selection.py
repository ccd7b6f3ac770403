"""Choices of utterances that every corpus needs: by hours, by speaker, and for dev.

Random choices depend on a hash of a name alone, so that they are the same on every
machine, in any order of rows, and whatever other rows there are.
"""

import hashlib
import os
from collections import Counter

import numpy as np

SPEAKER_HELD_OUT = "speaker also in dev or test"
LARGE = 0.05  # of a domain's audio; what is larger is not held out as a whole
HEARD = "of a speaker of dev or test: error rates are of voices heard in training"


def keyed_hash(seed, purpose, names):
    """A number for each name, the same on every machine and whatever other names follow.

    Arguments
    ---------
    seed : int
        Different seeds give independent numbers.
    purpose : str
        Different purposes give independent numbers, too.
    names : iterable of str
        What to hash; a million names take about a second.

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
    """Draws rows at random until they have a number of hours.

    Whether a row is drawn does not depend on the order of the rows, and the rows for a
    smaller cap are among those for a larger one.

    Arguments
    ---------
    ids : sequence of str
        IDs of the rows.
    durations : array_like of float, shape (rows,)
        Seconds.
    hours : float or None
        The cap; None keeps all rows.
    seed : int
        Seed of the draw.

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


def percent_of_speakers(speakers, first, last):
    """Selects the rows of some percent of the speakers.

    Ranges that do not overlap, such as 0 to 90 and 90 to 100, split a corpus without a
    speaker on both sides.

    Arguments
    ---------
    speakers : iterable of str
        The speaker of each row.
    first, last : int
        The range, 0 to 100; ``last`` is not part of it.

    Returns
    -------
    np.ndarray
        Mask of the rows to keep, bool, shape (rows,).

    Example
    -------
    >>> percent_of_speakers(["ann", "bob", "ann"], 0, 50)
    array([False,  True, False])
    """
    percent = keyed_hash(0, "speaker", speakers) % 100
    return (percent >= first) & (percent < last)


def without_speakers(speakers, held_out):
    """Selects the rows of a training split whose speakers are not in dev or test.

    Arguments
    ---------
    speakers : iterable of str
        The speaker of each row; rows of an unknown speaker, "", are kept.
    held_out : collection of str
        The speakers of dev and test.

    Returns
    -------
    np.ndarray
        Mask of the rows to keep, bool, shape (rows,). Count the others under
        ``SPEAKER_HELD_OUT``.
    """
    held_out = set(held_out) - {""}
    return np.array([speaker not in held_out for speaker in speakers], bool)


def held_out(names, seconds, fraction):
    """Chooses recordings for dev, by the folder of each, or by its name if its folder is
    :data:`LARGE`.

    The choice stays when files are added, except at the edges: a folder may cease to be
    large, and the domain's first ones may be too few at last. At least one recording is
    held out, one is not, and none is that is itself large, if there are others.

    Arguments
    ---------
    names : sequence of str
        Paths within a domain.
    seconds : np.ndarray
        Durations, shape (names,).
    fraction : float
        Expected share of the audio, which has at least half of it; 0: none at all.

    Returns
    -------
    np.ndarray
        Mask of the recordings for dev, bool, shape (names,).

    Example
    -------
    >>> names = [f"speaker{i // 10}/{i}.wav" for i in range(1000)]
    >>> dev = held_out(names, np.ones(1000), 0.02)
    >>> sorted({name.split("/")[0] for name, held in zip(names, dev) if held})
    ['speaker9']
    """
    if not fraction:
        return np.zeros(len(names), bool)
    large, totals = max(LARGE, fraction) * seconds.sum(), Counter()
    for name, duration in zip(names, seconds):
        totals[os.path.dirname(name)] += duration
    folders = map(os.path.dirname, names)
    units = (f if totals[f] <= large else name for f, name in zip(folders, names))
    draw = keyed_hash(0, "dev", units) / 2.0**64 + (seconds > large)
    order = np.argsort(draw, kind="stable")
    enough = np.cumsum(seconds[order]) >= fraction / 2 * seconds.sum()
    # The last one for dev; a large one only if all are.
    last = min(draw[order[enough.argmax()]], max(1, draw.min()))
    dev = draw <= max(fraction, last)
    return dev & (draw < draw.max()) if dev.all() else dev

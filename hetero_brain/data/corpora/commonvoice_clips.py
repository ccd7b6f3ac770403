"""Durations of Common Voice's clips, and checks of their files.

Opening a million mp3 files takes hours. Therefore only the clips for which
``clip_durations.tsv`` has no usable duration are opened, and of these only the ones whose
header does not state their duration are decoded. Of all others just the name and the size
are checked. A file that is cut short but still has ``MIN_BYTE_RATE`` is only found when
it is read in training (``hetero_brain.data.audio.read_audio``).
"""

import logging
import math
import os
from array import array
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .headers import read_header

logger = logging.getLogger(__name__)

MIN_SECONDS, MAX_SECONDS = 0.1, 60.0
MIN_BYTE_RATE = 1000  # bytes a second of mp3 at its lowest bit rate, 8 kbit/s
HEADER_THREADS = 16  # more than there are cores: on a network disk they mostly wait
HEADERS_A_REPORT = 20_000


def inspect_clips(root, positions, language):
    """Finds the durations of clips, and those that cannot be used.

    Arguments
    ---------
    root : Path
        The language's folder.
    positions : dict
        {name of a file in ``clips/``: its index in what is returned}.
    language : str
        The code of the language, for the log.

    Returns
    -------
    seconds : np.ndarray
        float64, shape (clips,).
    problems : list of str or None
        For each clip the reason why it cannot be used, or None.
    """
    size = _sizes(root / "clips", positions)
    seconds = _durations(root / "clip_durations.tsv", positions)
    unknown = np.flatnonzero((size > 0) & ~np.isfinite(seconds))
    headers, cut = [], np.zeros(len(positions), bool)
    if len(unknown):
        names = list(positions)
        logger.info("%s: %d clips have no duration in a table", language, len(unknown))
        paths = [root / "clips" / names[index] for index in unknown]
        headers = _read_headers(paths, language)
        seconds[unknown] = [header.frames / header.rate for header in headers]
        cut[unknown] = [header.cut for header in headers]
    problems = [None] * len(positions)
    for reason, affected in {  # if several apply, the last one stays
        "cut short": cut | (size < MIN_BYTE_RATE * seconds),
        "too long": seconds > MAX_SECONDS,
        "too short": seconds <= MIN_SECONDS,
        "empty": size == 0,
        "no file": size < 0,
    }.items():
        for index in np.flatnonzero(affected):
            problems[index] = reason
    for index, header in zip(unknown, headers):
        problems[index] = header.problem or problems[index]
    return seconds, problems


def _sizes(folder, positions):
    """Size of each file in bytes, -1 if it does not exist; int64, shape (clips,).

    On a network disk, listing the folder once is faster than looking up each name.
    """
    sizes = array("q", [-1]) * len(positions)
    with os.scandir(folder) as entries:
        for entry in entries:
            index = positions.get(entry.name)
            if index is not None:
                try:
                    sizes[index] = entry.stat().st_size
                except OSError:  # a dead link
                    continue
    return np.frombuffer(sizes, dtype=np.int64) if sizes else np.zeros(0, np.int64)


def _durations(path, positions):
    """Seconds of each clip by the table, NaN if it has none; float64, shape (clips,)."""
    seconds = array("d", [math.nan]) * len(positions)
    if path.is_file():
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for line in file:
                name, _, milliseconds = line.partition("\t")
                index = positions.get(name)
                if index is not None:
                    try:
                        seconds[index] = float(milliseconds) / 1000
                    except ValueError:
                        continue
    return np.array(seconds, dtype=np.float64)


def _read_headers(paths, language):
    """The ``Header`` of each file, many read at a time; logs the progress."""
    headers = []
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        for first in range(0, len(paths), HEADERS_A_REPORT):
            headers += pool.map(read_header, paths[first : first + HEADERS_A_REPORT])
            logger.info("%s: %d of %d headers read", language, len(headers), len(paths))
    return headers

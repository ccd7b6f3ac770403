"""Finds the audio in folders, and reads its headers, many at a time."""

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from tqdm import tqdm

from ...errors import InputError
from ..manifest.reading import PLAUSIBLE
from ..recordings import audio_below
from .headers import Header, read_header
from .summary import in_words

SHORTEST = 0.1  # seconds of a recording that can be used
THREADS = 8  # more than there are cores: on a network disk they mostly wait
BATCH = 512  # files between two reports of the progress


class Recording(NamedTuple):
    """A file ``name`` below ``folder``, of so many frames at so many Hz."""

    folder: str
    name: str
    frames: int
    rate: int


def check_apart(folders):
    """Raise an InputError unless all folders exist and none is in another one."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise InputError(f"{folder}: no such folder")
    real = sorted(os.path.join(os.path.realpath(folder), "") for folder in folders)
    for outer, inner in zip(real, real[1:]):
        if inner.startswith(outer):
            where = "is given twice" if inner == outer else f"is in {outer}"
            raise InputError(f"{inner} {where}; each recording has one domain")


def read_folders(domain, folders):
    """Read the headers of all audio in some folders.

    Arguments
    ---------
    domain : str
        Its name, for messages.
    folders : list of str

    Returns
    -------
    recordings : list of Recording
        Those that can be used.
    left_out : Counter
        Reason → number of other files; each is named on stderr.

    Raises
    ------
    InputError
        If there are none that can be used.
    """
    files = []
    for folder in folders:
        found = [(folder, name) for name in audio_below(folder)]
        found or print(f"{folder}: no audio files", file=sys.stderr)
        files += found
    recordings, left_out = [], Counter()
    bar = tqdm(total=len(files), desc=domain, unit=" files", disable=None)
    with bar, ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(files), BATCH):
            batch = files[first : first + BATCH]
            paths = [os.path.join(*file) for file in batch]
            # All of them before a word is printed: a thread may have redirected stderr.
            headers = list(pool.map(examine, paths))
            bar.update(len(batch))
            for file, path, header in zip(batch, paths, headers):
                if header.problem:
                    left_out[header.problem] += 1
                    text = f"{path!r} is left out: {header.problem}"
                    tqdm.write(text, file=sys.stderr)
                else:
                    recordings.append(Recording(*file, header.frames, header.rate))
    if not recordings:
        reasons = in_words(left_out) or "no audio files"
        where = ", ".join(folders)
        raise InputError(f"{domain}: nothing can be used in {where}: {reasons}")
    return recordings, left_out


def examine(path):
    """As :func:`read_header`; ``problem`` also says why a manifest cannot have a file."""
    if {"\n", "\r"} & {*path} or path != path.encode(errors="replace").decode():
        return Header(problem="line break in its name, or not UTF-8")
    header = read_header(path)
    if not header.problem and not PLAUSIBLE[0] <= header.rate <= PLAUSIBLE[1]:
        return replace(header, problem=f"{header.rate} Hz")
    if not header.problem and header.frames < SHORTEST * header.rate:
        return replace(header, problem="too short")
    return header

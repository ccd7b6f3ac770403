"""Manifests of unlabelled audio in folders, for pre-training."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import manifest
from .folders import check_apart, read_folders
from .selection import held_out
from .summary import in_words, markdown


@dataclass
class Domain:
    """What was found in the folders of a domain.

    Attributes
    ----------
    name : str
    recordings : list of Recording
        All that can be used.
    left_out : Counter
        Reason → number of other files.
    dev : np.ndarray
        Which recordings are held out, bool.
    """

    name: str
    recordings: list
    left_out: Counter
    dev: np.ndarray

    def rows(self, dev, window_seconds, root):
        """Yield the rows of dev or of train; see :func:`make_manifests`."""
        shared = os.path.commonpath({one.folder for one in self.recordings})
        for (folder, name, frames, rate), held in zip(self.recordings, self.dev):
            if held != dev:
                continue
            path = os.path.join(folder, name)
            id_ = f"{self.name}/{os.path.relpath(path, shared)}"
            if path.startswith(root):
                path = f"{{data_root}}/{path[len(root) :]}"
            row = {"ID": id_, "duration": frames / rate, "wav": path}
            row["domain"] = self.name
            cuts = windows(frames, int(window_seconds * rate))
            if len(cuts) == 2:
                yield row
                continue
            for start, stop in zip(cuts, cuts[1:]):
                part = {"ID": f"{id_}/{start}", "duration": (stop - start) / rate}
                yield {**row, **part, "start": start, "stop": stop}

    def line(self):
        """Its line of the table."""
        hours = np.array([one.frames / one.rate for one in self.recordings]) / 3600
        rates = sorted({one.rate / 1000 for one in self.recordings})
        size = f"{hours.sum():.2f}", len(hours), f"{hours[self.dev].sum():.2f}"
        khz = ", ".join(f"{rate:g}" for rate in rates)
        return self.name, *size, int(self.dev.sum()), khz, in_words(self.left_out)


def make_manifests(output, folders, dev_fraction=0.02, window_seconds=12):
    """Write ``train.csv`` and ``dev.csv`` of all audio below some folders.

    Longer recordings than a window are divided into the fewest equal parts that are not.
    Nothing is written unless all domains have audio.

    Arguments
    ---------
    output : str or Path
        Folder of the manifests. Audio below it has paths with ``{data_root}``; other
        paths are absolute.
    folders : dict
        Domain → list of its folders.
    dev_fraction : float
        About what share of a domain's audio goes to dev: see
        :func:`~hetero_brain.data.corpora.selection.held_out`.
    window_seconds : float
        The longest row.

    Returns
    -------
    str
        A table of what was found.

    Raises
    ------
    InputError
        A folder does not exist or is within another one, or a domain has no audio that
        can be used.
    """
    folders = {name: [*map(os.path.abspath, some)] for name, some in folders.items()}
    check_apart([folder for some in folders.values() for folder in some])
    domains = [read_domain(*item, dev_fraction) for item in folders.items()]
    root = os.path.join(os.path.abspath(output), "")

    def rows(dev):
        for domain in domains:
            yield from domain.rows(dev, window_seconds, root)

    manifest.write_if_any(Path(output, "dev.csv"), rows(True))
    manifest.write(Path(output, "train.csv"), rows(False))
    header = "domain", "hours", "files", "dev hours", "dev files", "kHz", "left out"
    return markdown(header, [domain.line() for domain in domains])


def read_domain(name, folders, dev_fraction):
    """The :class:`Domain` of some folders."""
    recordings, left_out = read_folders(name, folders)
    seconds = np.array([one.frames / one.rate for one in recordings])
    dev = held_out([one.name for one in recordings], seconds, dev_fraction)
    return Domain(name, recordings, left_out, dev)


def windows(frames, longest):
    """Where to cut a recording into the fewest parts of at most ``longest`` frames.

    Example
    -------
    >>> windows(16000, 16000), windows(16001, 8000)
    ([0, 16000], [0, 5333, 10667, 16001])
    """
    n_parts = -(-frames // longest)
    return [frames * part // n_parts for part in range(n_parts + 1)]

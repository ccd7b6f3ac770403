"""Mozilla Common Voice: any release and any language of scripted speech.

The folder of a language, such as ``cv-corpus-17.0-2024-03-15/sv-SE``, holds:

======================  =====================================================
file                    contents
======================  =====================================================
``train.tsv``, …        the clips of a split, one a line
``clips/*.mp3``         the audio
``clip_durations.tsv``  milliseconds of each clip; absent from old releases
======================  =====================================================

``commonvoice_tables`` reads the tables, ``commonvoice_clips`` checks the audio. A clip is
left out for the first of these reasons that applies:

=================================  ==========================================
reason                             when
=================================  ==========================================
``row of the wrong length``        fewer or more fields than the header
``row without clip or speaker``    no ``path`` or no ``client_id``
``other COLUMN``                   not selected by ``where``
``duplicate``                      an earlier row of this split has the clip
``no file``                        no file of this name, or a dead link
``empty``                          a file of 0 bytes
``unreadable``                     no duration in the table, and no audio
``too short``, ``too long``        not within ``MIN_SECONDS``, ``MAX_SECONDS``
``cut short``                      fewer bytes than mp3 needs for the duration
                                   in the table, or than its own header states
=================================  ==========================================
"""

from collections.abc import Mapping
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import InputError, MissingData, meant
from .commonvoice_clips import inspect_clips
from .commonvoice_tables import read_table

SPLITS = ("train", "dev", "test", "validated", "other", "invalidated")


class Clip(NamedTuple):
    """A clip that can be used.

    Attributes
    ----------
    name : str
        Name of its file in ``clips/``.
    seconds : float
        Its duration.
    speaker : str
        The first 16 of the 128 digits of the hash ``client_id``: among a million
        speakers, the probability that any two share them is 3e-8. A ``client_id`` that
        is no such hash is kept as it is.
    sentence : str
        The sentence that the speaker was asked to read, as the table has it.
    """

    name: str
    seconds: float
    speaker: str
    sentence: str


def find_languages(folder, language):
    """The folders of a language: ``folder/language``, ``folder`` itself if that is its
    name, and ``folder/cv-corpus-*/language``. A list of Path, normally of one."""
    folder = Path(folder)
    candidates = [folder / language, *sorted(folder.glob(f"cv-corpus-*/{language}"))]
    if folder.resolve().name == language:
        candidates.append(folder)
    return [path for path in candidates if path.is_dir()]


def clips_folder(folder, language):
    """The folder with the file of each ``Clip.name``. Requires that :func:`missing`
    returns nothing."""
    return find_languages(folder, language)[0] / "clips"


def missing(folder, language, splits):
    """What a language lacks, so that one error can list it for all languages.

    Arguments
    ---------
    folder, language, splits
        As for :func:`read_release`.

    Returns
    -------
    list of str
        A line for each missing file or folder; empty if nothing is missing.

    Raises
    ------
    InputError
        If no release has one of the splits.
    """
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise InputError(f"splits {unknown} are unknown; known: {list(SPLITS)}")
    folder = Path(folder)
    found = find_languages(folder, language)
    if not found:
        tables = [*folder.glob("*/*.tsv"), *folder.glob("cv-corpus-*/*/*.tsv")]
        near = meant([language], {path.parent.name for path in tables})
        return [f"{language}: no folder {folder / language}{near}"]
    if len(found) > 1:
        return [f"{language}: in several folders, name one: {list(map(str, found))}"]
    needed = [found[0] / f"{split}.tsv" for split in splits]
    lines = [f"{language}: no {path}" for path in needed if not path.is_file()]
    if not (found[0] / "clips").is_dir():
        lines.append(f"{language}: no folder {found[0] / 'clips'}")
    return lines


def read_release(folder, language, splits, summary, domain, where=None):
    """Reads the clips of a language that can be used.

    Arguments
    ---------
    folder : str or Path
        The folder that holds the language's folder, see :func:`find_languages`.
    language : str
        The code of the language, e.g. ``sv-SE``.
    splits : sequence of str, or Mapping
        Names from ``SPLITS``; a mapping gives the name of each in the summary.
    summary : hetero_brain.data.corpora.summary.Summary
        Counts the clips that are left out, by reason; the others are not counted.
    domain : str
        The domain under which they are counted.
    where : dict, optional
        {column: values}: keeps the rows that have one of these values in each column,
        in upper or lower case. A field may hold several values, separated by ``,`` or
        ``|``. ``accents`` and ``accent`` name the same column; its values are names
        such as ``England English`` in new releases and codes such as ``england`` in
        old ones.

    Returns
    -------
    dict
        {split: list of :class:`Clip`}, each clip once, in the order of the table.

    Raises
    ------
    MissingData
        If files or folders are missing; the message lists all of them.
    InputError
        If a split is unknown or a table lacks a column.
    """
    if lines := missing(folder, language, splits):
        raise MissingData("\n".join(lines))
    names = splits if isinstance(splits, Mapping) else {name: name for name in splits}
    root = find_languages(folder, language)[0]
    tables = {split: read_table(root / f"{split}.tsv", where or {}) for split in splits}
    positions = {}  # name of a file → its index among all the clips of these splits
    for table in tables.values():
        for name in table.names:
            positions.setdefault(name, len(positions))

    seconds, problems = inspect_clips(root, positions, language)
    clips = {}
    for split, table in tables.items():
        n_rows = len(table.names)
        index = np.fromiter(map(positions.__getitem__, table.names), int, n_rows)
        table.left_out.update(filter(None, map(problems.__getitem__, index)))
        for reason, count in table.left_out.items():
            summary.leave_out(domain, names[split], reason, count)
        columns = (
            table.names,
            seconds[index].tolist(),
            table.speakers,
            table.sentences,
        )
        usable = [not problems[clip] for clip in index]
        clips[split] = list(map(Clip._make, compress(zip(*columns), usable)))
    return clips

"""Rows of manifests, before they are written."""

import os
from dataclasses import dataclass

from .. import manifest
from .segments import Segment


@dataclass(slots=True)
class Row:
    """A segment that is to become a row of a manifest.

    Attributes
    ----------
    segment : Segment
        The utterance.
    entry : str
        Name of the entry of the list ``domains`` that selects it.
    domain : str
        Its domain: the entry, or ``entry/part`` if the entry tests several parts.
    part : str
        The part of the corpus to which it belongs.
    corpus, folder : str
        The corpus, and its folder.
    words : str
        Its words; "" if they are not known.
    no_words : str or None
        Why its words are not known.
    """

    segment: Segment
    entry: str
    domain: str
    part: str
    corpus: str
    folder: str
    words: str = ""
    no_words: str | None = None

    @property
    def id(self):
        """Unique in a manifest, even if several parts of a corpus have the same IDs."""
        return f"{self.entry}/{self.part}/{self.segment.id}"


def write_rows(path, rows, data_root, summary):
    """Writes one manifest if there are rows for it, and counts them.

    Arguments
    ---------
    path : Path
        The manifest; its stem is the name of the split.
    rows : list of Row
        With their words.
    data_root : str or Path
        ``{data_root}`` in the manifest. Files outside of it, or all files if it is "",
        have absolute paths.
    summary : Summary
        Counts the rows.
    """
    root = os.path.join(os.path.abspath(data_root), "") if data_root else None
    has_channels = any(row.segment.channel is not None for row in rows)
    columns = (*manifest.COLUMNS, "channel") if has_channels else manifest.COLUMNS

    def counted():
        for row in rows:
            fields = _fields(row, root)
            summary.add_row(path.stem, fields, row.no_words, row.segment.note)
            yield {column: fields[column] for column in columns}

    manifest.write_if_any(path, counted(), columns)


def _fields(row, root):
    """All fields of a row of a manifest."""
    segment, wav = row.segment, row.segment.wav
    if root and wav.startswith(root):
        wav = "{data_root}/" + wav[len(root) :]
    return {
        "ID": row.id,
        "duration": segment.seconds,
        "wav": wav,
        "start": segment.start,
        "stop": segment.stop,
        "domain": row.domain,
        "spk_id": segment.speaker,
        "wrd": row.words,
        "channel": segment.channel,
    }

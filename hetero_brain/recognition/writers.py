"""Transcripts as lines of JSON, as a table, as plain text and as subtitles."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

from ..data.recordings import file_names
from ..errors import InputError
from ..training.files import replacing, write_atomically


def jsonl(transcript):
    """A line of JSON; times in seconds, to the millisecond."""
    rounded = {
        key: [{k: _rounded(v) for k, v in part.items()} for part in value]
        if isinstance(value, list)
        else _rounded(value)
        for key, value in transcript.items()
    }
    return json.dumps(rounded, ensure_ascii=False) + "\n"


def _rounded(value):
    return round(value, 3) if isinstance(value, float) else value


def tsv(transcript):
    """A line for each segment: recording, start and end in seconds, text."""
    return "".join(
        f"{transcript['id']}\t{s['start']:.3f}\t{s['end']:.3f}\t{s['text']}\n"
        for s in transcript["segments"]
    )


def txt(transcript):
    """The text of a recording on a line."""
    return f"{transcript['text']}\n"


def srt(transcript):
    """Subtitles, as SubRip has them."""
    return "\n".join(
        f"{i}\n{clock(s['start'])} --> {clock(s['end'])}\n{s['text']}\n"
        for i, s in enumerate(transcript["segments"], start=1)
    )


def clock(seconds):
    """A time as SubRip writes it.

    Example
    -------
    >>> clock(3600.5), clock(7383.25)
    ('01:00:00,500', '02:03:03,250')
    """
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"


FORMATS = {"jsonl": jsonl, "tsv": tsv, "txt": txt, "srt": srt}


def check_output(path, kind, recordings):
    """Check where transcripts are to go, before anything is recognised.

    Arguments
    ---------
    path : str
        A file, or for ``srt`` a folder; None: stdout.
    kind : str
        One of ``FORMATS``.
    recordings : Recordings
        What is to be transcribed.

    Returns
    -------
    dict or None
        Of a folder: ID of a recording → name of its file.

    Raises
    ------
    InputError
        The folder of the file is missing, or several recordings would share a file of
        subtitles.
    """
    several = kind == "srt" and sum(1 for _ in recordings) > 1
    if several and path and not Path(path).suffix:
        Path(path).mkdir(parents=True, exist_ok=True)
    if kind == "srt" and path and Path(path).is_dir():
        return file_names(recordings, ".srt")
    if several:
        raise InputError(
            "srt: several recordings cannot share a file of subtitles; give an "
            "existing folder as --output_file"
        )
    if path and Path(path).is_dir():
        raise InputError(f"--output_file: {path} is a folder")
    if path and not Path(path).parent.is_dir():
        raise InputError(f"--output_file: there is no folder {Path(path).parent}")
    return None


@contextmanager
def writing(path, kind, names=None):
    """A function that writes a transcript, to where :func:`check_output` has checked.

    A file appears when all of it is written; until then, what there is of it is in
    ``unfinished.<name>`` beside it.

    Arguments
    ---------
    path, kind
        As for :func:`check_output`.
    names : dict
        What that has returned.

    Yields
    ------
    callable
        Takes a transcript: a dict with ``id``, ``text`` and ``segments``.
    """
    text = FORMATS[kind]
    if names:
        yield lambda one: write_atomically(
            Path(path) / names[one["id"]], text(one).encode()
        )
    elif path:
        with replacing(path) as file:
            yield lambda one: _write(file, text(one))
    else:
        yield lambda one: _write(sys.stdout, text(one))


def _write(file, text):
    file.write(text)
    file.flush()

"""Recordings that a command line names: files, folders, patterns, lists, manifests."""

import glob
import logging
import os
import sys
from collections import Counter
from itertools import chain

import soundfile

from ..errors import InputError
from . import manifest

logger = logging.getLogger(__name__)

# Of the files in a folder that are taken for audio; a file named by itself may have any.
SUFFIXES = (
    ".aac .aif .aifc .aiff .au .caf .flac .m4a .mp3 .mp4 .oga .ogg .opus .rf64 .snd .sph"
    " .w64 .wav .webm"
).split()
CHANNELS = ("mean", "each")


def add_arguments(parser):
    """Add the options that say which recordings a command reads, and how.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Its results are taken by :func:`recordings`.
    """
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="audio file in any format that libsndfile or ffmpeg reads, folder of such "
        "files, pattern with *, ? or **, or - for a list of these, one a line, on stdin",
    )
    parser.add_argument(
        "--manifest",
        metavar="CSV",
        help="recordings or parts of them, with the columns "
        f"{','.join(manifest.COLUMNS)}; wrd may be empty, and times count from start",
    )
    parser.add_argument(
        "--data_root",
        default="",
        metavar="FOLDER",
        help="what {data_root} in a manifest stands for",
    )
    parser.add_argument(
        "--channels",
        choices=CHANNELS,
        default="mean",
        help="average the channels of a file, or treat each as a recording",
    )
    parser.add_argument(
        "--device", default="cpu", help="such as cuda:0; default: %(default)s"
    )
    parser.add_argument(
        "--batch_seconds",
        type=positive,
        default=120,
        help="audio in a batch; more is faster on a GPU, but takes more memory; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--window_seconds",
        type=positive,
        default=30,
        help="longer recordings are read in parts of this length; default: %(default)s",
    )


def positive(text):
    """A positive number, for argparse."""
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


class Recordings:
    """Rows of recordings, in the order in which a command line names them.

    Arguments
    ---------
    files : list of dict
        Whole files.
    manifest : Manifest
        Or None.
    each_channel : bool
        A file with several channels is several recordings, unless its row names one.
    """

    def __init__(self, files, manifest=None, each_channel=False):
        self.files, self.manifest, self.each = files, manifest, each_channel

    def __len__(self):
        return len(self.files) + len(self.manifest or ())

    def __iter__(self):
        for row in chain(self.files, self.manifest or ()):
            yield from of_channels(row) if self.each else [row]

    def seconds(self):
        """Their duration as their headers and manifest state it, for a progress bar."""
        total = 0 if self.manifest is None else float(self.manifest.duration.sum())
        for row in self.files:
            try:
                total += soundfile.info(row["wav"]).duration
            except (OSError, RuntimeError):  # of libsndfile; reading will report it
                continue
        return total


def recordings(args):
    """The recordings of a command line.

    Arguments
    ---------
    args : argparse.Namespace
        With the options of :func:`add_arguments`.

    Returns
    -------
    Recordings
        Rows as of a manifest. ``ID`` of a file is its path, and ``wrd`` is empty.

    Raises
    ------
    InputError
        A pattern or a folder has no files, or the manifest is wrong. Single files are
        looked at when they are read.
    """
    words = []
    for word in args.files:
        words += filter(None, map(str.strip, sys.stdin)) if word == "-" else [word]
    files = [row_of(path) for word in words for path in paths(word)]
    if not files and not args.manifest:
        raise InputError("no recordings: give files, folders, patterns or --manifest")
    if args.manifest and os.path.isfile(args.manifest) and not args.data_root:
        with open(args.manifest, encoding="utf-8") as file:
            if any("{data_root}" in line for line in file):
                raise InputError(
                    f"{args.manifest}: give --data_root, which its paths begin with"
                )
    rows = args.manifest and manifest.read(
        args.manifest, args.data_root, check_files=False
    )
    return Recordings(files, rows or None, args.channels == "each")


def paths(word):
    """Paths that a word of the command line means; see :func:`recordings`."""
    if os.path.isdir(word):
        found = audio_below(word)
        if not found:
            raise InputError(f"{word}: no audio files in it; they end in {SUFFIXES}")
        return [os.path.join(word, name) for name in found]
    if os.path.exists(word) or not glob.has_magic(word):
        return [word]
    found = sorted(p for p in glob.glob(word, recursive=True) if os.path.isfile(p))
    if not found:
        raise InputError(f"{word}: no such files")
    return found


def audio_below(folder):
    """Paths, within a folder, of the audio files in it and in all folders below.

    Links to folders are not followed. A warning names each folder that cannot be read.
    """

    def warn(error):
        logger.warning("%s is left out: %s", error.filename, error.strerror)

    found = []
    for path, _, names in os.walk(folder, onerror=warn):
        start = os.path.relpath(path, folder)
        names = [n for n in names if os.path.splitext(n)[1].lower() in SUFFIXES]
        found += [os.path.normpath(os.path.join(start, name)) for name in names]
    return sorted(found)


def row_of(path):
    """The row of a whole file."""
    empty = dict.fromkeys(("duration", "start", "stop"))
    return {"ID": path, "wav": path, **empty, "domain": "", "spk_id": "", "wrd": ""}


def of_channels(row):
    """A row for each channel, ``ID:channel``; the row itself if there is only one."""
    # It imports torch, which the help of a command can spare.
    from .audio import AudioFile, BadAudio

    try:
        with AudioFile(row["wav"]) as file:
            n_channels = file.channels
    except (OSError, BadAudio):
        n_channels = 1  # reading will report it
    if n_channels == 1 or row.get("channel") is not None:
        return [row]
    return [
        {**row, "ID": f"{row['ID']}:{channel}", "channel": channel}
        for channel in range(n_channels)
    ]


def file_names(rows, suffix):
    """A name for what is written about each recording, whose file has a suffix.

    It is the ``ID``, or of a file its path within the folder that all files are in, with
    ``_`` for ``/`` and without the ending, unless two files differ in nothing else.

    Arguments
    ---------
    rows : Recordings
    suffix : str

    Returns
    -------
    dict
        ID → name.

    Raises
    ------
    InputError
        A recording is given twice, or two would have the same name.

    Example
    -------
    >>> talks = ["talks/may/1.wav", "talks/june/1.wav", "talks/june/1.mp3"]
    >>> [*file_names(Recordings([row_of(talk) for talk in talks]), ".srt").values()]
    ['may_1.srt', 'june_1.wav.srt', 'june_1.mp3.srt']
    """
    paths = [row["wav"] for row in rows.files]
    shared = os.path.commonprefix([path.split("/")[:-1] for path in paths])
    files = Recordings(rows.files, each_channel=rows.each)
    others = Recordings([], rows.manifest, rows.each)
    keys = [(row["ID"], "/".join(row["ID"].split("/")[len(shared) :])) for row in files]
    keys += [(row["ID"], row["ID"]) for row in others]
    short = [file_name(path, suffix) for _, path in keys]
    counts = Counter(short)
    names = [
        file_name(path, suffix, with_ending=counts[name] > 1)
        for (_, path), name in zip(keys, short)
    ]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{twice[0]} would be written twice; rename a recording")
    return {key: name for (key, _), name in zip(keys, names)}


def file_name(key, suffix, with_ending=False):
    """A name for what is written about the recording ``key``.

    Example
    -------
    >>> file_name("talks/monday.wav", ".srt"), file_name("it/vm-hello:0", ".npy")
    ('talks_monday.srt', 'it_vm-hello.0.npy')
    """
    path, colon, channel = key.rpartition(":")
    path, channel = (path, f".{channel}") if channel.isdecimal() else (key, "")
    stem, ending = os.path.splitext(path)
    if with_ending or ending.lower() not in SUFFIXES:
        stem = path
    return stem.strip("/").replace("/", "_") + channel + suffix

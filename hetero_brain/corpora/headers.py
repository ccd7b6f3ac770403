"""Headers of audio files, read without decoding."""

from dataclasses import dataclass
from pathlib import Path

import soundfile

SHORTEN = "shorten-compressed SPHERE: convert with sph2pipe -f wav"


@dataclass(frozen=True, slots=True)
class Header:
    """What an audio file has.

    Attributes
    ----------
    frames : int
        Samples of each channel.
    rate : int
        Hz.
    channels : int
        How many.
    fault : str
        Why the file is of no use, or "".
    cut : bool
        Whether it has fewer samples than its header says: good up to its end.
    """

    frames: int = 0
    rate: int = 1
    channels: int = 0
    fault: str = ""
    cut: bool = False


def read_header(path):
    """Reads a header, and the last sample, which a file that was cut does not have.

    Arguments
    ---------
    path : str or Path
        What libsndfile opens: WAV, FLAC, SPHERE (PCM, µ-law), Ogg, mp3.

    Returns
    -------
    Header
        Never raises for a bad file: see ``fault``.
    """
    path = Path(path)
    if not path.is_file():
        return Header(fault="no such file")
    if not path.stat().st_size:
        return Header(fault="empty")
    try:
        with soundfile.SoundFile(path) as file:
            frames, rate, channels = file.frames, file.samplerate, file.channels
            if not frames:
                return Header(fault="empty")
            try:
                file.seek(frames - 1)
                whole = len(file.read(1)) == 1
            except soundfile.LibsndfileError:
                whole = False
    except soundfile.LibsndfileError:
        return Header(fault=SHORTEN if _is_shorten(path) else "unreadable")
    if not whole:
        return Header(fault="cut short")
    return Header(frames, rate, channels, cut=_declared_frames(path) > frames)


def _start(path):
    with path.open("rb") as file:
        return file.read(1024)


def _is_shorten(path):
    start = _start(path)
    return start.startswith(b"NIST_1A") and b"shorten" in start


def _declared_frames(path):
    """Samples that SPHERE and WAV headers promise; libsndfile gives those there are.
    0 where this is not known."""
    start = _start(path)
    if start.startswith(b"NIST_1A"):
        fields = [line.split() for line in start.split(b"\n")]
        return next(
            (int(f[2]) for f in fields if len(f) == 3 and f[0] == b"sample_count"), 0
        )
    if start[:4] == b"RIFF":
        size = int.from_bytes(start[4:8], "little")
        if size < 0xFFFFFFFF and path.stat().st_size < 8 + size:
            return 1 << 62
    return 0

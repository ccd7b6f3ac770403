"""What audio files have, read without decoding wherever their headers can be believed."""

from dataclasses import dataclass
from pathlib import Path

import soundfile

from ..audio import AudioFile, BadAudio

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
    """Reads a header, and the last sample, which a file that was cut does not have; all
    of the audio, where the header does not say how long it is.

    Arguments
    ---------
    path : str or Path
        What :class:`AudioFile` opens.

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
        with AudioFile(path) as file:
            frames = file.frames
            if not file.seekable():
                frames = sum(map(len, file.decode()))
            if not frames:
                return Header(fault="empty")
            if file.seekable() and not (file.sized or _has_sample(file, frames - 1)):
                return Header(fault="cut short")
            return Header(frames, file.samplerate, file.channels, cut=file.cut)
    except OSError:
        return Header(fault="unreadable")
    except (soundfile.LibsndfileError, BadAudio):
        return Header(fault=SHORTEN if _is_shorten(path) else "unreadable")


def _has_sample(file, index):
    try:
        file.seek(index)
        return len(file.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


def _is_shorten(path):
    with path.open("rb") as file:
        start = file.read(1024)
    return start.startswith(b"NIST_1A") and b"shorten" in start

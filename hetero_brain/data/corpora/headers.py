"""What audio files hold, read without decoding wherever a header can be trusted."""

from dataclasses import dataclass
from pathlib import Path

import soundfile

from ..audio import AudioFile, BadAudio

SHORTEN = "shorten-compressed SPHERE: convert with sph2pipe -f wav"


@dataclass(frozen=True, slots=True)
class Header:
    """What an audio file holds.

    Attributes
    ----------
    frames : int
        Number of samples of each channel.
    rate : int
        Sample rate, Hz.
    channels : int
        Number of channels.
    problem : str
        Why the file cannot be used, or "".
    cut : bool
        Whether it holds fewer samples than its header states; those can be used.
    """

    frames: int = 0
    rate: int = 1
    channels: int = 0
    problem: str = ""
    cut: bool = False


def read_header(path):
    """Reads the header of an audio file.

    The last sample is read too, to find out whether the file was cut short. All of the
    audio is decoded if the header does not state its length.

    Arguments
    ---------
    path : str or Path
        Any file that :class:`AudioFile` can open.

    Returns
    -------
    Header
        A file that cannot be used does not raise an error: see ``problem``.
    """
    path = Path(path)
    if not path.is_file():
        return Header(problem="no such file")
    if not path.stat().st_size:
        return Header(problem="empty")
    try:
        with AudioFile(path) as file:
            frames = file.frames
            if not file.seekable():
                frames = sum(map(len, file.decode()))
            if not frames:
                return Header(problem="empty")
            if file.seekable() and not (file.sized or _has_sample(file, frames - 1)):
                return Header(problem="cut short")
            return Header(frames, file.samplerate, file.channels, cut=file.cut)
    except OSError:
        return Header(problem="unreadable")
    except (soundfile.LibsndfileError, BadAudio):
        return Header(problem=SHORTEN if _is_shorten(path) else "unreadable")


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

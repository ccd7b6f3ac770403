"""What audio files hold, read without decoding wherever a header can be trusted."""

from dataclasses import dataclass

import soundfile

from ..audio import AudioFile, BadAudio
from ..faults import CUT, fault


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
    try:
        with AudioFile(path) as file:
            frames = file.frames
            if not file.seekable():
                frames = sum(map(len, file.decode()))
            if not frames:
                return Header(problem="empty")
            if file.seekable() and not (file.sized or _has_sample(file, frames - 1)):
                return Header(problem=CUT)
            return Header(frames, file.samplerate, file.channels, cut=file.cut)
    except (OSError, soundfile.LibsndfileError, BadAudio):
        return Header(problem=fault(path))


def _has_sample(file, index):
    try:
        file.seek(index)
        return len(file.read(1)) == 1
    except soundfile.LibsndfileError:
        return False

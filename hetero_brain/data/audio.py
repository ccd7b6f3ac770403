"""Reads audio files up to their true end, also where the header is wrong."""

import io
import os
import subprocess

import numpy as np
import soundfile
import torch

from .containers import read_container, read_mpeg
from .decoders import NamedSoundFile
from .faults import CUT, fault, reason
from .resampling import resampler

FAR_BYTES, FAR_SAMPLES = 1 << 44, 1 << 40  # beyond the end of any file
AS_FLOAT = {"dtype": "float32", "always_2d": True}


class BadAudio(ValueError):
    """A recording that cannot be used; the message names the file and the reason."""


class AudioFile(NamedSoundFile):
    """An audio file open for reading, with all the audio that it really contains.

    libsndfile reads no more samples than the header states; for an mp3 that states no
    length, it guesses one from the size of the file. Where the header cannot be true,
    libsndfile is therefore given a corrected header, or a file that seems not to end.
    AAC, MP4 and WebM are first decoded into memory by the program ``ffmpeg``.

    Arguments
    ---------
    path : str or Path
        WAV, FLAC, SPHERE (PCM or µ-law), Ogg, mp3 and whatever else libsndfile opens,
        and AAC, MP4 and WebM.

    Attributes
    ----------
    cut : bool
        Whether the file is shorter than its header states. What there is of it is good.
    sized : bool
        Whether the file is known to have the size that its header states.

    Raises
    ------
    BadAudio
        If the file is not audio, or has a format that cannot be read.
    OSError
        If the file cannot be opened.
    """

    _view = None

    def __init__(self, path):
        container, view = read_container(path), None
        if container.foreign:
            view = io.BytesIO(_converted(path))
        elif container.patches or _has_fork(path):
            view = _View(path, container)
        self._show(path, view)
        if self.format == "MP3":
            container = read_mpeg(path)
            if not container.fits:
                self._show(path, _View(path, container, FAR_BYTES))
        self.cut = container.cut or container.frames > self.frames
        self.sized = container.fits

    def _show(self, path, view):
        """Open the file, or a view of it, with libsndfile."""
        self.close()
        self._view = view
        try:
            super().__init__(path, view)
        except soundfile.LibsndfileError as error:
            raise BadAudio(f"{path}: {fault(path)}") from error

    def seekable(self):
        """Whether reading can start anywhere; if not, ``frames`` may be far too large."""
        return self.frames < FAR_SAMPLES and super().seekable()

    def decode(self, frames=FAR_SAMPLES):
        """Yield up to ``frames`` of the samples that follow, in blocks of 0.1 s.

        Blocks are short because libsndfile, when it meets an error, discards what it has
        decoded in the same call.
        """
        position_of_error = None
        while frames > 0:
            try:
                block = self.read(min(frames, self.samplerate // 10), **AS_FLOAT)
            except soundfile.LibsndfileError:
                # Reading on skips other data between the frames of an mp3, or after them,
                # if a view shows that the decoder has moved since the last error.
                position = self._view and self._view.tell()
                if self.format != "MP3" or position_of_error == position:
                    raise
                position_of_error = position
                continue
            if not len(block):
                return
            frames -= len(block)
            yield block

    def segment(self, start, frames):
        """Up to ``frames`` samples from ``start`` on; fewer if the file ends before.

        Returns
        -------
        numpy.ndarray
            (samples, channels), float32.
        """
        if self.seekable():
            self.seek(start)
            return self.read(frames, **AS_FLOAT)
        if self.format == "MP3":
            self.seek(start)
        else:
            for _ in self.decode(start):
                pass
        nothing = np.zeros((0, self.channels), np.float32)
        return np.concatenate([nothing, *self.decode(frames)])

    def close(self):
        """Close the file."""
        super().close()
        if self._view:
            self._view.close()


def _has_fork(path):
    """Whether there is an AppleDouble file (``._name``) beside the file.

    macOS writes them on file systems that are not its own, and libsndfile would read it
    in place of an mp3 that it opens by its path.
    """
    folder, name = os.path.split(path)
    return os.path.exists(os.path.join(folder, f"._{name}"))


def _converted(path):
    """A file in a format that libsndfile does not know, decoded to the bytes of a WAV."""
    command = ["ffmpeg", "-v", "error", "-i", f"file:{path}", "-f", "wav", "-"]
    # In a session of its own: Ctrl-C would end it, while the iteration is finished.
    options = {"stdin": subprocess.DEVNULL, "start_new_session": True}
    try:
        done = subprocess.run(command, capture_output=True, check=True, **options)
    except FileNotFoundError as error:
        raise BadAudio(f"{path}: AAC, MP4 or WebM needs the program ffmpeg") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise BadAudio(f"{path}: ffmpeg: {reason}") from error
    return done.stdout


class _View(io.FileIO):
    """A file as libsndfile is to see it: without the tags at its start, and patched.

    The file may seem to end at ``end``, far beyond its true end. The last bytes before
    the pretended end are then those before the true end, since libsndfile looks for a
    tag there.
    """

    def __init__(self, path, container, end=None):
        super().__init__(path)
        self._container, self._at = container, 0
        self._size = os.fstat(self.fileno()).st_size - container.start
        self._end = end or self._size

    def seek(self, offset, whence=os.SEEK_SET):
        self._at = offset + (0, self._at, self._end)[whence]
        return self._at

    def tell(self):
        return self._at

    def readinto(self, buffer):
        at = self._at
        if at > self._size:
            at = max(0, at - self._end + self._size)
        at += self._container.start
        super().seek(at)
        count = super().readinto(buffer)
        with memoryview(buffer) as content:
            for place, byte in self._container.patches.items():
                if at <= place < at + count:
                    content[place - at] = byte
        self._at += count
        return count


def read_audio(row, sample_rate, max_seconds=None, rng=None):
    """Read the audio of a manifest row.

    Channels are averaged unless the row names one, and other sample rates are resampled.
    Of a recording longer than ``max_seconds``, a window of that length is read, drawn at
    random.

    Arguments
    ---------
    row : dict
        With ``wav``, ``start``, ``stop``, ``duration`` and, optionally, ``channel``.
    sample_rate : int
        Sample rate of the result, in Hz.
    max_seconds : float, optional
        Longest window. Default: no limit.
    rng : numpy.random.Generator, optional
        Draws the window; needed only if a recording is longer than ``max_seconds``.

    Returns
    -------
    torch.Tensor
        (samples,), float32.

    Raises
    ------
    BadAudio
        If the file is missing, empty, not audio or digitally silent, if it has less than
        90 % of the samples that the manifest states, or lacks the channel.
    """
    try:
        with AudioFile(row["wav"]) as file:
            rate, audio = file.samplerate, _read_row(file, row, max_seconds, rng)
    except (OSError, soundfile.LibsndfileError) as error:
        raise BadAudio(reason(row["wav"], error)) from error
    channel = row.get("channel")
    if channel is None:  # one row a channel, as NumPy averages short rows slowly
        audio = np.ascontiguousarray(audio.T).mean(axis=0)
    else:
        audio = audio[:, channel].copy()
    if not np.any(audio) or not np.all(np.isfinite(audio)):
        raise BadAudio(f"{row['wav']}: silent, or not finite")
    signal = torch.from_numpy(audio)
    if rate != sample_rate:
        signal = resampler(rate, sample_rate)(signal)
    return signal


def _read_row(file, row, max_seconds, rng):
    """The samples of a row, or a window of them: float32, shape (samples, channels)."""
    start, available = extent(file, row)
    longest = int(max_seconds * file.samplerate) if max_seconds else available
    if available > longest:
        start += int(rng.integers(available - longest + 1))
        available = longest
    audio = file.segment(start, available)
    check_length(row, len(audio), available)
    return audio


def extent(file, row):
    """Where the audio of a manifest row lies in its file.

    Arguments
    ---------
    file : AudioFile
        The file of the row, open.
    row : dict
        As for :func:`read_audio`. Without ``stop`` and ``duration``, it goes to the end
        of the file.

    Returns
    -------
    start, available : int
        The first sample, and how many there are by the header of the file.

    Raises
    ------
    BadAudio
        As for :func:`read_audio`.
    """
    start, stop, channel = row["start"] or 0, row["stop"], row.get("channel")
    if channel is not None and channel >= file.channels:
        raise BadAudio(
            f"{row['wav']}: no channel {channel}, there are {file.channels}, "
            "counted from 0"
        )
    if stop is not None:
        expected = stop - start
    elif row["duration"] is not None:
        expected = round(row["duration"] * file.samplerate)
    else:
        expected = max(1, file.frames - start)
    available = min(expected, file.frames - start)
    if available < 0.9 * expected or available < 1:
        raise BadAudio(
            f"{row['wav']}: {max(0, available)} samples where the manifest "
            f"has {expected}"
            if row["duration"] is not None
            else f"{row['wav']}: empty"
        )
    return start, available


def check_length(row, read, available):
    """Raise BadAudio if less than 90 % of the samples of a row could be read; or none,
    if neither the row nor the header of its file says how many there are."""
    if read < (0.9 * available if available < FAR_SAMPLES else 1):
        raise BadAudio(f"{row['wav']}: {CUT}, {read} of {available} samples")

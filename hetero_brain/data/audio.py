"""Audio files, read as long as they are, whatever their headers say."""

import io
import os
import subprocess

import numpy as np
import soundfile
import torch
import torchaudio

from .containers import read_container, read_mpeg

FAR_BYTES, FAR_SAMPLES = 1 << 44, 1 << 40  # behind the end of any file
AS_FLOAT = {"dtype": "float32", "always_2d": True}


class BadAudio(ValueError):
    """A recording that cannot be used; the message names the file and the reason."""


class AudioFile(soundfile.SoundFile):
    """A file open for reading, with all that it has.

    libsndfile gives no more samples than the header promises, or than it guesses from
    the size of the file where an mp3 promises nothing. So it is shown another header, or
    a file without end, where the header cannot be true. AAC, MP4 and WebM are decoded by
    the program ``ffmpeg``, whole and into memory.

    Arguments
    ---------
    path : str or Path
        WAV, FLAC, SPHERE (PCM, µ-law), Ogg, mp3, and what else libsndfile opens; AAC, MP4
        and WebM.

    Attributes
    ----------
    cut : bool
        Whether the file is shorter than its header promises: good up to its end.
    sized : bool
        Whether it is known to have the size that its header promises.

    Raises
    ------
    BadAudio
        It is no audio, or of a kind that cannot be read.
    OSError
        The file cannot be opened.
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
        """Opens the file, or a view of it."""
        self.close()
        self._view = view
        try:
            super().__init__(view or path, "r")
        except soundfile.LibsndfileError as fault:
            raise BadAudio(f"{path}: {fault.error_string}") from fault

    def seekable(self):
        """Whether a sample can be looked for; if not, ``frames`` may be far too large."""
        return self.frames < FAR_SAMPLES and super().seekable()

    def decode(self, frames=FAR_SAMPLES):
        """Yields what follows, up to so many samples, a tenth of a second at a time: with
        an error, libsndfile withholds what it has decoded in the same call."""
        position_of_error = None
        while frames > 0:
            try:
                block = self.read(min(frames, self.samplerate // 10), **AS_FLOAT)
            except soundfile.LibsndfileError:
                # What is between the frames of an mp3, or behind them, need not be audio.
                if self.format != "MP3" or position_of_error == self._view.tell():
                    raise
                position_of_error = self._view.tell()
                continue
            if not len(block):
                return
            frames -= len(block)
            yield block

    def segment(self, start, frames):
        """The samples from ``start`` on, as many as there are, up to ``frames``.

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
        """Closes the file."""
        super().close()
        if self._view:
            self._view.close()


def _has_fork(path):
    """Whether there is a file like those that macOS keeps on disks of others, which
    libsndfile would read in the place of an mp3 that it opens itself."""
    folder, name = os.path.split(path)
    return os.path.exists(os.path.join(folder, f"._{name}"))


def _converted(path):
    """A file that libsndfile does not know, as the content of a WAV."""
    command = ["ffmpeg", "-v", "error", "-i", f"file:{path}", "-f", "wav", "-"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    except FileNotFoundError as fault:
        raise BadAudio(f"{path}: AAC, MP4 or WebM needs the program ffmpeg") from fault
    except subprocess.CalledProcessError as fault:
        reason = fault.stderr.decode(errors="replace").strip()
        raise BadAudio(f"{path}: ffmpeg: {reason}") from fault
    return done.stdout


class _View(io.FileIO):
    """A file without what is before its start, and with other bytes in some places. Its
    end may be far away, and what stands there is what stands at the true end."""

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
        if at > self._size:  # a tag is looked for in the last bytes
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

    Channels are averaged unless the row names one, and other rates resampled. A
    recording longer than ``max_seconds`` gives a window of that length, drawn from
    ``rng``.

    Arguments
    ---------
    row : dict
        With ``wav``, ``start``, ``stop``, ``duration`` and, optionally, ``channel``.
    sample_rate : int
        Hz, of what is returned.
    max_seconds : float
        Longest window; None for no limit.
    rng : numpy.random.Generator
        Draws the window.

    Returns
    -------
    torch.Tensor
        (samples,), float32.

    Raises
    ------
    BadAudio
        The file is gone, not audio, empty, digitally silent, ends before 90 % of
        what the manifest says, or does not have the channel.
    """
    try:
        with AudioFile(row["wav"]) as file:
            rate, audio = file.samplerate, _read_row(file, row, max_seconds, rng)
    except (OSError, soundfile.LibsndfileError) as fault:
        raise BadAudio(f"{row['wav']}: {fault}") from fault
    channel = row.get("channel")
    audio = audio.mean(axis=1) if channel is None else audio[:, channel].copy()
    if not np.any(audio) or not np.all(np.isfinite(audio)):
        raise BadAudio(f"{row['wav']}: silent, or not finite")
    signal = torch.from_numpy(audio)
    if rate != sample_rate:
        signal = torchaudio.functional.resample(signal, rate, sample_rate)
    return signal


def _read_row(file, row, max_seconds, rng):
    """The samples of a row, or a window of them; float32, (samples, channels)."""
    start, stop, channel = row["start"] or 0, row["stop"], row.get("channel")
    if channel is not None and channel >= file.channels:
        raise BadAudio(
            f"{row['wav']}: no channel {channel}, there are {file.channels}, "
            "counted from 0"
        )
    if stop is None:
        expected = round(row["duration"] * file.samplerate)
    else:
        expected = stop - start
    available = min(expected, file.frames - start)
    if available < 0.9 * expected or available < 1:
        raise BadAudio(
            f"{row['wav']}: {max(0, available)} samples where the manifest "
            f"has {expected}"
        )
    longest = int(max_seconds * file.samplerate) if max_seconds else available
    if available > longest:
        start += int(rng.integers(available - longest + 1))
        available = longest
    audio = file.segment(start, available)
    if len(audio) < 0.9 * available:
        raise BadAudio(f"{row['wav']}: cut short, {len(audio)} of {available} samples")
    return audio

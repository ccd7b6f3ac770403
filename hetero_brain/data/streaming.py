"""Reads recordings of any length in bounded memory, by blocks.

Whoever encodes them takes :class:`Windows`: those of a long recording overlap, so that
each frame that is kept has been computed with context on both sides.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
import torchaudio
from speechbrain.utils.logger import get_logger

from .audio import FAR_SAMPLES, AudioFile, BadAudio, check_length, extent
from .faults import reason
from .resampling import ratio

logger = get_logger(__name__)

BLOCK_SECONDS = 5  # of audio that is averaged and resampled at a time
PAUSE_SECONDS = 0.2  # of the audio whose energy tells whether there is a pause
# Of torchaudio's resampling: zero crossings of its filter, and its cut-off frequency.
CROSSINGS, ROLLOFF = 6, 0.99


def stream(row, sample_rate):
    """Yield the audio of a row in blocks: together, what ``read_audio`` returns.

    Digital silence is no error here.

    Arguments
    ---------
    row : dict
        As for :func:`~hetero_brain.data.audio.read_audio`; without ``stop`` and
        ``duration``, it goes to the end of the file.
    sample_rate : int
        Of the blocks, in Hz.

    Yields
    ------
    torch.Tensor
        (samples,), float32.

    Raises
    ------
    BadAudio
        As ``read_audio`` does; what is cut short is noticed at the end.
    """
    try:
        with AudioFile(row["wav"]) as file:
            blocks = _mono(file, row)
            yield from resampled(blocks, file.samplerate, sample_rate)
    except (OSError, soundfile.LibsndfileError) as error:
        raise BadAudio(reason(row["wav"], error)) from error


def _mono(file, row):
    """Blocks of one channel, or of the average of all: (samples,)."""
    start, available = extent(file, row)
    if file.seekable() or file.format == "MP3":
        file.seek(start)
    else:
        for _ in file.decode(start):
            pass
    whole = row["duration"] is None and row["stop"] is None
    if whole and file.cut:
        logger.warning(f"{row['wav']} is cut short; what there is of it is used")
    read, channel = 0, row.get("channel")
    short = file.decode(FAR_SAMPLES if whole else available)  # blocks of 0.1 s
    while block := list(itertools.islice(short, 10 * BLOCK_SECONDS)):
        block = np.concatenate(block)
        read += len(block)
        block = block.mean(axis=1) if channel is None else block[:, channel].copy()
        if not np.isfinite(block).all():
            raise BadAudio(f"{row['wav']}: not finite")
        yield torch.from_numpy(block)
    check_length(row, read, 1 if whole else available)


def resampled(blocks, before, after):
    """Resample a stream as ``torchaudio.functional.resample`` would as a whole.

    Arguments
    ---------
    blocks : iterable of torch.Tensor
        (samples,).
    before, after : int
        Sample rates.

    Yields
    ------
    torch.Tensor
        (samples,).
    """
    if before == after:
        yield from blocks
        return
    # Each ``step`` samples become ``made``, which depend on ``margin`` to either side.
    step, made = ratio(before, after)
    width = CROSSINGS * step / (min(step, made) * ROLLOFF)
    margin = math.ceil(math.ceil(width) / step) * step
    resample = torchaudio.transforms.Resample(step, made, dtype=torch.float32)
    held, done = torch.zeros(0), 0  # samples at hand, of which so many are resampled
    for block in blocks:
        held = torch.cat([held, block])
        ready = (len(held) - margin) // step * step
        if ready <= max(done, margin):
            continue
        yield resample(held)[done * made // step : ready * made // step]
        held, done = held[ready - margin :], margin
    if len(held):
        yield resample(held)[done * made // step :]


@dataclass(frozen=True)
class Window:
    """A part of a recording, with context.

    Attributes
    ----------
    row : dict
        The recording.
    samples : torch.Tensor
        (samples,).
    start : int
        Its first sample, counted from the start of the recording.
    last : bool
        Whether it is the last one of the recording.
    error : str
        Why the recording cannot be read; there are no samples then.
    """

    row: dict
    samples: torch.Tensor
    start: int
    last: bool
    error: str = None


class Windows:
    """How recordings are cut into windows.

    A recording of up to ``seconds`` is one window. Those of a longer one have ``seconds``
    each and overlap by a third, and what is kept of them are their centres; or else they
    end at pauses, and do not overlap.

    Arguments
    ---------
    sample_rate : int
        In Hz.
    frame_samples : int
        Samples in a frame of the encoder; windows begin where a frame does.
    seconds : float
        Longest window.
    at_pauses : bool
        Cut at the quietest moment of the second half of each ``seconds``.
    """

    def __init__(self, sample_rate, frame_samples, seconds, at_pauses=False):
        self.sample_rate, self.frame, self.at_pauses = (
            sample_rate,
            frame_samples,
            at_pauses,
        )
        # Of at least six frames: one of context on each side, and four to be kept.
        sixth = max(1, round(seconds * sample_rate / frame_samples / 6))
        self.size = 6 * sixth * frame_samples
        self.context = 0 if at_pauses else sixth * frame_samples

    def of(self, rows):
        """Yield the windows of some recordings, one after another.

        Arguments
        ---------
        rows : iterable of dict
            See :func:`stream`.

        Yields
        ------
        Window
        """
        for row in rows:
            try:
                yield from self._of(row)
            except BadAudio as error:
                yield Window(row, torch.zeros(0), 0, True, str(error))

    def _of(self, row):
        held, start = torch.zeros(0), 0
        for block in stream(row, self.sample_rate):
            held = torch.cat([held, block])
            while len(held) > self.size:
                samples = held[: self.size]
                if self.at_pauses:
                    width = round(PAUSE_SECONDS * self.sample_rate)
                    samples = samples[: quietest(samples, width)]
                yield Window(row, samples, start, last=False)
                step = len(samples) - 2 * self.context
                held, start = held[step:], start + step
        yield Window(row, held, start, last=True)

    def new_samples(self, window):
        """How many samples of a window were not in the one before it."""
        return len(window.samples) - (2 * self.context if window.start else 0)

    def kept(self, window, frames):
        """Which frames of an encoded window are kept: from one, up to another.

        Arguments
        ---------
        window : Window
        frames : int
            How many it has.

        Returns
        -------
        first, last : int
            Together, the frames kept of all windows are those of the recording.
        """
        first = self.context // self.frame if window.start else 0
        if window.last:
            return first, frames
        return first, (self.size - self.context) // self.frame


def quietest(samples, width):
    """The middle of the ``width`` samples with the least energy in the second half.

    Example
    -------
    >>> quietest(torch.tensor([0.0, 0, 0, 0, 1, 1, 0, 0, 1, 1]), width=2)
    7
    """
    half = len(samples) // 2
    energy = F.pad(samples[half:].double().square().cumsum(0), (1, 0))
    return half + int((energy[width:] - energy[:-width]).argmin()) + width // 2


def batches(windows, sample_rate, batch_seconds):
    """Collect windows in their order.

    Arguments
    ---------
    windows : iterable of Window
    sample_rate : int
        In Hz.
    batch_seconds : float
        Audio in a batch at most, with padding; but a window at least.

    Yields
    ------
    list of Window
    """
    batch, longest = [], 0
    for window in windows:
        longest = max(longest, len(window.samples))
        if batch and longest * (len(batch) + 1) > batch_seconds * sample_rate:
            yield batch
            batch, longest = [], len(window.samples)
        batch.append(window)
    if batch:
        yield batch


def padded(windows):
    """Waveforms of windows as a batch.

    Returns
    -------
    wavs : torch.Tensor
        (batch, samples).
    wav_lens : torch.Tensor
        (batch,), relative to the longest.
    """
    samples = [window.samples for window in windows]
    lengths = torch.tensor([len(one) for one in samples])
    wavs = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    return wavs, lengths / wavs.shape[1]

"""What the front ends take: stacked log-mel features, or frames of raw samples.

Three frame rates occur: *feature frames* (10 ms), *stacked frames* (``stack`` feature
frames in one, the unit of masks and targets), and encoder frames, which are the stacked
ones. What lies after the end of an utterance never reaches its own frames, so that
padding changes nothing but time.
"""

import math

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import Deltas, Filterbank, InputNormalization
from torch import nn

from .frame_count import FrameCount
from .precision import full_fp32
from .recorded import recorded

# Samples in a frame of raw audio: the paper's "context" of its second experiment.
WINDOW = 256


@recorded
def make_features(front_end, sample_rate, stack, n_mels=80, deltas=False):
    """The features that a front end takes.

    Arguments
    ---------
    front_end : str
        ``conv1d``: :class:`RawFrames`; any other: :class:`StackedFbank`.
    sample_rate : int
        Hz.
    stack : int
        Windows, or feature frames, in a stacked frame.
    n_mels, deltas
        As for :class:`StackedFbank`.
    """
    if front_end == "conv1d":
        return RawFrames(stack)
    return StackedFbank(sample_rate, n_mels, deltas, stack)


class StackedFbank(nn.Module):
    """Waveforms to normalised, stacked log-mel features.

    Mean and variance are those of the utterance, over its own frames.

    Arguments
    ---------
    sample_rate : int
        Hz.
    n_mels : int
        Mel filters: 40 with deltas in the paper, 80 without as a modern choice.
    deltas : bool
        Append Δ and ΔΔ, which triples the dimension.
    stack : int
        Adjacent feature frames (10 ms each) in one stacked frame.

    Example
    -------
    >>> features = StackedFbank(sample_rate=8000, n_mels=40, deltas=True, stack=2)
    >>> x, lengths = features(torch.rand(2, 8000), torch.tensor([1.0, 0.5]))
    >>> x.shape, lengths.tolist()
    (torch.Size([2, 51, 240]), [51, 26])
    """

    def __init__(self, sample_rate=16000, n_mels=80, deltas=False, stack=4):
        super().__init__()
        n_fft = 2 ** math.ceil(math.log2(0.025 * sample_rate))  # holds the window
        self.fbank = fixed_fbank(sample_rate, n_mels, n_fft)
        self.deltas = Deltas(input_size=n_mels) if deltas else None
        self.normalize = InputNormalization(norm_type="sentence", update_until_epoch=0)
        self.hop = self.fbank.compute_STFT.hop_length
        self.stack = stack
        self.frames = FrameCount(((0, self.frame_samples),))
        self.output_size = n_mels * stack * (3 if deltas else 1)

    @torch.no_grad()
    def forward(self, wavs, wav_lens):
        """Compute features.

        Arguments
        ---------
        wavs : torch.Tensor
            (batch, samples), zeros after the end.
        wav_lens : torch.Tensor
            (batch,), relative to the longest.

        Returns
        -------
        features : torch.Tensor
            (batch, stacked frames, ``output_size``), zeros after the end.
        lengths : torch.Tensor
            (batch,) in stacked frames, at least 1.
        """
        samples, _ = own_samples(wavs, wav_lens)
        lengths = 1 + samples // self.hop
        # Frames that straddle the end count in the 80 dB under the loudest frame: every
        # utterance has them, as it would beside a longer one.
        with full_fp32():
            x = self.fbank(F.pad(wavs, (0, 2 * self.hop)))
        x = x[:, : 1 + wavs.shape[1] // self.hop]
        if self.deltas is not None:
            # The last frame repeated: what Deltas itself does at the end of a batch.
            x = repeat_last(x, lengths)
            delta = repeat_last(self.deltas(x), lengths)
            x = torch.cat([x, delta, self.deltas(delta)], dim=2)
        x = self.normalize(x, lengths / x.shape[1])
        x = x * length_to_mask(lengths, x.shape[1], torch.bool).unsqueeze(2)
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stack))
        x = x.reshape(len(x), -1, self.output_size)
        return x, self.frames(samples)

    @property
    def frame_samples(self):
        """Samples from one stacked frame to the next."""
        return self.hop * self.stack


def fixed_fbank(sample_rate, n_mels, n_fft):
    """SpeechBrain's ``Fbank`` with its constants on the device of the module.

    SpeechBrain makes the filters anew for each batch, on the host, and copies them and
    the window to the device, which the host has to wait for.
    """
    fbank = Fbank(sample_rate=sample_rate, n_mels=n_mels, n_fft=n_fft)
    stft, window = fbank.compute_STFT, fbank.compute_STFT.window
    del stft.window
    stft.register_buffer("window", window, persistent=False)
    fbank.compute_fbanks = FixedFilterbank(
        sample_rate=sample_rate, n_mels=n_mels, n_fft=n_fft, f_max=sample_rate // 2
    )
    return fbank


class FixedFilterbank(Filterbank):
    """SpeechBrain's ``Filterbank`` with its matrix made once; see :func:`fixed_fbank`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        centres, bands = (
            values.unsqueeze(1).expand(-1, self.n_stft)
            for values in (self.f_central, self.band)
        )
        matrix = self._create_fbank_matrix(centres, bands)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, spectrogram):
        """(batch, frames, n_stft) → (batch, frames, n_mels), in dB."""
        return self._amplitude_to_DB(spectrogram @ self.matrix)


def own_samples(wavs, wav_lens):
    """Samples of each utterance, (batch,), and where they are: (batch, samples) of bool.

    Arguments
    ---------
    wavs : torch.Tensor
        (batch, samples).
    wav_lens : torch.Tensor
        (batch,), relative to the longest.
    """
    samples = (wav_lens * wavs.shape[1]).round().long()
    return samples, length_to_mask(samples, wavs.shape[1], torch.bool)


def repeat_last(x, lengths):
    """Replace what is behind each utterance's end by its last frame."""
    index = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    index = index.minimum(lengths.unsqueeze(1) - 1)
    return x.gather(1, index.unsqueeze(2).expand_as(x))


class RawFrames(nn.Module):
    """Waveforms to frames of raw samples, for front ends that learn their own features.

    Each utterance is brought to mean 0 and variance 1 and cut into windows of 256 samples
    that do not overlap (5.3 ms at 48 kHz, 16 ms at 16 kHz); ``stack`` windows are one
    stacked frame.

    Arguments
    ---------
    stack : int
        Adjacent windows in one stacked frame; a power of two, for ``Conv1dFrontEnd``.

    Example
    -------
    >>> x, lengths = RawFrames(stack=2)(torch.rand(2, 2000), torch.tensor([1.0, 0.5]))
    >>> x.shape, lengths.tolist()
    (torch.Size([2, 4, 512]), [4, 2])
    """

    def __init__(self, stack=2):
        super().__init__()
        self.stack, self.output_size = stack, stack * WINDOW
        self.frames = FrameCount(((1, self.output_size),))  # the last one padded

    @torch.no_grad()
    def forward(self, wavs, wav_lens):
        """Cut into frames.

        Arguments
        ---------
        wavs : torch.Tensor
            (batch, samples).
        wav_lens : torch.Tensor
            (batch,) relative lengths.

        Returns
        -------
        x : torch.Tensor
            (batch, stacked frames, stack · 256), zeros after the end of an utterance.
        lengths : torch.Tensor
            (batch,) in stacked frames.
        """
        samples, inside = own_samples(wavs, wav_lens)
        count = samples.unsqueeze(1)
        wavs = (wavs - (wavs * inside).sum(1, keepdim=True) / count) * inside
        deviation = (wavs.square().sum(1, keepdim=True) / count).sqrt()
        x = wavs / deviation.clamp(min=1e-5)
        x = F.pad(x, (0, -x.shape[1] % self.output_size))
        x = x.unflatten(1, (-1, self.output_size))
        return x, self.frames(samples)

    @property
    def frame_samples(self):
        """Samples from one stacked frame to the next."""
        return self.output_size

"""Features, front ends and the Conformer, on SpeechBrain's lobes.

Three frame rates occur: *feature frames* (10 ms), *stacked frames* (``stack`` feature
frames in one, the unit of masks and targets), and encoder frames, which are the stacked
ones. What lies behind the end of an utterance never reaches its own frames, so that
padding changes nothing but time.
"""

import math

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.transformer.Conformer import (
    ConformerEncoder as SpeechBrainConformer,
)
from speechbrain.processing.features import Deltas, InputNormalization
from torch import nn

from .layers import Dropout, Linear, adapt, recompute
from .packing import Unpacked, pack, unpack


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
        self.fbank = Fbank(sample_rate=sample_rate, n_mels=n_mels, n_fft=n_fft)
        self.deltas = Deltas(input_size=n_mels) if deltas else None
        self.normalize = InputNormalization(norm_type="sentence", update_until_epoch=0)
        self.hop = self.fbank.compute_STFT.hop_length
        self.stack = stack
        self.output_size = n_mels * stack * (3 if deltas else 1)

    @torch.no_grad()
    def forward(self, wavs, wav_lens):
        """Compute features.

        Arguments
        ---------
        wavs : torch.Tensor
            (batch, samples), zeros behind the end.
        wav_lens : torch.Tensor
            (batch,), relative to the longest.

        Returns
        -------
        features : torch.Tensor
            (batch, stacked frames, ``output_size``), zeros behind the end.
        lengths : torch.Tensor
            (batch,) in stacked frames, at least 1.
        """
        samples = (wav_lens * wavs.shape[1]).round().long()
        lengths = 1 + samples // self.hop
        # Frames that straddle the end count in the 80 dB under the loudest frame: every
        # utterance has them, as it would beside a longer one.
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

    def frames(self, samples):
        """Stacked frames of utterances of so many samples."""
        return samples // self.hop // self.stack + 1


# Samples in a frame of raw audio: the paper's "context" of its second experiment.
WINDOW = 256


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
            (batch, stacked frames, stack · 256), zeros behind the end of an utterance.
        lengths : torch.Tensor
            (batch,) in stacked frames.
        """
        samples = (wav_lens * wavs.shape[1]).round().long()
        inside = length_to_mask(samples, wavs.shape[1], torch.bool)
        count = samples.unsqueeze(1)
        wavs = (wavs - (wavs * inside).sum(1, keepdim=True) / count) * inside
        deviation = (wavs.square().sum(1, keepdim=True) / count).sqrt()
        x = wavs / deviation.clamp(min=1e-5)
        x = F.pad(x, (0, -x.shape[1] % self.output_size))
        x = x.unflatten(1, (-1, self.output_size))
        return x, self.frames(samples)

    def frames(self, samples):
        """Stacked frames of utterances of so many samples."""
        return (samples + self.output_size - 1) // self.output_size


def repeat_last(x, lengths):
    """Replace what is behind each utterance's end by its last frame."""
    index = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    index = index.minimum(lengths.unsqueeze(1) - 1)
    return x.gather(1, index.unsqueeze(2).expand_as(x))


class ConvFrontEnd(nn.Module):
    """Four stacked frames of mel filters to one encoder input by two convolutions.

    Both have kernel 3 and stride 2 and run channels-last. An output frame sees no
    feature frame behind its own four, so that padding never enters.

    SpeechBrain's ``ConvolutionFrontEnd`` transposes to and fro around every convolution
    and normalises over channels and bands; forward and backward take five times as long
    (8 × 6 s, 64 channels, one CPU thread).

    Arguments
    ---------
    input_size : int
        Dimension of the stacked features: four times the mel filters.
    d_model : int
        Dimension of the encoder.
    channels : int
        Output channels of both convolutions.
    """

    def __init__(self, input_size, d_model, channels=64):
        super().__init__()
        self.n_mels = input_size // 4
        self.convs = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        ).to(memory_format=torch.channels_last)
        bands = (self.n_mels + 3) // 4
        self.projection = Linear(channels * bands, d_model)

    def forward(self, x):
        """(batch, frames, 4 · n_mels) → (batch, frames, d_model)."""
        batch, frames, _ = x.shape
        x = x.reshape(batch, 1, frames * 4, self.n_mels)
        x = self.convs(x.contiguous(memory_format=torch.channels_last))
        return self.projection(x.permute(0, 2, 3, 1).reshape(batch, frames, -1))


class Conv1dFrontEnd(nn.Module):
    """Frames of raw samples to encoder inputs by 1-D convolutions over time.

    The 256 samples of a window are the channels of the first convolution, as the paper's
    "1-D convolution of kernel 3" on raw audio was read here. Each convolution has kernel
    3 and stride 2, and log2(stack) of them make one encoder frame of a stacked one: one
    for ``stack: 2``. They are padded in front only: a frame sees its own windows and
    earlier ones, so that padding never enters, and a causal encoder stays causal.

    Arguments
    ---------
    input_size : int
        Dimension of the stacked frames: stack · 256, stack a power of two from 2.
    d_model : int
        Dimension of the encoder.

    Raises
    ------
    ValueError
        Another stack.
    """

    def __init__(self, input_size, d_model):
        super().__init__()
        depth = round(math.log2(max(2, input_size / WINDOW)))
        if input_size != WINDOW * 2**depth:
            raise ValueError(
                "front_end: conv1d takes raw frames with stack: 2, 4, 8, …; got "
                f"{input_size} values a frame, {WINDOW} of them a window"
            )
        channels = [WINDOW, *[d_model] * depth]
        self.convs = nn.ModuleList(
            nn.Conv1d(before, after, 3, stride=2)
            for before, after in zip(channels, channels[1:])
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x):
        """(batch, frames, stack · 256) → (batch, frames, d_model)."""
        x = x.unflatten(-1, (-1, WINDOW)).flatten(1, 2).transpose(1, 2)
        for i, conv in enumerate(self.convs):
            x = conv(F.pad(F.gelu(x) if i else x, (1, 0)))
        return self.norm(x.transpose(1, 2))


# Widths and depths by name; the feed-forward width of the paper's models is open, this
# one gives their 70 and 59 M parameters (10 blocks for BEST-RQ, 8 for CPC).
SIZES = {
    "tiny": dict(num_layers=6, d_model=144, nhead=4, d_ffn=576, kernel_size=15),
    "base": dict(num_layers=16, d_model=256, nhead=4, d_ffn=1024, kernel_size=31),
    "paper": dict(num_layers=10, d_model=512, nhead=8, d_ffn=2560, kernel_size=31),
    "paper_cpc": dict(num_layers=8, d_model=512, nhead=8, d_ffn=2560, kernel_size=31),
}


# The parts of a block that are run again in the backward pass, by name.
RECOMPUTED = {
    "none": lambda block: [],
    "feed_forward": lambda block: [block.ffn_module1[1], block.ffn_module2[1]],
    "blocks": lambda block: [block],
}


def make_encoder(
    size,
    input_size,
    front_end="linear",
    dropout=0.1,
    causal=False,
    recomputed="none",
):
    """A :class:`Conformer` of a named size.

    Arguments
    ---------
    size : str
        ``tiny`` (3 M parameters), ``base`` (25 M), ``paper`` (71 M) or ``paper_cpc``
        (57 M).
    input_size : int
        Dimension of the stacked features.
    front_end : str
        ``linear`` (paper), ``conv`` (four stacked frames of mel filters only) or
        ``conv1d`` (frames of raw samples only).
    dropout : float
        In the blocks.
    causal : bool
        No frame sees a later one.
    recomputed : str
        As for :class:`Conformer`.

    Raises
    ------
    ValueError
        An unknown size, front end, or part to recompute: all of them.
    """
    kinds = {"linear": Linear, "conv": ConvFrontEnd, "conv1d": Conv1dFrontEnd}
    chosen = {
        "size": (size, SIZES),
        "front_end": (front_end, kinds),
        "recomputed": (recomputed, RECOMPUTED),
    }
    faults = [
        f"{key}: {value}; there are {', '.join(known)}"
        for key, (value, known) in chosen.items()
        if value not in known
    ]
    if faults:
        raise ValueError("\n".join(faults))
    front_end = kinds[front_end](input_size, SIZES[size]["d_model"])
    return Conformer(
        front_end,
        dropout=dropout,
        causal=causal,
        recomputed=recomputed,
        **SIZES[size],
    )


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


def make_head(encoder, n_outputs):
    """A linear layer on an encoder."""
    return Linear(encoder.d_model, n_outputs)


def weighted_layers(encoder):
    """The :class:`WeightedLayers` that fit an encoder."""
    return WeightedLayers(len(encoder.blocks.layers))


class LastLayer(nn.Module):
    """Readout of the encoder's output, as in the paper."""

    def forward(self, out, hidden):
        """(batch, frames, d_model), and the hidden layers → the former."""
        return out


class WeightedLayers(nn.Module):
    """Readout of a learned weighting of all layers (SUPERB).

    Each layer is normalised to mean 0 and variance 1 over its channels first, so that a
    weight says how much a layer is used.

    Arguments
    ---------
    num_layers : int
        Blocks of the encoder; the input of the first counts as one layer more.
    """

    def __init__(self, num_layers):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers + 1))

    def forward(self, out, hidden):
        """(batch, frames, d_model), and the hidden layers → their weighted mean."""
        weighted = zip(self.weights.softmax(0), hidden, strict=True)
        return sum(weight * F.layer_norm(h, h.shape[-1:]) for weight, h in weighted)


class Conformer(nn.Module):
    """Front end and Conformer blocks with rotary attention (SDPA kernels).

    Arguments
    ---------
    front_end : torch.nn.Module
        (batch, frames, features) → (batch, frames, d_model), each utterance by itself and
        no frame from later ones: it is called on a few utterances at a time, cut to the
        longest of them.
    num_layers, d_model, nhead, d_ffn : int
        Blocks, width, attention heads, width of the feed-forward modules.
    kernel_size : int
        Of the depthwise convolution, in encoder frames.
    dropout : float
        Probability, everywhere in the blocks.
    causal : bool
        Attention and convolutions see no later frame.
    recomputed : str
        What is not kept for the backward pass but run again there, to save memory:
        ``none``, the ``feed_forward`` modules, or whole ``blocks``.

    Example
    -------
    >>> encoder = Conformer(nn.Linear(240, 64), 2, d_model=64, nhead=4, d_ffn=128)
    >>> out, hidden = encoder(torch.rand(2, 30, 240), torch.tensor([30, 12]))
    >>> out.shape, len(hidden)
    (torch.Size([2, 30, 64]), 3)
    """

    PIECE = 512  # stacked frames that go through the front end at a time on a CPU

    def __init__(
        self,
        front_end,
        num_layers,
        d_model,
        nhead,
        d_ffn,
        kernel_size=31,
        dropout=0.1,
        causal=False,
        recomputed="none",
    ):
        super().__init__()
        self.front_end, self.d_model, self.causal = front_end, d_model, causal
        self.dropout = Dropout(dropout)
        self.blocks = SpeechBrainConformer(
            num_layers=num_layers,
            d_model=d_model,
            d_ffn=d_ffn,
            nhead=nhead,
            kernel_size=kernel_size,
            dropout=dropout,
            attention_type="RoPEMHA",
            output_hidden_states=True,
            causal=causal,
        )
        for block in self.blocks.layers:
            adapt(block)
            for part in RECOMPUTED[recomputed](block):
                recompute(part)

    def forward(self, features, lengths):
        """Encode.

        Arguments
        ---------
        features : torch.Tensor
            (batch, frames, features).
        lengths : torch.Tensor
            (batch,) in frames.

        Returns
        -------
        out : torch.Tensor
            (batch, frames, d_model), normalised. What is behind the end of an utterance
            has no meaning.
        hidden : sequence of torch.Tensor
            Input of the first block and output of each block, same shape.
        """
        padding = ~length_to_mask(lengths, features.shape[1], torch.bool)
        frames, later = features.shape[1], None
        if self.causal:
            later = torch.ones(frames, frames, dtype=torch.bool, device=features.device)
            later = later.triu(1)
        # Other devices would have to tell the lengths first, and the host would wait.
        packed = features.is_cpu and not torch.compiler.is_compiling()
        if packed:
            x = pack(self.in_pieces(features, lengths), padding)
        else:
            x = self.front_end(features)
        out, _, hidden = self.blocks(
            self.dropout(x), later, src_key_padding_mask=padding
        )
        if packed:
            out, hidden = unpack(out, padding), Unpacked(hidden, padding)
        return out, hidden

    def in_pieces(self, features, lengths):
        """The front end on a few utterances of like length at a time.

        For convolutions: their frames stay in the cache, which takes four fifths of the
        time (28 × 4 s, two threads), and they are padded to the longest of them only.
        """
        frames, order = features.shape[1], lengths.argsort()
        pieces = order.split(max(1, self.PIECE // frames))
        longest = [int(lengths[piece[-1]]) for piece in pieces]
        outs = [
            F.pad(self.front_end(features[piece, :n]), (0, 0, 0, frames - n))
            for piece, n in zip(pieces, longest)
        ]
        return torch.cat(outs).index_select(0, order.argsort())

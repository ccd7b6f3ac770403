"""Stacked frames to the inputs of an encoder, by convolutions.

A linear front end is an ``nn.Linear``. None lets padding reach the frames of speech.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .features import WINDOW
from .layers import Linear


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

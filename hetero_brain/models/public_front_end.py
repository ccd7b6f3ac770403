"""The convolutions of public checkpoints, which make latents of waveforms."""

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn


def convolved(layers, x):
    """The convolutions of a front end, each utterance as if it were alone.

    Arguments
    ---------
    layers : sequence of torch.nn.Module
        Those of Transformers.
    x : torch.Tensor
        (batch, samples), zeros after the end of an utterance, and only there.

    Returns
    -------
    torch.Tensor
        (batch, channels, frames).
    """
    first, *others = layers
    x, samples = x.unsqueeze(1), (x != 0).sum(1)
    if isinstance(norm := getattr(first, "layer_norm", None), nn.GroupNorm):
        (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
        frames = ((samples - kernel) // stride + 1).clamp(min=1)
        x = first.activation(normalized_over_time(norm, first.conv(x), frames))
    else:
        x = first(x)
    for layer in others:
        x = layer(x)
    return x


def normalized_over_time(norm, x, lengths):
    """A ``GroupNorm`` of one channel a group, over an utterance's own frames.

    Arguments
    ---------
    norm : torch.nn.GroupNorm
    x : torch.Tensor
        (batch, channels, frames).
    lengths : torch.Tensor
        (batch,) in frames.
    """
    inside = length_to_mask(lengths, x.shape[2], torch.bool).unsqueeze(1)
    count, kind, x = lengths.view(-1, 1, 1), x.dtype, x.float()
    x = x - (x * inside).sum(2, keepdim=True) / count
    variance = (x * inside).square().sum(2, keepdim=True) / count
    scale = norm.weight.unsqueeze(1) * (variance + norm.eps).rsqrt()
    return (x * scale + norm.bias.unsqueeze(1)).to(kind)

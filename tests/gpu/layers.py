"""Choices between kernels in the layers of the encoder: forward and backward."""

import itertools
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.benchmarks.measure import Table

from .device import attempt, medians, passes, random, time_limit

FRAME_RATE, SECONDS = 25, 80  # encoder frames per second, audio of a batch
LIMIT = 12  # seconds of each of the longest tables
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BACKENDS = {
    "PyTorch's choice": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


# ------------------------------------------------------------------------- convolution


def convolutions(device, quick):
    """The depthwise convolution, by layout."""
    ways = {
        "conv1d of (B, C, T) (ms)": conv1d,
        "conv1d of (B, T, C), transposed (ms)": transposed_conv1d,
        "conv2d of (B, T, C), channels-last (ms)": channels_last_conv2d,
    }
    columns = ["channels", "kernel", "utterance (s)", "type", *ways]
    table = Table(f"Depthwise convolution, {SECONDS} s of frames", columns)
    is_over = time_limit(table, LIMIT)
    cases = itertools.product((144, 256, 512), (15, 31), (5, 15), DTYPES)
    for channels, kernel, seconds, kind in [(144, 15, 5, "fp32")] if quick else cases:
        if is_over():
            break
        options = dict(device=device, dtype=DTYPES[kind])
        with attempt(table, f"{channels} channels, kernel {kernel}, {kind}"):
            shape = 1 if quick else SECONDS // seconds, seconds * FRAME_RATE
            by_time = random(*shape, channels, **options)
            by_channel = random(shape[0], channels, shape[1], **options)
            weights = (
                random(channels, 1, kernel, **options),
                random(channels, **options),
            )
            functions = {
                name: passes(way, (by_channel if way is conv1d else by_time, *weights))
                for name, way in ways.items()
            }
            found = medians(device, functions, quick)
            table.add(channels, kernel, seconds, kind, *found.values())
    return table


def conv1d(x, weight, bias):
    """(batch, channels, frames) → the same."""
    pad = weight.shape[-1] // 2
    return F.conv1d(x, weight, bias, padding=pad, groups=len(weight))


def transposed_conv1d(x, weight, bias):
    """(batch, frames, channels) → the same, contiguous."""
    return conv1d(x.transpose(1, 2), weight, bias).transpose(1, 2).contiguous()


def channels_last_conv2d(x, weight, bias):
    """(batch, frames, channels) → the same, as in ``models/layers.py``."""
    x, pad = x.transpose(1, 2).unsqueeze(2), (0, weight.shape[-1] // 2)
    out = F.conv2d(x, weight.unsqueeze(2), bias, padding=pad, groups=len(weight))
    return out.squeeze(2).transpose(1, 2)


# --------------------------------------------------------------------------- attention


def attentions(device, quick):
    """Scaled dot-product attention, by backend, mask, head size and type."""
    columns = ["head size", "type", "mask", *(f"{name} (ms)" for name in BACKENDS)]
    table = Table("Attention: 8 heads, 5 utterances of 15 s, dropout 0.1", columns)
    table.notes = ["-: the backend does not support it."]
    length = (1 if quick else 15) * FRAME_RATE
    lengths = torch.tensor([1.0, 0.97, 0.95, 0.9, 0.85], device=device) * length
    padded = (torch.arange(length, device=device) < lengths[:, None])[:, None, None]
    masks = {
        "padding": {"attn_mask": padded},
        "none": {},
        "causal": {"is_causal": True},
    }
    is_over = time_limit(table, LIMIT)
    cases = itertools.product((36, 40, 48, 64), DTYPES, masks)
    for head, kind, mask in [(36, "fp32", "padding")] if quick else cases:
        if is_over():
            break
        with attempt(table, f"head size {head}, {kind}, {mask}"):
            options = dict(device=device, dtype=DTYPES[kind])
            qkv = [random(5, 8, length, head, **options) for _ in range(3)]
            attend = partial(
                F.scaled_dot_product_attention, dropout_p=0.1, **masks[mask]
            )
            found = [
                backend_time(device, backend, attend, qkv, quick)
                for backend in BACKENDS.values()
            ]
            table.add(head, kind, mask, *found)
    return table


def backend_time(device, backend, attend, qkv, quick):
    """Milliseconds with a backend; "-" if it does not support this."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tells why a backend is not used
            if backend is None:
                return medians(device, {"": passes(attend, qkv)}, quick)[""]
            with sdpa_kernel(backend):
                return medians(device, {"": passes(attend, qkv)}, quick)[""]
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        return "-"


# ---------------------------------------------------------------------------- rotation


def rotations(device, quick):
    """Rotary positions, in several ways."""
    ways = {
        "complex product (ms)": rotate_complex,
        "real, halves stacked (ms)": rotate_stacked,
        "real, pairs swapped (ms)": rotate_swapped,
    }
    columns = ["head size", "type", *ways]
    table = Table("Rotary positions: 8 heads, 5 utterances of 15 s, in fp32", columns)
    frames = (1 if quick else 15) * FRAME_RATE
    for head, kind in itertools.product((36,) if quick else (36, 64), DTYPES):
        with attempt(table, f"head size {head}, {kind}"):
            x = random(5, frames, 8, head, device=device, dtype=DTYPES[kind])
            angles = torch.rand(frames, head // 2, device=device)
            cosines, sines = angles.cos(), angles.sin()
            twice = (
                torch.stack([cosines, cosines], -1).flatten(1),
                torch.stack([-sines, sines], -1).flatten(1),
            )
            turns = torch.complex(cosines, sines), (cosines, sines), twice
            functions = {
                name: passes(partial(rotate_heads, way, turn), [x])
                for (name, way), turn in zip(ways.items(), turns)
            }
            found = medians(device, functions, quick)
            table.add(head, kind, *found.values())
    return table


def rotate_heads(way, turns, x):
    """Rotate (batch, frames, heads, head size) as attention has it: a transposed view."""
    return way(x.transpose(1, 2).float(), turns)


def rotate_complex(x, turns):
    """Pairs of channels as complex numbers, times numbers of modulus 1."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


def rotate_stacked(x, turns):
    """The product in real numbers, of the first and the second of all pairs."""
    (a, b), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), turns
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rotate_swapped(x, turns):
    """The product in real numbers, of all channels, and of these swapped in pairs."""
    cos, sin = turns
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)

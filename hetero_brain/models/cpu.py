"""What runs differently on a CPU, only to be faster; ``operators`` chooses it.

The results are those of PyTorch's operators up to rounding, and but for the random
numbers that dropout draws. Each measurement is of one operator or of one layer, forward
and backward; ``tests/benchmarks`` measures whole iterations.
"""

import math
from collections.abc import Sequence
from functools import wraps

import numpy as np
import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch.autograd.function import once_differentiable

from .precision import widened

ROWS = 64  # the rows of a matrix product are padded to a multiple of it
PIECE = 512  # stacked frames that go through a front end at a time


# ------------------------------------------------------------------ dropout, attention


def dropout(x, p=0.5, training=True):
    """Dropout in a quarter of PyTorch's time.

    PyTorch draws a number for each element; here eight elements share a 64-bit number of
    NumPy's fastest generator, a byte each. As p is rarely a multiple of 1/256, it is
    rounded up or down at random in each call, so that each element is zeroed with
    probability p. A byte an element is kept for the backward pass, where PyTorch keeps a
    number of the type of x.
    """
    if not (training and 0 < p < 255 / 256):
        return F.dropout(x, p, training)
    seed = torch.empty((), dtype=torch.int64).random_()
    numbers = np.random.Generator(np.random.SFC64(int(seed)))
    lowest = int(256 * p + numbers.random()) - 128  # of the bytes that keep an element
    kept = np.empty(-(-x.numel() // 8) * 8, dtype=np.bool_)
    for start in range(0, len(kept), 2**18):  # in pieces, which stay in the cache
        piece = kept[start : start + 2**18]
        drawn = numbers.integers(2**64, size=len(piece) // 8, dtype=np.uint64)
        np.greater_equal(drawn.view(np.int8), lowest, out=piece)
    kept = torch.from_numpy(kept.view(np.int8))[: x.numel()].view(x.shape)
    return Masked.apply(x, kept, 1 / (1 - p))


class Masked(torch.autograd.Function):
    """x · mask · scale, with the mask kept in bytes."""

    @staticmethod
    def forward(ctx, x, mask, scale):
        """x (…), mask (…) of zeros and ones."""
        ctx.save_for_backward(mask)
        ctx.scale = scale
        mask = mask.to(x.dtype)
        return torch.addcmul(x.new_zeros(()), mask, x, value=scale, out=mask)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of x."""
        return Masked.apply(grad, *ctx.saved_tensors, ctx.scale), None, None


def attention(q, k, v, allowed=None, dropout_p=0.0, causal=False):
    """See ``operators.attention``; with dropout in 0.6 of the time of PyTorch's, as
    :func:`dropout` is faster (28 × 100 frames, two threads).

    It is computed in fp32: the backward pass of the bf16 kernel takes five times as long.
    """
    v = widened(v)
    q, k = q.to(v.dtype), k.to(v.dtype)
    with torch.autocast("cpu", enabled=False):
        if not dropout_p:
            return F.scaled_dot_product_attention(
                q, k, v, allowed, is_causal=causal, scale=1.0
            )
        scores = q @ k.mT
        if causal:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if allowed is not None:
            scores += torch.zeros(allowed.shape).masked_fill_(~allowed, -math.inf)
        return dropout(scores.softmax(-1), dropout_p) @ v


def logits_at_once(x):
    """See ``operators.logits_at_once``; so many stay in the cache, which halves the time
    of a cross-entropy (1200 rows, 8192 classes, two threads)."""
    return 2**21


# ------------------------------------------------------------------------------- bf16


def conv2d(x, weight, bias=None, **options):
    """``F.conv2d`` in fp32: the bf16 kernel of a depthwise convolution can hang."""
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(widened(x), weight, bias, **options)


def linear(x, weight, bias=None):
    """``F.linear``; under bf16 with rows padded to few shapes.

    oneDNN compiles a bf16 kernel for each number of rows (frames of a batch) that it has
    not seen, and every batch of speech has its own: see :class:`PaddedLinear`.
    """
    bf16 = torch.get_autocast_dtype("cpu") == torch.bfloat16
    if bf16 and torch.is_autocast_enabled("cpu"):
        return PaddedLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class PaddedLinear(torch.autograd.Function):
    """A linear layer in bf16 whose products have a multiple of :data:`ROWS` rows.

    The cast to bf16, which autocast makes too, writes into the padded copy. It can be
    differentiated once: the exact hypergradient of such layers needs fp32.
    """

    @staticmethod
    def pad(x):
        """(…, channels) → (rows, channels) in bf16, zeros after the rows of x."""
        x = x.reshape(-1, x.shape[-1])
        rows = -(-len(x) // ROWS) * ROWS
        padded = x.new_empty(rows, x.shape[1], dtype=torch.bfloat16)
        padded[: len(x)] = x
        padded[len(x) :] = 0
        return padded

    @staticmethod
    def forward(ctx, x, weight, bias):
        """x (…, inputs), weight (outputs, inputs), bias (outputs,) → (…, outputs)."""
        padded, half = PaddedLinear.pad(x), weight.bfloat16()
        ctx.save_for_backward(padded, half)
        ctx.kinds = x.dtype, weight.dtype, bias is not None
        out = F.linear(padded, half, None if bias is None else bias.bfloat16())
        return out[: x.numel() // x.shape[-1]].view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Gradients of x, weight and bias, in their types."""
        x, weight = ctx.saved_tensors
        kind, weight_kind, has_bias = ctx.kinds
        padded, rows = PaddedLinear.pad(grad), grad.numel() // grad.shape[-1]
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = (padded @ weight)[:rows].view(*grad.shape[:-1], -1).to(kind)
        if ctx.needs_input_grad[1]:
            to_weight = (padded.T @ x).to(weight_kind)
        if has_bias and ctx.needs_input_grad[2]:
            to_bias = padded.sum(0, dtype=weight_kind)
        return to_x, to_weight, to_bias


# -------------------------------------------------------------------- without padding


def encode(encoder, features, lengths):
    """``Conformer.forward`` on the frames of all utterances, one after the other.

    What a layer does to each frame by itself it need not do to padding, as in unpadded
    training of BERT (Portes et al., arXiv:2312.17482). Only attention and convolutions
    over time need the padded form. With padding computed, an iteration of tiny takes 1.17
    times as long where a fifth is padding, 1.035 times where a twentieth is (one thread).
    Another device would have to tell the lengths first, and the host would wait for it.
    """
    padding = ~length_to_mask(lengths, features.shape[1], torch.bool)
    x = encoder.dropout(pack(in_pieces(encoder.front_end, features, lengths), padding))
    out, hidden = encoder.run_blocks(x, padding)
    return unpack(out, padding), Unpacked(hidden, padding)


def in_pieces(front_end, features, lengths):
    """A front end on a few utterances of similar length at a time.

    For convolutions: their frames stay in the cache, which takes four fifths of the time
    (28 × 4 s, two threads), and they are padded to the longest of them only.
    """
    frames, order = features.shape[1], lengths.argsort()
    pieces = order.split(max(1, PIECE // frames))
    longest = [int(lengths[piece[-1]]) for piece in pieces]
    outs = [
        F.pad(front_end(features[piece, :n]), (0, 0, 0, frames - n))
        for piece, n in zip(pieces, longest)
    ]
    return torch.cat(outs).index_select(0, order.argsort())


def takes_packed(method):
    """Decorate a method of padded utterances so that it takes packed ones, too.

    Arguments
    ---------
    method : callable
        (batch, frames, channels), padding mask, … → (batch, frames, channels).

    Returns
    -------
    callable
        Also (frames of all utterances, channels), padding mask, … → the same.
    """

    @wraps(method)
    def wrapped(self, x, padding, *args):
        if x.dim() == 3:
            return method(self, x, padding, *args)
        return pack(method(self, unpack(x, padding), padding, *args), padding)

    return wrapped


class Unpacked(Sequence):
    """Packed tensors, each unpacked when it is asked for: most passes need none of an
    encoder's hidden layers.

    Arguments
    ---------
    packed : list of torch.Tensor
        Each (frames of all utterances, channels).
    padding : torch.Tensor
        (batch, frames), True after the end of an utterance.
    """

    def __init__(self, packed, padding):
        self.packed, self.padding = packed, padding

    def __len__(self):
        return len(self.packed)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Unpacked(self.packed[index], self.padding)
        return unpack(self.packed[index], self.padding)


class Pack(torch.autograd.Function):
    """Leaves the padding out. PyTorch's own gradient of indexing adds to each place in
    turn, since places could come twice; this and :class:`Unpack` are each other's."""

    @staticmethod
    def forward(ctx, x, padding):
        """(batch, frames, channels) → (frames of all utterances, channels)."""
        ctx.save_for_backward(padding)
        return x.flatten(0, 1).index_select(0, places(~padding))

    @staticmethod
    def backward(ctx, grad):
        """The gradient of x: 0 in the padding."""
        return Unpack.apply(grad, *ctx.saved_tensors), None


class Unpack(torch.autograd.Function):
    """Puts padding back, of zeros. Frames are read from their rows, padding from any,
    which is several times as fast as writing rows to their frames."""

    @staticmethod
    def forward(ctx, rows, padding):
        """(frames of all utterances, channels) → (batch, frames, channels)."""
        ctx.save_for_backward(padding)
        source = padding.flatten().logical_not().cumsum(0).sub_(1).clamp_(min=0)
        out = rows.index_select(0, source).index_fill_(0, places(padding), 0)
        return out.unflatten(0, padding.shape)

    @staticmethod
    def backward(ctx, grad):
        """The gradient of the rows."""
        return Pack.apply(grad, *ctx.saved_tensors), None


pack, unpack = Pack.apply, Unpack.apply


def places(mask):
    """Where a (batch, frames) mask is True, in the flattened (batch · frames)."""
    return mask.flatten().nonzero().squeeze(1)

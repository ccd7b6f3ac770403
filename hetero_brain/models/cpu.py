"""What runs differently on a CPU, only to be faster; ``operators`` chooses it.

The results are those of PyTorch's operators up to rounding. Each measurement is of one
operator or of one layer, forward and backward; ``tests/benchmarks`` measures whole
iterations.
"""

from collections.abc import Sequence
from functools import wraps

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch.autograd.function import once_differentiable

from .precision import widened

ROWS = 64  # the rows of a matrix product are padded to a multiple of it
PIECE = 512  # stacked frames that go through a front end at a time


def logits_at_once(x):
    """See ``operators.logits_at_once``; so many stay in the cache, which halves the time
    of a cross-entropy (1200 rows, 8192 classes, two threads)."""
    return 2**21


# ------------------------------------------------------------------------------- bf16


def attention(q, k, v, allowed=None, dropout_p=0.0, causal=False):
    """See ``operators.attention``; in fp32, as the backward pass of the bf16 kernel takes
    five times as long."""
    v = widened(v)
    q, k = q.to(v.dtype), k.to(v.dtype)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(
            q, k, v, allowed, dropout_p, causal, scale=1.0
        )


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

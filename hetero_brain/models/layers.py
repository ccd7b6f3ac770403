"""SpeechBrain's Conformer layers where they are slow, or leak padding into speech.

Parameters and their names are SpeechBrain's, and so is what is computed, up to rounding.
"""

import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from speechbrain.lobes.models.transformer.Conformer import ConvolutionModule
from speechbrain.nnet.attention import RoPEMHA, _get_precomputed_values
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .packing import pack, unpack


def adapt(layer):
    """Replace the parts of a SpeechBrain ``ConformerEncoderLayer`` by those below.

    Arguments
    ---------
    layer : torch.nn.Module
        With rotary attention; changed in place. Weights of attention and convolution are
        drawn anew.
    """
    mha, conv = layer.mha_layer, layer.convolution_module
    layer.mha_layer = RotarySelfAttention(mha.embed_dim, mha.num_heads, mha.dropout)
    layer.convolution_module = MaskedConvolutionModule(
        conv.conv.in_channels,
        conv.kernel_size,
        dropout=conv.after_conv[3].p,
        causal=conv.causal,
    )
    for module in (layer.ffn_module1, layer.ffn_module2):
        module[1] = FeedForward(module[1].ffn)
    for parent in list(layer.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
            elif type(child) is nn.Linear:
                bias = child.bias is not None
                setattr(
                    parent, name, Linear(child.in_features, child.out_features, bias)
                )
                getattr(parent, name).load_state_dict(child.state_dict())


def recompute(module):
    """Have a module keep its inputs only, and run again in the backward pass.

    Activation checkpointing (Chen et al., arXiv:1604.06174). It draws the same random
    numbers in both runs.
    """
    module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def fp32_on_cpu(x):
    """A context without autocast if ``x`` is on a CPU: for operations whose bf16 kernels
    there are slower than those of fp32 (attention), or hang (depthwise convolution)."""
    return torch.autocast("cpu", enabled=False) if x.is_cpu else nullcontext()


def widened(x):
    """``x`` in fp32 if it is in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def linear(x, weight, bias=None):
    """``F.linear``; under bf16 on a CPU with rows padded to few shapes.

    oneDNN compiles a bf16 kernel for each number of rows (frames of a batch) that it has
    not seen, and every batch of speech has its own: see :class:`PaddedLinear`.
    """
    on_cpu = x.is_cpu and torch.is_autocast_enabled("cpu")
    if on_cpu and torch.get_autocast_dtype("cpu") == torch.bfloat16:
        return PaddedLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class PaddedLinear(torch.autograd.Function):
    """A linear layer in bf16 whose products have a multiple of 64 rows.

    The cast to bf16, which autocast makes too, writes into the padded copy. It can be
    differentiated once: the exact hypergradient of such layers wants fp32.
    """

    ROWS = 64

    @staticmethod
    def pad(x):
        """(…, channels) → (rows, channels) in bf16, zeros behind the rows of x."""
        x = x.reshape(-1, x.shape[-1])
        rows = -(-len(x) // PaddedLinear.ROWS) * PaddedLinear.ROWS
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


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear`."""

    def forward(self, x):
        """(…, inputs) → (…, outputs)."""
        return linear(x, self.weight, self.bias)


class MaskedConvolutionModule(ConvolutionModule):
    """SpeechBrain's convolution module, without its leak from padding into speech.

    SpeechBrain masks what leaves the depthwise convolution but not what enters it, so
    that the last frames of an utterance depend on how long it was padded. Here padding
    is zeroed before the convolution, which runs channels-last, without transposition:
    forward and backward two to three times as fast (one CPU thread).
    """

    def forward(self, x, mask=None, dynchunktrain_config=None):
        """Apply the module.

        Arguments
        ---------
        x : torch.Tensor
            (batch, frames, channels), or packed: (frames of all utterances, channels).
        mask : torch.Tensor
            (batch, frames, 1), True behind the end of an utterance.
        dynchunktrain_config : None
            Kept for SpeechBrain's signature; chunked training is not supported.

        Returns
        -------
        torch.Tensor
            As x.
        """
        pointwise = self.bottleneck[0]
        out = linear(self.layer_norm(x), pointwise.weight.squeeze(-1), pointwise.bias)
        out = F.glu(out, dim=-1)
        if x.dim() == 2:
            out = unpack(out, mask.squeeze(2))
        elif mask is not None:
            out = out.masked_fill(mask, 0.0)
        frames = out.shape[1]
        # (batch, channels, 1, frames), channels-last: a view of what is there.
        with fp32_on_cpu(out):
            out = F.conv2d(
                (widened(out) if out.is_cpu else out).transpose(1, 2).unsqueeze(2),
                self.conv.weight.unsqueeze(2),
                self.conv.bias,
                padding=(0, self.padding),
                groups=self.conv.groups,
            )
        # A causal convolution is padded by all it sees, on both sides; the end goes.
        out = out.squeeze(2)[..., :frames].transpose(1, 2)
        return self.after_conv(pack(out, mask.squeeze(2)) if x.dim() == 2 else out)


class FeedForward(nn.Module):
    """SpeechBrain's ``PositionalwiseFeedForward`` without its transposition to time ×
    batch and back, for which every input is copied.

    Arguments
    ---------
    ffn : torch.nn.Module
        Its two linear layers, and what is between them.
    """

    def __init__(self, ffn):
        super().__init__()
        self.ffn = ffn

    def forward(self, x):
        """(…, channels) → the same."""
        return self.ffn(x)


class Dropout(nn.Dropout):
    """Dropout by :func:`dropout`."""

    def forward(self, x):
        """Zero elements with probability p and scale the others by 1 / (1 − p)."""
        return dropout(x, self.p) if self.training else x


def dropout(x, p):
    """Dropout in a quarter of the time on a CPU, where it is a seventh of an iteration.

    PyTorch draws each decision by itself; here eight come from one 64-bit number of
    NumPy's fastest generator, a byte each. What p is in 256ths is rounded up or down at
    random in each call, so that each element is zeroed with probability p. A byte an
    element is kept for the backward pass. On other devices it is PyTorch's.
    """
    here = x.is_cpu and not torch.compiler.is_compiling()
    if not (here and 0 < p < 255 / 256):
        return F.dropout(x, p)
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
    """x · mask · scale, the mask kept in bytes."""

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


class RotarySelfAttention(RoPEMHA):
    """SpeechBrain's rotary attention, for self-attention only, with a broadcast mask.

    SpeechBrain expands the padding mask to (batch, heads, time, time) and inverts it in
    every layer, and rotates queries and keys by eight operations where one product of
    complex numbers takes a third of the time (one CPU thread). SDPA with dropout on a CPU
    draws each weight's fate by itself: step by step it takes 0.6 of the time (28 × 100
    frames, two threads). Under bf16 on a CPU, attention itself is computed in fp32: there
    the backward pass of PyTorch's bf16 kernel takes five times as long.
    """

    def forward(
        self,
        query,
        key=None,
        value=None,
        key_padding_mask=None,
        attn_mask=None,
        pos_embs=None,
    ):
        """Attend from every frame of an utterance to all of them.

        Arguments
        ---------
        query : torch.Tensor
            (batch, frames, embed_dim), or packed: (frames of all utterances, embed_dim).
            ``key`` and ``value`` are taken to be the same.
        key, value, pos_embs : None
            Kept for SpeechBrain's signature.
        key_padding_mask : torch.Tensor
            (batch, frames), True behind the end of an utterance.
        attn_mask : torch.Tensor
            (frames, frames), True where attention is not allowed.

        Returns
        -------
        out : torch.Tensor
            As the query.
        weights : None
            SDPA does not give them.
        """
        qkv = linear(query, self.in_proj_weight)
        if query.dim() == 2:
            qkv = unpack(qkv, key_padding_mask)
        qkv = qkv.unflatten(-1, (self.num_heads, 3, self.head_dim))
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        if v.is_cpu:
            v = widened(v)
        turns = self.turns(q)
        q, k = rotate(q, turns * self.scale).to(v.dtype), rotate(k, turns).to(v.dtype)
        allowed = None
        if key_padding_mask is not None:
            allowed = ~key_padding_mask[:, None, None, :]
        if attn_mask is not None:
            allowed = ~attn_mask if allowed is None else allowed & ~attn_mask
        with fp32_on_cpu(v):
            out = self.attend(q, k, v, allowed)
        out = out.transpose(1, 2).flatten(2)
        if query.dim() == 2:
            out = pack(out, key_padding_mask)
        return self.out_proj(out), None

    def attend(self, q, k, v, allowed):
        """SDPA of scaled queries; on a CPU, where no fused kernel has dropout, by hand.

        (batch, heads, frames, head_dim), and where attention is allowed → the same.
        """
        p = self.dropout if self.training else 0.0
        if not (p and v.is_cpu):
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=allowed, dropout_p=p, scale=1.0
            )
        scores = q @ k.mT
        if allowed is not None:
            scores += torch.zeros(allowed.shape).masked_fill_(~allowed, -math.inf)
        return dropout(scores.softmax(-1), p) @ v

    def turns(self, x):
        """By what each frame's position turns a pair of channels of queries or keys.

        (batch, heads, frames, head_dim) → (frames, head_dim / 2), complex of modulus 1.
        """
        frames, dtype = x.shape[2], torch.promote_types(x.dtype, torch.float32)
        table = _get_precomputed_values(frames, self.head_dim, dtype, x.device)
        return torch.complex(table.cosines[:frames, ::2], table.sines[:frames, 1::2])


def rotate(x, turns):
    """Turn pairs of channels (…, frames, head_dim), in fp32 or float64."""
    pairs = torch.view_as_complex(widened(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)

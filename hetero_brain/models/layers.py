"""SpeechBrain's Conformer layers where they are slow, or leak padding into speech.

Parameters and their names are SpeechBrain's, and so is what is computed, up to rounding.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.transformer.Conformer import ConvolutionModule
from speechbrain.nnet.attention import RoPEMHA
from torch import nn
from torch.utils.checkpoint import checkpoint

from .cpu import takes_packed
from .operators import attention, conv2d, dropout, linear
from .precision import widened


def adapt(layer):
    """Replace the parts of a SpeechBrain ``ConformerEncoderLayer`` by those below.

    Arguments
    ---------
    layer : torch.nn.Module
        With rotary attention; changed in place. Weights of attention and convolution are
        drawn anew.
    """
    mha, conv = layer.mha_layer, layer.convolution_module
    layer.mha_layer = RotarySelfAttention(
        mha.embed_dim, mha.num_heads, mha.dropout, conv.causal
    )
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


def is_recomputed(module):
    """Whether a module was given to :func:`recompute`."""
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is checkpoint


class Linear(nn.Linear):
    """``nn.Linear`` by ``operators.linear``."""

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
            (batch, frames, 1), True after the end of an utterance.
        dynchunktrain_config : None
            Kept for SpeechBrain's signature; chunked training is not supported.

        Returns
        -------
        torch.Tensor
            As x.
        """
        padding = None if mask is None else mask.squeeze(2)
        pointwise = self.bottleneck[0]
        out = linear(self.layer_norm(x), pointwise.weight.squeeze(-1), pointwise.bias)
        return self.after_conv(self.convolve(F.glu(out, dim=-1), padding))

    @takes_packed
    def convolve(self, x, padding):
        """The depthwise convolution over time: (batch, frames, channels) → the same."""
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(2), 0.0)
        # (batch, channels, 1, frames), channels-last: a view of what is there.
        out = conv2d(
            x.transpose(1, 2).unsqueeze(2),
            self.conv.weight.unsqueeze(2),
            self.conv.bias,
            padding=(0, self.padding),
            groups=self.conv.groups,
        )
        # A causal convolution is padded by all it sees, on both sides; the end goes.
        return out.squeeze(2)[..., : x.shape[1]].transpose(1, 2)


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
    """``nn.Dropout`` by ``operators.dropout``."""

    def forward(self, x):
        """Zero elements with probability p and scale the others by 1 / (1 − p)."""
        return dropout(x, self.p, self.training)


class RotarySelfAttention(RoPEMHA):
    """SpeechBrain's rotary attention, for self-attention only, with a broadcast mask.

    SpeechBrain expands the padding mask to (batch, heads, time, time) and inverts it in
    every layer, and computes the angles of its rotation anew each time.

    Arguments
    ---------
    embed_dim, num_heads, dropout
        As for SpeechBrain's ``RoPEMHA``.
    causal : bool
        No frame attends to a later one. Padding needs no mask then, as it is later than
        all frames of an utterance.
    """

    def __init__(self, embed_dim, num_heads, dropout=0.0, causal=False):
        super().__init__(embed_dim, num_heads, dropout)
        self.causal = causal

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
        key, value, attn_mask : None
            Kept for SpeechBrain's signature.
        key_padding_mask : torch.Tensor
            (batch, frames), True after the end of an utterance.
        pos_embs : tuple of torch.Tensor
            From :func:`rotary_turns`, for all layers; computed here if not given.

        Returns
        -------
        out : torch.Tensor
            As the query.
        weights : None
            SDPA does not give them.
        """
        qkv = linear(query, self.in_proj_weight)
        return self.out_proj(self.attend(qkv, key_padding_mask, pos_embs)), None

    @takes_packed
    def attend(self, qkv, padding, turns=None):
        """Attention within each utterance.

        (batch, frames, 3 · embed_dim), queries, keys and values → (batch, frames,
        embed_dim).
        """
        qkv = qkv.unflatten(-1, (self.num_heads, 3, self.head_dim))
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        if turns is None:
            turns = rotary_turns(q.shape[2], self.head_dim, q)
        cosines, sines = turns
        q = rotate(q, cosines * self.scale, sines * self.scale)
        k = rotate(k, cosines, sines)
        masked = padding is not None and not self.causal
        allowed = ~padding[:, None, None, :] if masked else None
        dropout = self.dropout if self.training else 0.0
        out = attention(q, k, v, allowed, dropout, self.causal)
        return out.transpose(1, 2).flatten(2)


def rotate(x, cosines, sines):
    """Turn pairs of channels, in fp32 or float64.

    Arguments
    ---------
    x : torch.Tensor
        (…, frames, channels), the pairs side by side.
    cosines, sines : torch.Tensor
        (frames, channels), as from :func:`rotary_turns`.

    Returns
    -------
    torch.Tensor
        As x.
    """
    x = widened(x)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cosines, swapped, sines)


def rotary_turns(frames, head_dim, like):
    """By what each frame's position turns pairs of channels (arXiv:2104.09864, eq. 34).

    Arguments
    ---------
    frames : int
        Positions.
    head_dim : int
        Channels of a head; each two neighbours are a pair.
    like : torch.Tensor
        Gives the device, and the dtype unless it is in half precision.

    Returns
    -------
    cosines, sines : torch.Tensor
        (frames, head_dim): those of each pair twice, the sines as −sin, sin.
    """
    options = {"dtype": widened(like[:0]).dtype, "device": like.device}
    steps = torch.arange(0, head_dim, 2, **options) * -(math.log(10000.0) / head_dim)
    angles = torch.outer(torch.arange(frames, **options), steps.exp())
    cosines, sines = angles.cos(), angles.sin()
    pairs = torch.stack([cosines, cosines], -1), torch.stack([-sines, sines], -1)
    return tuple(pair.flatten(1) for pair in pairs)

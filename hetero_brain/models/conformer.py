"""The Conformer encoder, on SpeechBrain's Conformer."""

import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.models.transformer.Conformer import (
    ConformerEncoder as SpeechBrainConformer,
)
from torch import nn

from . import cpu
from .front_ends import Conv1dFrontEnd, ConvFrontEnd
from .layers import Dropout, Linear, adapt, recompute, rotary_turns
from .operators import on_cpu
from .recorded import recorded

# Widths and depths by name; the feed-forward width of the paper's models is open, this
# one gives their 70 and 59 M parameters (10 blocks for BEST-RQ, 8 for CPC).
SIZES = {
    "mini": dict(num_layers=2, d_model=32, nhead=2, d_ffn=64, kernel_size=15),
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


@recorded
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
        (57 M); ``mini`` tries out a recipe in seconds, and learns little.
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
        f"{key}: {value}; choose one of {', '.join(known)}"
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


def make_head(encoder, n_outputs):
    """A linear layer on an encoder."""
    return linear_head(encoder.d_model, n_outputs)


@recorded
def linear_head(d_model, n_outputs):
    """A linear layer on an encoder of a dimension."""
    return Linear(d_model, n_outputs)


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
        self.front_end, self.d_model = front_end, d_model
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

    @on_cpu(cpu.encode)
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
            (batch, frames, d_model), normalised. What is after the end of an utterance
            has no meaning.
        hidden : sequence of torch.Tensor
            Input of the first block and output of each block, same shape.
        """
        padding = ~length_to_mask(lengths, features.shape[1], torch.bool)
        return self.run_blocks(self.dropout(self.front_end(features)), padding)

    def run_blocks(self, x, padding):
        """The blocks on the outputs of the front end.

        Arguments
        ---------
        x : torch.Tensor
            (batch, frames, d_model), or packed: (frames of all utterances, d_model).
        padding : torch.Tensor
            (batch, frames), True after the end of an utterance.

        Returns
        -------
        out, hidden
            As of :meth:`forward`, packed if x is.
        """
        attention = self.blocks.layers[0].mha_layer
        turns = rotary_turns(padding.shape[1], attention.head_dim, x)
        out, _, hidden = self.blocks(x, src_key_padding_mask=padding, pos_embs=turns)
        return out, hidden

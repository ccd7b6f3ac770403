"""What a recogniser reads from an encoder: its last layer, or a mix of all layers."""

import torch
import torch.nn.functional as F
from torch import nn

from .recorded import recorded


def weighted_layers(encoder):
    """The :class:`WeightedLayers` that fit an encoder."""
    return WeightedLayers(len(encoder.blocks.layers))


@recorded
class LastLayer(nn.Module):
    """Readout of the encoder's output, as in the paper."""

    def forward(self, out, hidden):
        """(batch, frames, d_model), and the hidden layers → the former."""
        return out


@recorded
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

"""BEST-RQ: predict the quantized features of masked spans (arXiv:2202.01855)."""

import torch

from .masked_prediction import MaskedPredictionBrain


class BestRQBrain(MaskedPredictionBrain):
    """Masked prediction of the labels that a frozen quantizer assigns to the features.

    Trains a new encoder, where its base class continues a public model: masked features
    are replaced by noise. Modules: ``features`` (waveforms → stacked features),
    ``quantizer``, ``encoder`` and ``output``. Also reads ``noise_std`` from ``hparams``,
    the standard deviation of that noise (paper: variance 0.1, i.e. 0.316).
    """

    no_graphs = None  # the Conformer never makes the host wait

    def inputs(self, x, lengths, masked, batch, iteration):
        """The features with noise in their masked spans, drawn on the device."""
        rng = self.device_generator(batch, "noise", iteration)
        noise = torch.randn(len(masked), x.shape[2], generator=rng, device=x.device)
        x.flatten(0, 1)[masked] = noise * self.hparams.noise_std  # a view: changes x
        return x

    def encode(self, x, lengths, masked):
        """The encoder's last layer, (batch, frames, d_model)."""
        return self.modules.encoder(x, lengths)[0]

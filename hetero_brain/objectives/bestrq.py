"""BEST-RQ: predict the quantized features of masked spans (arXiv:2202.01855)."""

import math
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from ..training.devices import to_device
from ..training.graphs import round_up
from ..training.parallel import gathered
from .cross_entropy import linear_cross_entropy
from .masking import mask_batch
from .prepared import PreparedOnce


class BestRQBrain(PreparedOnce):
    """Masked prediction of the labels that a frozen quantizer assigns to the features.

    Modules: ``features`` (waveforms → stacked features), ``quantizer``, ``encoder``, and
    ``output`` (linear, d_model → n_codebooks · codebook_size). Reads from ``hparams``:
    ``mask_prob``, ``mask_span`` (in stacked frames) and ``noise_std``, the standard
    deviation of the noise that replaces masked frames (paper: variance 0.1, i.e. 0.316).

    Loss: mean cross-entropy over masked frames and codebooks, in nats; chance level is
    log(codebook size). Also logged per domain: ``accuracy``, and ``codebook_use``, the
    fraction of codes that occurred as labels since the last entry, which shows a
    collapsed codebook.
    """

    def predict(self, noisy, lengths, masked, labels):
        """Predict the labels of the masked frames; takes what :meth:`prepare` returns.

        Returns
        -------
        loss : torch.Tensor
            Mean cross-entropy, in nats; 0 if the batch has no masked frame. The loss is
            computed here because the logits are too large to keep.
        hits : torch.Tensor
            (masked frames, n_codebooks) of bool: where the label had the largest logit.
        labels : torch.Tensor
            (masked frames, n_codebooks).
        """
        encoded, _ = self.modules.encoder(noisy, lengths)
        encoded = encoded.flatten(0, 1)[masked]  # the output layer needs no others
        output = self.modules.output
        loss, hits = linear_cross_entropy(encoded, labels, output.weight, output.bias)
        return loss, hits, labels

    def compute_objectives(self, predictions, batch, stage):
        """The cross-entropy from :meth:`predict`."""
        return predictions[0]

    def prepare(self, batch, iteration):
        """Features with noise in their masked spans, and the labels of the masked frames.

        An utterance's mask depends on (seed, iteration, utterance) only, not on the rest
        of the batch. The noise is drawn on the device.

        Returns
        -------
        noisy : torch.Tensor
            (batch, frames, features).
        lengths : torch.Tensor
            (batch,) in frames.
        masked : torch.Tensor
            (masked frames,), their indices in the flattened (batch · frames); for CUDA
            graphs, further ones that do not count follow.
        labels : torch.Tensor
            (masked frames, n_codebooks); -1 where they do not count.
        """
        lengths = self.frames(batch)
        prob, span = self.hparams.mask_prob, self.hparams.mask_span
        rngs = self.generators(batch, "mask", iteration)
        batch = batch.to(self.device, non_blocking=True)
        x, frames = self.padded(*self.modules.features(*batch.sig))
        places = np.flatnonzero(mask_batch(lengths, x.shape[1], prob, span, rngs))
        spare = self.spare(len(places), x.shape[0] * x.shape[1])
        masked, flat = to_device(places, x.device), x.flatten(0, 1)
        labels = self.modules.quantizer(flat[masked])
        rng = self.device_generator(batch, "noise", iteration)
        noise = torch.randn(len(masked), x.shape[2], generator=rng, device=x.device)
        flat[masked] = noise * self.hparams.noise_std  # flat is a view: changes x
        labels = F.pad(labels, (0, 0, 0, spare), value=-1)
        return x, frames, F.pad(masked, (0, spare)), labels

    def spare(self, n_masked, n_frames):
        """How many places to add to the masked frames of a batch, so that all batches of
        one size have as many, whatever their masks."""
        if self.graphs is None:
            return 0
        share = 1 - (1 - self.hparams.mask_prob) ** self.hparams.mask_span
        usual = round_up(math.ceil(share * n_frames))
        return max(usual, round_up(n_masked)) - n_masked

    def observe(self, domain_batch, outputs):
        """Record the accuracy and the codes seen, at φ_K."""
        _, hits, labels = outputs
        if len(labels):
            accuracy = hits.float().sum() / (labels >= 0).sum()
            self.monitor.add(domain_batch.domain, accuracy=accuracy)
            if domain_batch.domain not in self.codes_seen:
                unseen = torch.zeros_like(self.modules.output.bias, dtype=torch.bool)
                unseen = unseen.view(labels.shape[1], -1)
                self.codes_seen[domain_batch.domain] = F.pad(unseen, (0, 1))  # for -1
            codebooks = torch.arange(labels.shape[1], device=labels.device)
            seen = torch.ones((), dtype=torch.bool, device=labels.device)
            self.codes_seen[domain_batch.domain].index_put_((codebooks, labels), seen)

    def interval_stats(self):
        """Figures of the interval, with the fraction of codes in use per domain."""
        seen = {}
        for of_rank in gathered({d: s.cpu() for d, s in self.codes_seen.items()}):
            for domain, codes in of_rank.items():
                seen[domain] = seen.get(domain, False) | codes
        self.codes_seen.clear()
        use = {d: codes[:, :-1].float().mean().item() for d, codes in seen.items()}
        figures = {f"codebook_use/{domain}": share for domain, share in use.items()}
        return {**super().interval_stats(), **figures}

    def interval_state(self):
        """As the base class's, with the codes seen."""
        seen = {domain: codes.cpu() for domain, codes in self.codes_seen.items()}
        return {**super().interval_state(), "codes_seen": seen}

    def restore_interval(self, states):
        """As the base class's, with the codes seen."""
        super().restore_interval(states)
        self.codes_seen.clear()
        for state in states:
            for domain, codes in state["codes_seen"].items():
                codes = codes.to(self.device)
                self.codes_seen[domain] = self.codes_seen.get(domain, False) | codes

    @cached_property
    def codes_seen(self):
        """Domain → which codes were labels since the last entry."""
        return {}

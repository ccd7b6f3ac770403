"""BEST-RQ: predict the quantized features of masked spans (arXiv:2202.01855)."""

from collections import defaultdict
from functools import cached_property

import speechbrain as sb
import torch
import torch.nn.functional as F

from ..brain import HeteroBrain
from ..rng import generator
from .masking import mask_batch


class BestRQBrain(HeteroBrain):
    """Masked prediction of the labels that a frozen quantizer gives to the features.

    Modules: ``features`` (waveforms → stacked features), ``quantizer``, ``encoder``, and
    ``output`` (d_model → n_codebooks · codebook_size). Of ``hparams`` it reads
    ``mask_prob`` and ``mask_span`` (stacked frames) and ``noise_std``: masked frames are
    replaced by noise of that deviation (paper: variance 0.1, i.e. 0.316).

    Loss: mean cross-entropy over masked frames and codebooks, in nats; log(codebook
    size) is chance. Logged per domain beside it: ``accuracy``, and ``codebook_use``, the
    share of the codes that occurred as labels since the last entry (a collapsed
    codebook shows here).
    """

    # The last (batch, iteration) prepared, and what came out.
    _prepared, _inputs = (None, None), None

    def compute_forward(self, batch, stage):
        """Logits and labels of the masked frames.

        Returns
        -------
        logits : torch.Tensor
            (masked frames, n_codebooks, codebook_size).
        labels : torch.Tensor
            (masked frames, n_codebooks).
        """
        noisy, lengths, masked, labels = self.masked_inputs(batch, stage)
        encoded, _ = self.modules.encoder(noisy, lengths)
        logits = self.modules.output(encoded[masked])  # masked frames only
        return logits.unflatten(-1, (labels.shape[-1], -1)), labels

    def compute_objectives(self, predictions, batch, stage):
        """Mean cross-entropy, in nats; 0 where a batch has no masked frame."""
        logits, labels = predictions
        if len(labels) == 0:
            return logits.sum()
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    @torch.no_grad()
    def masked_inputs(self, batch, stage):
        """Features with noise in their masked spans, and the labels behind it.

        Computed once a batch: the K + 1 passes of a local solve share them. Masks and
        noise belong to (seed, iteration, utterance), whatever else is in the batch.

        Returns
        -------
        noisy : torch.Tensor
            (batch, frames, features).
        lengths : torch.Tensor
            (batch,) in frames.
        masked : torch.Tensor
            (batch, frames) of bool.
        labels : torch.Tensor
            (masked frames, n_codebooks).
        """
        iteration = self.iteration if stage == sb.Stage.TRAIN else -1
        if self._prepared[0] is batch and self._prepared[1] == iteration:
            return self._inputs
        batch = batch.to(self.device)
        x, lengths = self.modules.features(*batch.sig)
        rngs = [generator(self.hparams.seed, "mask", iteration, i) for i in batch.id]
        prob, span = self.hparams.mask_prob, self.hparams.mask_span
        masked = mask_batch(lengths.tolist(), x.shape[1], prob, span, rngs)
        noise = [
            rng.standard_normal((int(row.sum()), x.shape[2]), dtype="float32")
            for rng, row in zip(rngs, masked)
        ]
        masked = torch.from_numpy(masked).to(x.device)
        noise = torch.cat([torch.from_numpy(n) for n in noise]).to(x.device)
        labels = self.modules.quantizer(x[masked])
        x[masked] = noise * self.hparams.noise_std
        self._prepared = batch, iteration
        self._inputs = x, lengths, masked, labels
        return self._inputs

    def observe(self, part, k, loss, norm, grads, outputs):
        """Add accuracy and the codes seen, at φ_K."""
        super().observe(part, k, loss, norm, grads, outputs)
        logits, labels = outputs
        if k == self.local_steps and len(labels):
            hits = logits.argmax(-1) == labels
            self.monitor.add(part.domain, accuracy=hits.float().mean().item())
            offsets = torch.arange(labels.shape[1], device=labels.device)
            codes = labels + offsets * logits.shape[-1]
            counts = torch.bincount(codes.flatten(), minlength=logits[0].numel())
            self.codes_seen[part.domain] += counts

    def interval_stats(self):
        """Figures of the interval, with the share of codes in use per domain."""
        use = {
            f"codebook_use/{domain}": (counts > 0).float().mean().item()
            for domain, counts in self.codes_seen.items()
        }
        self.codes_seen.clear()
        return {**super().interval_stats(), **use}

    @cached_property
    def codes_seen(self):
        """Domain → how often each code was a label since the last entry."""
        return defaultdict(int)

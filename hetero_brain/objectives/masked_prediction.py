"""Masked prediction of frozen labels (HuBERT, arXiv:2106.07447; BEST-RQ: ``bestrq``)."""

import math
from functools import cached_property

import torch
import torch.nn.functional as F

from ..training.devices import to_device
from ..training.graphs import round_up
from ..training.parallel import gathered
from .cross_entropy import linear_cross_entropy
from .masking import MaskDrawer
from .prepared import PreparedOnce, widened_places
from .public_passes import before_passes, latents_of


class MaskedPredictionBrain(PreparedOnce):
    """Continues a public model by predicting the labels of masked frames.

    Modules: ``features`` and ``encoder`` (of :mod:`~hetero_brain.models.public`),
    ``targets`` (of :mod:`.targets`: waveforms → what is labelled; by default, that is the
    features), ``quantizer`` (of :mod:`.quantizers`), and ``output`` (linear, d_model →
    n_codebooks · codebook_size). Reads from ``hparams``: ``mask_prob`` and ``mask_span``
    (in encoder frames). Masked frames become the model's own mask embedding.

    Loss: mean cross-entropy over masked frames and codebooks, in nats; chance level is
    log(codebook size). Also logged per domain: ``accuracy``, and ``codebook_use``, the
    fraction of codes that occurred as labels since the last entry, which shows a
    collapsed codebook.
    """

    no_graphs = "a public model may make the host wait, which no CUDA graph can"

    @property
    def loss_of_guessing(self):
        """ln(codebook size), in nats."""
        return math.log(self.modules.quantizer.codebook_size)

    @classmethod
    def make_drawer(cls, modules, hparams):
        """A :class:`MaskDrawer`."""
        return MaskDrawer(
            seed=hparams["seed"],
            frames=modules["features"].frames,
            mask_prob=hparams["mask_prob"],
            mask_span=hparams["mask_span"],
        )

    def inputs(self, x, lengths, masked, batch, iteration):
        """What the passes on a batch begin with: the outputs of the front end if that is
        frozen.

        Arguments
        ---------
        x, lengths : torch.Tensor
            What ``features`` gave; ``x`` may be changed.
        masked : torch.Tensor
            (masked frames,), their indices in the flattened (batch · frames).
        batch, iteration
            As for :meth:`prepare`.
        """
        return before_passes(self.modules.encoder, x)

    def encode(self, x, lengths, masked):
        """The encoder's last layer (batch, frames, d_model), with the mask embedding in
        place of masked frames; takes what :meth:`prepare` returns."""
        encoder = self.modules.encoder
        latents = latents_of(encoder, x)
        hidden = torch.zeros(latents.shape[:2], dtype=torch.bool, device=latents.device)
        hidden.view(-1).index_fill_(0, masked, True)
        return encoder.contexts(latents, lengths, hidden)[0]

    def predict(self, x, lengths, masked, labels):
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
        encoded = self.encode(x, lengths, masked)
        encoded = encoded.flatten(0, 1)[masked]  # the output layer needs no others
        output = self.modules.output
        loss, hits = linear_cross_entropy(encoded, labels, output.weight, output.bias)
        return loss, hits, labels

    def compute_objectives(self, predictions, batch, stage):
        """The cross-entropy from :meth:`predict`."""
        return predictions[0]

    def prepare(self, batch, iteration):
        """What the passes begin with, and the labels of the masked frames.

        An utterance's mask depends on (seed, iteration, utterance) only, not on the rest
        of the batch.

        Returns
        -------
        x : torch.Tensor
            What :meth:`inputs` returns.
        lengths : torch.Tensor
            (batch,) in frames.
        masked : torch.Tensor
            (masked frames,), their indices in the flattened (batch · frames); for CUDA
            graphs, further ones that do not count follow.
        labels : torch.Tensor
            (masked frames, n_codebooks); -1 where they do not count.
        """
        longest, places = self.drawn(batch, iteration)
        batch = batch.to(self.device, non_blocking=True)
        x, frames = self.padded(*self.modules.features(*batch.sig))
        n_frames = self.size_of(longest)
        places = widened_places(places, longest, n_frames)
        spare = self.spare(len(places), len(x) * n_frames)
        masked = to_device(places, x.device)
        labelled = self.labelled(x, batch, n_frames).flatten(0, 1)[masked]
        labels = self.modules.quantizer(labelled)
        x = self.inputs(x, frames, masked, batch, iteration)
        labels = F.pad(labels, (0, 0, 0, spare), value=-1)
        return x, frames, F.pad(masked, (0, spare)), labels

    def labelled(self, x, batch, n_frames):
        """What the quantizer labels, (batch, n_frames, inputs): the features, or what
        ``targets`` makes of the waveforms.

        Raises
        ------
        ValueError
            The targets have another frame rate than the encoder.
        """
        if "targets" not in self.modules:
            return x
        targets, _ = self.modules.targets(*batch.sig)
        # Front ends differ in what they make of the last incomplete frame.
        if not n_frames <= targets.shape[1] <= n_frames + 2:
            raise ValueError(
                f"targets: {targets.shape[1]} frames where the encoder has {n_frames}; "
                "make them with the encoder's frame rate (for log-mels, by stack)"
            )
        return targets[:, :n_frames]

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

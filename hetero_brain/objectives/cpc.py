"""Contrastive predictive coding (CPC; van den Oord et al., arXiv:1807.03748).

The PTLOC paper leaves details of its second experiment open. This module interprets it as
follows.

- "Context 256 samples": raw audio is cut into windows of 256 samples, the channels of the
  1-D convolution of kernel 3 (``models/features.py``, ``models/front_ends.py``).
- Its stride, i.e. the frame rate: two windows per frame by default (``stack: 2``), which
  gives 94 frames/s at 48 kHz and 31 frames/s at 16 kHz.
- "12 positives and 12 negatives per instance": an instance is a frame t. Its positives
  are the next 12 frames, each contrasted with the same 12 negatives.
- Negatives are frames of the same utterance, drawn uniformly from those other than the 12
  positives, so that speaker, channel and language do not identify the positives.
- The context of an instance must not contain its positives: the encoder is causal.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..models.layers import Linear
from ..models.precision import widened
from ..training.devices import to_device
from .negatives import NegativeDrawer
from .prepared import PreparedOnce, widened_places


class FuturePredictor(nn.Module):
    """Predicts the latents of the next frames from a context, with one matrix per step.

    The matrices are initialised to zero, so that all candidates are equally likely and
    the initial loss is log(1 + negatives).

    Arguments
    ---------
    d_model : int
        Dimension of contexts and latents.
    n_steps : int
        Positives per instance.
    """

    def __init__(self, d_model, n_steps=12):
        super().__init__()
        self.n_steps = n_steps
        self.matrices = Linear(d_model, n_steps * d_model, bias=False)
        nn.init.zeros_(self.matrices.weight)

    def forward(self, contexts):
        """(instances, d_model) → (instances, n_steps, d_model)."""
        return self.matrices(contexts).unflatten(-1, (self.n_steps, -1))


def make_predictor(encoder, n_positives=12):
    """The :class:`FuturePredictor` that fits an encoder."""
    return FuturePredictor(encoder.d_model, n_positives)


class CPCBrain(PreparedOnce):
    """Discriminates the next frames of an utterance from its other frames (InfoNCE).

    Modules: ``features`` (waveforms → frames), ``encoder`` (a causal
    :class:`~hetero_brain.models.conformer.Conformer`) and ``predictor``
    (:class:`FuturePredictor`). Reads ``n_negatives`` from ``hparams``.

    With latents z = front end(x), contexts c = blocks(z) and the matrices W_k, instance t
    has the loss (eq. 4 of the CPC paper, averaged over k = 1 … n_steps)

        −log ( exp s_k(z_{t+k}) / (exp s_k(z_{t+k}) + Σ_n exp s_k(z_n)) ),
        s_k(z) = (W_k c_t) · z / √d.

    The loss of a batch is the mean over its instances, in nats, so that the size of a
    local step does not depend on the batch size; chance level is log(1 + n_negatives).
    Also logged per domain: ``accuracy``, how often the positive scores highest.
    """

    no_graphs = "the number of instances is different in every batch"

    @property
    def loss_of_guessing(self):
        """ln(1 + negatives), in nats."""
        return math.log(1 + self.hparams.n_negatives)

    @classmethod
    def make_drawer(cls, modules, hparams):
        """A :class:`NegativeDrawer`."""
        return NegativeDrawer(
            seed=hparams["seed"],
            frames=modules["features"].frames,
            n_steps=modules["predictor"].n_steps,
            n_negatives=hparams["n_negatives"],
        )

    def predict(self, x, lengths, instances, negatives):
        """Scores of the candidates, the positive first; takes what :meth:`prepare`
        returns.

        Returns
        -------
        torch.Tensor
            (instances, n_steps, 1 + n_negatives).
        """
        contexts, hidden = self.modules.encoder(x, lengths)
        latents = hidden[0].flatten(0, 1)  # z, the output of the front end
        steps = self.modules.predictor.n_steps
        next_steps = torch.arange(1, steps + 1, device=x.device)
        positives = latents[instances.unsqueeze(1) + next_steps]
        predicted = self.modules.predictor(contexts.flatten(0, 1)[instances])
        predicted = predicted / predicted.shape[-1] ** 0.5
        positive_scores = (predicted * positives).sum(-1, keepdim=True)
        negative_scores = predicted @ latents[negatives].mT.to(predicted.dtype)
        return widened(torch.cat([positive_scores, negative_scores], dim=-1))

    def prepare(self, batch, iteration):
        """Frames of raw samples, and the instances with their negatives.

        Returns
        -------
        x : torch.Tensor
            (batch, frames, samples in a frame).
        lengths : torch.Tensor
            (batch,) in frames.
        instances, negatives : torch.Tensor
            As from :func:`~hetero_brain.objectives.negatives.draw_negatives`.
        """
        n_frames, *places = self.drawn(batch, iteration)
        batch = batch.to(self.device, non_blocking=True)
        x, frames = self.modules.features(*batch.sig)
        places = (widened_places(each, n_frames, x.shape[1]) for each in places)
        return x, frames, *(to_device(each, x.device) for each in places)

    def compute_objectives(self, predictions, batch, stage):
        """Mean InfoNCE loss, in nats; 0 if no utterance of the batch is long enough."""
        if len(predictions) == 0:
            return predictions.sum()
        scores = predictions.flatten(0, 1)
        return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))

    def observe(self, domain_batch, outputs):
        """Record the accuracy at φ_K."""
        if len(outputs):
            hits = outputs[..., 0] > outputs[..., 1:].amax(-1)
            self.monitor.add(domain_batch.domain, accuracy=hits.float().mean())

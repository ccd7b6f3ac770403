"""wav2vec 2.0 (Baevski et al., arXiv:2006.11477), continued from a public checkpoint.

A masked frame t of context c_t has the loss (eqs. 2 to 4 of the paper)

    −log ( exp(sim(c_t, q_t)/κ) / Σ_{q ∈ {q_t} ∪ negatives} exp(sim(c_t, q)/κ) ),

with the cosine similarity sim of projections, the quantized latents q, and negatives from
the other masked frames of the utterance. The diversity term of the paper keeps all codes
in use. As in Transformers, it is (G·V − perplexity) / (G·V), for G codebooks of V codes.
"""

import math

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.utils.logger import get_logger

from ..domain_batch import NothingToLearn
from ..models.precision import widened
from ..training.devices import to_device
from .contrasts import ContrastDrawer
from .prepared import PreparedOnce
from .public_passes import before_passes, latents_of

logger = get_logger(__name__)

COLLAPSED = 2.0  # perplexity of a codebook: all frames have one or two of its codes
SAME = 0.5  # of the negatives equal to the positive


class Wav2Vec2Brain(PreparedOnce):
    """Tells the quantized latents of masked frames from those of other masked frames.

    Modules: ``features`` and ``encoder`` (of :mod:`~hetero_brain.models.public`), and
    ``heads``, the checkpoint's own
    :class:`~hetero_brain.models.public.PretrainingHeads`. Reads from ``hparams``:

    ``mask_prob``, ``mask_span``
        Probability that a span starts at a frame (paper: 0.065); frames in a span (10).
    ``n_negatives``
        For each masked frame (paper: 100).
    ``diversity_weight``
        Of the diversity term (paper: 0.1).
    ``feature_penalty``
        Weight of the mean square of the front end's outputs (fairseq: 10 for base, 0 for
        large), which has no effect while the front end is frozen.
    ``gumbel_max``, ``gumbel_min``, ``gumbel_decay``
        The temperature at which codes are drawn: max · decay^iteration, not less than min
        (paper: 2, 0.5 for base and 0.1 for large, 0.999995), counted in a phase.

    The loss is the mean over masked frames, in nats, so that the size of a local step
    does not depend on the batch size; chance level is log(1 + n_negatives), and the
    weighted diversity term comes on top. Also logged per domain: ``contrastive_loss``;
    ``accuracy``, how often the positive scores highest; ``perplexity``, between G and
    G·V; and ``same_negatives``, the share of negatives that have the codes of the
    positive, which do not count as negatives. A model that has collapsed gives all frames
    the same codes, which makes the contrastive loss 0: once a phase, a warning says so.
    """

    no_graphs = "the number of masked frames is different in every batch"
    warned = False  # of a collapse

    @property
    def loss_of_guessing(self):
        """ln(1 + negatives), in nats: of the contrastive loss."""
        return math.log(1 + self.hparams.n_negatives)

    @classmethod
    def make_drawer(cls, modules, hparams):
        """A :class:`.contrasts.ContrastDrawer`."""
        return ContrastDrawer(
            seed=hparams["seed"],
            frames=modules["features"].frames,
            mask_prob=hparams["mask_prob"],
            mask_span=hparams["mask_span"],
            n_negatives=hparams["n_negatives"],
        )

    def prepare(self, batch, iteration):
        """What the passes begin with, the masks, the negatives and the Gumbel noise.

        An utterance's mask and negatives depend on (seed, iteration, utterance) only, not
        on the rest of the batch. The noise is drawn on the device. In a validation there
        is none.

        Returns
        -------
        x : torch.Tensor
            The latents if the front end is frozen; otherwise the features.
        lengths : torch.Tensor
            (batch,) in frames.
        masked : torch.Tensor
            (batch, frames) of bool.
        places, inside, negatives : torch.Tensor
            As from :func:`.contrasts.draw_contrasts`.
        noise : torch.Tensor
            (batch, M, G, V).
        temperature : torch.Tensor
            Scalar.

        Raises
        ------
        NothingToLearn
            No utterance has two masked frames.
        """
        masks, places, *others = self.drawn(batch, iteration)
        if places.shape[1] == 0:
            raise NothingToLearn("no utterance has two masked frames")
        batch = batch.to(self.device, non_blocking=True)
        x, frames = self.modules.features(*batch.sig)
        quantizer = self.modules.heads.quantizer
        codes = *places.shape, quantizer.num_groups, quantizer.num_vars
        noise = torch.zeros(codes, device=x.device)
        if iteration >= 0:
            rng = self.device_generator(batch, "gumbel", iteration)
            noise = -noise.exponential_(generator=rng).log()
        values = masks, places, *others, self.temperature(max(iteration, 0))
        masked, places, inside, negatives, temperature = (
            to_device(value, x.device) for value in values
        )
        x = before_passes(self.modules.encoder, x)
        return x, frames, masked, places, inside, negatives, noise, temperature

    def temperature(self, iteration):
        """The temperature of the Gumbel softmax in an iteration."""
        annealed = self.hparams.gumbel_max * self.hparams.gumbel_decay**iteration
        return max(annealed, self.hparams.gumbel_min)

    def predict(
        self, x, lengths, masked, places, inside, negatives, noise, temperature
    ):
        """The loss, and the figures to log; takes what :meth:`prepare` returns.

        Returns
        -------
        loss : torch.Tensor
            Scalar: the contrastive loss with the weighted terms beside it.
        figures : dict
            Name → scalar tensor.
        """
        encoder, heads = self.modules.encoder, self.modules.heads
        latents = latents_of(encoder, x)
        contexts, _ = encoder.contexts(latents, lengths, masked)
        contexts, targets = (
            of_all.gather(1, places.unsqueeze(2).expand(-1, -1, of_all.shape[2]))
            for of_all in (contexts, encoder.normalized(latents))
        )
        quantized, codes, perplexity = quantize(
            heads.quantizer, targets, inside, noise, temperature
        )
        contrastive, figures = contrast(
            heads.project_hid(contexts),
            heads.project_q(quantized),
            codes,
            inside,
            negatives,
            heads.config.contrastive_logits_temperature,
        )
        n_codes = noise.shape[2] * noise.shape[3]
        loss = contrastive + self.hparams.diversity_weight * (1 - perplexity / n_codes)
        if self.hparams.feature_penalty and not encoder.front_end_is_frozen:
            own = length_to_mask(lengths, latents.shape[1], torch.bool).unsqueeze(2)
            energy = (widened(latents).square() * own).sum()
            penalty = energy / (lengths.sum() * latents.shape[2])
            loss = loss + self.hparams.feature_penalty * penalty
        figures |= {"contrastive_loss": contrastive, "perplexity": perplexity}
        return loss, {name: figure.detach() for name, figure in figures.items()}

    def compute_objectives(self, predictions, batch, stage):
        """The loss from :meth:`predict`."""
        return predictions[0]

    def observe(self, domain_batch, outputs):
        """Record the figures at φ_K."""
        self.monitor.add(domain_batch.domain, **outputs[1])

    def interval_stats(self):
        """Figures of the interval; warns once of a collapse."""
        figures = super().interval_stats()
        n_codebooks = self.modules.heads.quantizer.num_groups
        collapsed = [
            f"{name.partition('/')[2]} (perplexity {perplexity:.1f}, "
            f"{figures[name.replace('perplexity', 'same_negatives')]:.0%} of negatives)"
            for name, perplexity in figures.items()
            if name.startswith("perplexity/")
            and (
                perplexity < COLLAPSED * n_codebooks
                or figures[name.replace("perplexity", "same_negatives")] > SAME
            )
        ]
        if collapsed and not self.warned:
            self.warned = True
            logger.warning(
                f"The codes have collapsed, so that negatives equal the positive: "
                f"{', '.join(collapsed)}. The loss falls, but nothing is learnt. Begin "
                "again with lower learning rates (of the phase, and local_lr), or lower "
                "gumbel_max; a larger diversity_weight keeps more codes in use."
            )
        return figures


def quantize(quantizer, latents, inside, noise, temperature):
    """Codes of latents by the straight-through Gumbel softmax, with given noise.

    Arguments
    ---------
    quantizer : torch.nn.Module
        With ``weight_proj`` and ``codevectors``, as in Transformers.
    latents : torch.Tensor
        (batch, M, channels), normalised.
    inside : torch.Tensor
        (batch, M) of bool: which of them count.
    noise : torch.Tensor
        (batch, M, G, V), Gumbel.
    temperature : torch.Tensor
        Scalar.

    Returns
    -------
    quantized : torch.Tensor
        (batch, M, dimensions).
    codes : torch.Tensor
        (batch, M, G) of int64.
    perplexity : torch.Tensor
        Scalar: the sum over codebooks of exp(entropy) of the mean distribution, which is
        that of the softmax in training, and of the codes otherwise.
    """
    logits = widened(quantizer.weight_proj(latents)).unflatten(2, noise.shape[2:])
    soft = ((logits + noise.to(logits.dtype)) / temperature).softmax(-1)
    codes = soft.argmax(-1)
    hard = torch.zeros_like(soft).scatter(-1, codes.unsqueeze(-1), 1.0)
    # The codes, with the gradient of the softmax.
    chosen = hard + (soft - soft.detach())
    vectors = quantizer.codevectors.view(*noise.shape[2:], -1)
    quantized = torch.einsum("bmgv,gvd->bmgd", chosen, vectors.to(chosen.dtype))
    probabilities = logits.softmax(-1) if quantizer.training else hard
    of_all = probabilities.masked_fill(~inside[..., None, None], 0.0).sum((0, 1))
    mean = of_all / inside.sum()
    smallest = torch.finfo(mean.dtype).tiny  # the logarithm of 0 has no gradient
    entropy = -(mean * mean.clamp(min=smallest).log()).sum(-1)
    return quantized.flatten(2), codes, entropy.exp().sum()


def contrast(predicted, quantized, codes, inside, negatives, temperature):
    """The contrastive loss of masked frames.

    Arguments
    ---------
    predicted, quantized : torch.Tensor
        (batch, M, dimensions): projections of the contexts and of the codes.
    codes : torch.Tensor
        (batch, M, G).
    inside, negatives : torch.Tensor
        As from :func:`.contrasts.draw_contrasts`.
    temperature : float
        κ.

    Returns
    -------
    loss : torch.Tensor
        Scalar, in nats, averaged over what is ``inside``.
    figures : dict
        ``accuracy`` and ``same_negatives``, scalar tensors.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, quantized = (
            F.normalize(widened(x), dim=-1, eps=1e-8) for x in (predicted, quantized)
        )
        # Of all pairs of an utterance: less memory than a vector for every negative.
        similarity = predicted @ quantized.mT / temperature
    same = (codes.unsqueeze(2) == codes.unsqueeze(1)).all(-1).gather(2, negatives)
    positive = similarity.diagonal(dim1=1, dim2=2).unsqueeze(2)
    others = similarity.gather(2, negatives).masked_fill(same, -math.inf)
    losses = torch.cat([positive, others], 2).logsumexp(2) - positive.squeeze(2)
    count = inside.sum()
    hits = positive.squeeze(2) > others.amax(2)
    figures = {
        "accuracy": (hits & inside).sum() / count,
        "same_negatives": (same & inside.unsqueeze(2)).sum() / (count * same.shape[2]),
    }
    return losses.masked_fill(~inside, 0.0).sum() / count, figures

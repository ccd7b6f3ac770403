"""Speech recognition with CTC, and error rates per domain."""

import json
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.nnet.losses import ctc_loss
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from ..domain_batch import NothingToLearn
from ..training.parallel import gathered
from .alignments import write_alignments
from .encoder_rate import EncoderRateBrain
from .error_rates import describe, error_rates, utterance_errors
from .latent_masks import latent_masks
from .spelling import frames_to_spell

logger = get_logger(__name__)


class CTCBrain(EncoderRateBrain):
    """A linear CTC layer on an encoder; trained like CSSL, with K = 0.

    Modules: ``features``, ``encoder``, ``readout`` (the encoder's last layer, or a
    weighted sum of all) and ``ctc`` (d_model → units and blank). Reads from ``hparams``:
    ``tokenizer``, whose pieces are the first units, followed by the blank;
    ``freeze_encoder_iterations`` (how long the encoder is frozen, i.e. without gradient
    or dropout; ``.inf`` for a probe) and ``encoder_lr`` (see :mod:`.encoder_rate`);
    ``augment`` (SpecAugment on the feature frames, or None); of public models,
    ``mask_prob`` and ``mask_span`` (see :mod:`.latent_masks`);
    ``searches`` (stage → SpeechBrain's searcher; greedy decoding without one);
    ``character_domains`` (languages written without spaces: a character is a word).
    """

    min_keys = ("CER",)  # the checkpoint of the lowest is kept, and evaluated

    @property
    def blank(self):
        """Index of the CTC blank."""
        return self.hparams.tokenizer.get_piece_size()

    def encode(self, batch, stage):
        """Features and encoder of a batch.

        Returns
        -------
        encoded : torch.Tensor
            (batch, frames, d_model).
        lengths : torch.Tensor
            (batch,) in frames.
        """
        batch = batch.to(self.device)
        x, lengths = self.modules.features(*batch.sig)
        if stage == sb.Stage.TRAIN and self.hparams.augment is not None:
            frames = x.unflatten(-1, (self.modules.features.stack, -1)).flatten(1, 2)
            x = self.hparams.augment(frames).view_as(x)
        frozen = self.encoder_rests()
        self.modules.encoder.train(stage == sb.Stage.TRAIN and not frozen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            out, hidden = self.contexts(x, lengths, stage)
        return self.modules.readout(out, hidden), lengths

    def contexts(self, x, lengths, stage):
        """What the encoder makes of features; in training, of masked latents, if so."""
        encoder, mask_prob = self.modules.encoder, getattr(self.hparams, "mask_prob", 0)
        if stage != sb.Stage.TRAIN or not mask_prob:
            return encoder(x, lengths)
        latents, span = encoder.latents(x), self.hparams.mask_span
        masked = latent_masks(lengths, latents.shape[1], mask_prob, span)
        return encoder.contexts(latents, lengths, masked)

    def compute_forward(self, batch, stage):
        """Log-probabilities of the units.

        Returns
        -------
        log_probs : torch.Tensor
            (batch, frames, outputs).
        lengths : torch.Tensor
            (batch,) in frames.
        """
        encoded, lengths = self.encode(batch, stage)
        return unit_log_probs(self.modules.ctc, encoded), lengths

    def compute_objectives(self, predictions, batch, stage):
        """Loss per utterance, averaged; outside of training, records the errors.

        Logs the fraction of utterances that CTC cannot spell as ``unspellable``.

        Raises
        ------
        NothingToLearn
            CTC cannot spell any utterance of the batch, and there is no other loss.
        """
        loss = self.recognition_loss(predictions, batch)
        unspellable = ~self.spellable(predictions, batch)
        monitor = self.monitor if stage == sb.Stage.TRAIN else self.dev_monitor
        monitor.add(batch.domain[0], unspellable=unspellable.float().mean())
        if stage != sb.Stage.TRAIN:
            self.note_errors(batch, self.decode(predictions, stage))
        if unspellable.all() and loss.isnan():
            raise NothingToLearn("CTC cannot spell any utterance of the batch")
        return loss

    def recognition_loss(self, predictions, batch):
        """CTC loss: −log p(words) of an utterance, in nats, averaged over those that CTC
        can spell; NaN if there are none."""
        log_probs, lengths, *_ = predictions
        tokens, relative = batch.tokens, lengths / log_probs.shape[1]
        inputs = log_probs, tokens.data, relative, tokens.lengths
        if torch.are_deterministic_algorithms_enabled():
            inputs = [x.cpu() for x in inputs]  # on a GPU the gradient is not
        # SpeechBrain's loss and its gradient are 0 for an utterance without a path.
        total = ctc_loss(*inputs, self.blank, "sum").to(log_probs.device)
        return total / self.spellable(predictions, batch).sum()

    def spellable(self, predictions, batch):
        """Whether each utterance has as many frames as CTC needs: (batch,) of bool."""
        tokens, _ = batch.tokens
        return frames_to_spell(tokens, token_counts(batch)) <= predictions[1]

    def decode(self, predictions, stage):
        """Words of each utterance."""
        log_probs, lengths = predictions
        if search := self.hparams.searches.get(stage):
            found = search(blanks_behind(log_probs, lengths, self.blank))
            return [hypotheses[0].text for hypotheses in found]
        ids = ctc_greedy_decode(log_probs, lengths / log_probs.shape[1], self.blank)
        return [self.text(sequence) for sequence in ids]

    def text(self, ids):
        """The text of units; the blank and a decoder's marks are ignored."""
        return self.hparams.tokenizer.decode([i for i in ids if i < self.blank])

    def note_errors(self, batch, hypotheses):
        """Word and character errors of each utterance of a batch."""
        self.utterances += utterance_errors(
            batch.id,
            batch.domain,
            batch.wrd,
            hypotheses,
            self.hparams.character_domains,
        )

    def on_stage_start(self, stage, epoch=None):
        """Clear the list of errors."""
        super().on_stage_start(stage, epoch)
        self.utterances = []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Gather the errors of all ranks."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage != sb.Stage.TRAIN:
            found = [u for of_rank in gathered(self.utterances) for u in of_rank]
            self.utterances = sorted(found, key=lambda utterance: utterance["id"])

    def dev_figures(self, stage_loss):
        """Losses and error rates."""
        return {**super().dev_figures(stage_loss), **error_rates(self.utterances)}

    def evaluate_to(self, path, loader):
        """Evaluate the best checkpoint and write every utterance's errors.

        Arguments
        ---------
        path : str or Path
            The JSON file, which ``report`` reads. SpeechBrain's alignments are written
            beside it: for ``test.json``, to ``wer_test.txt`` and ``cer_test.txt``.
        loader : DataLoader
            Of single domain batches.

        Returns
        -------
        dict
            From :func:`error_rates`.
        """
        self.evaluate(loader, min_key=self.min_keys[0])
        text = json.dumps(self.utterances, ensure_ascii=False, indent=1)
        if if_main_process():
            Path(path).write_text(text, encoding="utf-8")
            write_alignments(self.utterances, path, self.hparams.character_domains)
        logger.info(f"{path}:\n{describe(self.utterances)}")
        return error_rates(self.utterances)


def unit_log_probs(ctc, encoded):
    """Log-probabilities of the units, (batch, frames, outputs) in fp32, from a CTC layer
    and what it takes, (batch, frames, d_model)."""
    return ctc(encoded).float().log_softmax(-1)


def blanks_behind(log_probs, lengths, blank):
    """Log-probabilities with a certain blank after the end of each utterance, so that
    any decoding may take all frames.

    Arguments
    ---------
    log_probs : torch.Tensor
        (batch, frames, outputs).
    lengths : torch.Tensor
        (batch,) in frames.
    blank : int
        Index of the blank.

    Returns
    -------
    torch.Tensor
        (batch, frames, outputs).
    """
    certain = log_probs.new_full(log_probs.shape[-1:], -torch.inf)
    certain[blank] = 0
    inside = length_to_mask(lengths, log_probs.shape[1], torch.bool)
    return torch.where(inside.unsqueeze(2), log_probs, certain)


def token_counts(batch):
    """Number of tokens of each utterance: (batch,) of int64."""
    tokens, relative = batch.tokens
    return (relative * tokens.shape[1]).round().long()

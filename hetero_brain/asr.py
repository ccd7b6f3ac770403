"""Fine-tuning for speech recognition with CTC, and error rates per domain."""

import json
import math
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from speechbrain.nnet.losses import ctc_loss
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.edit_distance import wer_details_for_batch
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import FileTrainLogger

from .brain import HeteroBrain
from .dataio import Utterances, dev_loader, make_plan, train_loader
from .encoder import make_head
from .loggers import JsonLinesLogger
from .report import UNITS, describe
from .text import train_tokenizer
from .transfer import load_module

logger = get_logger(__name__)


class CTCBrain(HeteroBrain):
    """A linear CTC layer on an encoder; trained as CSSL is, with K = 0.

    Modules: ``features``, ``encoder``, ``readout`` (the encoder's last layer, or a
    weighting of all for a probe) and ``ctc`` (d_model → units and blank). Of ``hparams``
    it reads ``tokenizer``; ``freeze_encoder_iterations`` (the encoder takes part
    without gradient or dropout for so long; ``.inf`` for a probe); ``augment``
    (SpecAugment on the feature frames, or None); ``test_search`` (a SpeechBrain
    searcher for the final evaluation, or None for greedy decoding).
    """

    def compute_forward(self, batch, stage):
        """Log-probabilities of the units.

        Returns
        -------
        log_probs : torch.Tensor
            (batch, frames, units + 1), the blank last.
        lengths : torch.Tensor
            (batch,) in frames.
        """
        batch = batch.to(self.device)
        x, lengths = self.modules.features(*batch.sig)
        if stage == sb.Stage.TRAIN and self.hparams.augment is not None:
            frames = x.unflatten(-1, (self.modules.features.stack, -1)).flatten(1, 2)
            x = self.hparams.augment(frames).view_as(x)
        frozen = self.iteration < self.hparams.freeze_encoder_iterations
        self.modules.encoder.train(stage == sb.Stage.TRAIN and not frozen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            out, hidden = self.modules.encoder(x, lengths)
        logits = self.modules.ctc(self.modules.readout(out, hidden))
        return logits.float().log_softmax(-1), lengths

    def compute_objectives(self, predictions, batch, stage):
        """CTC loss per utterance, averaged; notes the errors outside of training."""
        log_probs, lengths = predictions
        tokens, token_lens = batch.tokens
        relative = lengths / log_probs.shape[1]
        blank = log_probs.shape[-1] - 1
        loss = ctc_loss(log_probs, tokens, relative, token_lens, blank, "batchmean")
        if stage != sb.Stage.TRAIN:
            self.note_errors(batch, self.decode(log_probs, relative, stage))
        return loss

    def decode(self, log_probs, wav_lens, stage):
        """Words of each utterance: greedy, but for a test with ``test_search``."""
        search = self.hparams.test_search if stage == sb.Stage.TEST else None
        if search is not None:
            return [hyps[0].text for hyps in search(log_probs, wav_lens)]
        blank = log_probs.shape[-1] - 1
        ids = ctc_greedy_decode(log_probs, wav_lens, blank_id=blank)
        return [self.hparams.tokenizer.decode(sequence) for sequence in ids]

    def note_errors(self, batch, hypotheses):
        """Word and character errors of each utterance."""
        hypotheses = [" ".join(text.split()) for text in hypotheses]
        counts = {}
        for unit, split in (("word", str.split), ("char", list)):
            details = wer_details_for_batch(
                batch.id, [split(r) for r in batch.wrd], [split(h) for h in hypotheses]
            )
            counts[unit] = [(d["num_edits"], d["num_ref_tokens"]) for d in details]
        for i, key in enumerate(batch.id):
            word_errors, words = counts["word"][i]
            char_errors, chars = counts["char"][i]
            self.utterances.append(
                {
                    "id": key,
                    "domain": batch.domain[i],
                    "reference": batch.wrd[i],
                    "hypothesis": hypotheses[i],
                    "word_errors": word_errors,
                    "words": words,
                    "char_errors": char_errors,
                    "chars": chars,
                }
            )

    def on_stage_start(self, stage, epoch=None):
        """Empty the list of errors."""
        super().on_stage_start(stage, epoch)
        self.utterances = []

    def _fit_valid(self, valid_set, epoch, enable):
        """Validate every ``valid_interval`` epochs, and behind the last."""
        last = epoch == self.hparams.epochs
        if last or epoch % self.hparams.valid_interval == 0:
            super()._fit_valid(valid_set, epoch, enable)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log, and keep the checkpoint with the fewest character errors on dev."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
        elif stage == sb.Stage.VALID:
            rates = error_rates(self.utterances)
            self.log(
                train_stats={"loss": float(self.train_loss)},
                valid_stats={"loss": float(stage_loss), **rates},
            )
            self.checkpointer.save_and_keep_only(
                {"CER": rates["CER"], "epoch": epoch}, min_keys=["CER"], num_to_keep=1
            )

    def evaluate_to(self, path, loader):
        """Evaluate the best checkpoint and write every utterance's errors as JSON.

        Arguments
        ---------
        path : str or Path
            Where to write; see ``report`` for what is made of it.
        loader : DataLoader
            Of single domain batches.

        Returns
        -------
        dict
            As :func:`error_rates`.
        """
        self.evaluate(loader, min_key="CER", progressbar=False)
        text = json.dumps(self.utterances, ensure_ascii=False, indent=1)
        Path(path).write_text(text, encoding="utf-8")
        logger.info(f"{path}:\n{describe(self.utterances)}")
        return error_rates(self.utterances)


def error_rates(utterances):
    """CER and WER in percent, overall and per domain; NaN without references.

    Arguments
    ---------
    utterances : list of dict
        As :meth:`CTCBrain.note_errors` makes them.

    Returns
    -------
    dict
        ``CER``, ``WER``, and ``CER/domain``, ``WER/domain`` for each domain.
    """
    groups = {"": utterances}
    for utterance in utterances:
        groups.setdefault(f"/{utterance['domain']}", []).append(utterance)
    rates = {}
    for suffix, group in groups.items():
        for rate, unit in UNITS.items():
            total = sum(utterance[f"{unit}s"] for utterance in group)
            errors = sum(utterance[f"{unit}_errors"] for utterance in group)
            rates[rate + suffix] = 100 * errors / total if total else math.nan
    return rates


def finetune(hparams, run_opts, splits):
    """Fine-tune with CTC, and evaluate the best epoch.

    Writes ``<output_folder>/<split>.json`` for every split in ``eval_splits``.

    Arguments
    ---------
    hparams : dict
        As in a recipe's ``ctc.yaml``.
    run_opts : RunOptions or dict
        SpeechBrain's.
    splits : dict
        ``train``, ``dev`` and those in ``eval_splits`` → Manifest of transcribed speech.

    Returns
    -------
    dict
        Split → error rates, as :func:`error_rates`.
    """
    folder = Path(hparams["output_folder"])
    train = splits["train"]
    tokenizer = train_tokenizer(
        (row["wrd"] for row in train),
        folder / "tokenizer.model",
        hparams["unit"],
        hparams["vocab_size"],
    )
    blank = tokenizer.get_piece_size()
    modules = {
        **hparams["modules"],
        "ctc": make_head(hparams["modules"]["encoder"], blank + 1),
    }
    if hparams["pretrained"] is not None:
        load_module(modules["encoder"], "encoder", hparams["pretrained"])
    logger.info(f"new: readout and ctc ({blank} units and the blank)")
    search = None
    if hparams["beam_size"] is not None:
        pieces = [tokenizer.id_to_piece(i) for i in range(blank)]
        search = CTCBeamSearcher(blank, [*pieces, ""], beam_size=hparams["beam_size"])

    stateful = {k: m for k, m in modules.items() if m.state_dict()}
    counter = EpochCounter(hparams["epochs"])
    brain = CTCBrain(
        modules=modules,
        opt_class=hparams["opt_class"],
        hparams={
            **hparams,
            "tokenizer": tokenizer,
            "test_search": search,
            "loggers": [
                FileTrainLogger(folder / "train_log.txt"),
                JsonLinesLogger(folder / "log.jsonl"),
            ],
        },
        run_opts=run_opts,
        checkpointer=Checkpointer(folder / "save", {**stateful, "counter": counter}),
    )
    rate, seed, options = hparams["sample_rate"], hparams["seed"], hparams["loader"]
    utterances = {k: Utterances(m, rate, tokenizer.encode) for k, m in splits.items()}
    dev = {
        split: dev_loader(utterances[split], hparams["eval_batch_seconds"], **options)
        for split in utterances.keys() - {"train"}
    }
    plan = make_plan(train, seed, **hparams["plan"])
    brain.fit(counter, train_loader(utterances["train"], plan, **options), dev["dev"])
    return {
        split: brain.evaluate_to(folder / f"{split}.json", dev[split])
        for split in hparams["eval_splits"]
    }

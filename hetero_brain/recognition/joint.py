"""Joint CTC/attention recognition with SpeechBrain's Transformer decoder.

Watanabe et al., "Hybrid CTC/attention architecture for end-to-end speech recognition",
IEEE JSTSP 2017: loss (1 − λ) attention + λ CTC, and both scores in the search.
"""

import torch
import torch.nn.functional as F
from speechbrain.decoders import CTCScorer, S2STransformerBeamSearcher, ScorerBuilder

from ..training.determinism import any_algorithms
from .ctc import CTCBrain, token_counts, unit_log_probs

# Outputs after the tokenizer's pieces: the CTC blank, the beginning and the end of a
# sentence. The CTC layer and the decoder share them, as SpeechBrain's search requires.
BLANK, BOS, EOS = 0, 1, 2
N_MARKS = 3
PADDING = -1  # target in the padding


class JointBrain(CTCBrain):
    """CTC and attention on one encoder.

    Modules: those of :class:`CTCBrain` and ``decoder``. Reads from ``hparams`` also
    ``ctc_weight`` (λ of the loss) and ``label_smoothing``.
    """

    def compute_forward(self, batch, stage):
        """Outputs of the CTC layer and of the decoder.

        Returns
        -------
        log_probs : torch.Tensor
            (batch, frames, outputs), of CTC.
        lengths : torch.Tensor
            (batch,) in frames.
        encoded : torch.Tensor
            (batch, frames, d_model).
        logits : torch.Tensor
            (batch, tokens + 1, outputs), of the decoder: each token given those before.
        """
        encoded, lengths = self.encode(batch, stage)
        log_probs = unit_log_probs(self.modules.ctc, encoded)
        tokens = F.pad(batch.tokens.data, (1, 0), value=self.blank + BOS)
        return (
            log_probs,
            lengths,
            encoded,
            self.modules.decoder(tokens, encoded, lengths),
        )

    def recognition_loss(self, predictions, batch):
        """(1 − λ) attention + λ CTC, each the mean −log p of an utterance, in nats. CTC
        is averaged over utterances that it can spell, and left out if there are none."""
        *_, logits = predictions
        targets = self.targets(batch)
        attention = F.cross_entropy(
            logits.float().flatten(0, 1),
            targets.flatten(),
            ignore_index=PADDING,
            label_smoothing=self.hparams.label_smoothing,
            reduction="sum",
        ) / len(targets)
        weight = self.hparams.ctc_weight
        loss = (1 - weight) * attention
        if self.spellable(predictions, batch).any():
            loss = loss + weight * super().recognition_loss(predictions, batch)
        return loss

    def targets(self, batch):
        """Tokens of each utterance, then the end of the sentence, then ``PADDING``."""
        tokens, counts = batch.tokens.data, token_counts(batch).unsqueeze(1)
        places = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        targets = F.pad(tokens, (0, 1)).masked_fill(places > counts, PADDING)
        return targets.masked_fill(places == counts, self.blank + EOS)

    def decode(self, predictions, stage):
        """Words of each utterance: by CTC alone during training, when an early decoder
        would continue to the maximum length; by joint beam search in the test stage."""
        log_probs, lengths, encoded, _ = predictions
        search = self.hparams.searches.get(stage)
        if search is None:
            return super().decode((log_probs, lengths), stage)
        with any_algorithms():  # CTC's scores of prefixes are cumulative sums
            ids, *_ = search(encoded, lengths / encoded.shape[1])
        return [self.text(sequence) for sequence in ids]


def joint_search(modules, n_pieces, beam_size, ctc_weight, max_decode_ratio):
    """SpeechBrain's beam search with the scores of a decoder and of CTC.

    Arguments
    ---------
    modules : dict
        ``decoder`` and ``ctc``.
    n_pieces : int
        Pieces of the tokenizer.
    beam_size : int
        Hypotheses kept per utterance.
    ctc_weight : float
        λ of the search, from 0 to 1.
    max_decode_ratio : float
        Maximum number of tokens of a hypothesis per encoder frame. It ends the search on
        noise, where the end of the sentence may never be likely. CTC emits at most one
        token per frame.

    Returns
    -------
    S2STransformerBeamSearcher
        (encoded, relative lengths) → token ids, …
    """
    decoder, eos = modules["decoder"], n_pieces + EOS
    scorer = CTCScorer(modules["ctc"], blank_index=n_pieces + BLANK, eos_index=eos)
    return S2STransformerBeamSearcher(
        modules=[decoder.transformer, decoder.output],
        bos_index=n_pieces + BOS,
        eos_index=eos,
        min_decode_ratio=0.0,
        max_decode_ratio=max_decode_ratio,
        beam_size=beam_size,
        using_eos_threshold=False,
        length_normalization=True,
        scorer=ScorerBuilder(full_scorers=[scorer], weights={"ctc": ctc_weight}),
    )

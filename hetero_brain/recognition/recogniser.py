"""A trained recogniser, loaded from a model folder, for code that transcribes."""

import torch
from speechbrain.decoders.ctc import ctc_greedy_decode
from torch import nn

from ..errors import InputError
from ..models.model_folder import open_model
from ..models.run_folder import settled
from .ctc import blanks_behind
from .interfaces import Posteriors
from .joint import joint_search
from .search import ctc_search


@settled
def load_recogniser(folder, device="cpu", **search):
    """The recogniser of a model folder, or of a fine-tuning run.

    No code of the folder is run; see ``models/model_folder.py``.

    Arguments
    ---------
    folder : str or Path
        A model folder, or a fine-tuning run.
    device : str or torch.device
        Where it computes.
    **search
        Instead of the model's own: ``beam_size`` (None: greedy), for an attention model
        also ``search_ctc_weight`` and ``max_decode_ratio``; for CTC also ``lm``,
        ``lm_alpha`` and ``lm_beta`` (see ``search.py``).

    Returns
    -------
    Recogniser
        In evaluation mode, without gradients.

    Raises
    ------
    InputError
        See :func:`~hetero_brain.models.model_folder.open_model`; or the model does not
        recognise speech, or not by such a search, or lacks a setting of its search.
    """
    model = open_model(folder)
    if model.kind == "encoder":
        raise InputError(f"{folder}: an encoder, not a recogniser; fine-tune it first")
    modules = model.build("features", "encoder", "readout", "ctc")
    decoder = model.build("decoder") if model.kind == "attention" else {}
    tokenizer = model.tokenizer()
    keys = SEARCH if decoder else ("beam_size",)
    settings = {key: model[key] for key in keys} | search
    posteriors = Posteriors(
        **modules, blank_id=len(tokenizer), sample_rate=model.sample_rate
    )
    try:
        if decoder and (settings["beam_size"] or 0) < 1:
            raise InputError(
                f"{folder}: an attention model needs a beam_size from 1 on"
            )
        if decoder and "lm" in search:
            raise InputError(
                f"{folder}: an attention model takes no language model (lm)"
            )
        made = Recogniser(posteriors, tokenizer, decoder.get("decoder"), **settings)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder}: {settings}: {error}") from error
    return made.to(device).eval().requires_grad_(False)


SEARCH = ("beam_size", "search_ctc_weight", "max_decode_ratio")  # of a description


class Recogniser(nn.Module):
    """Waveforms to words, by CTC or by CTC and attention.

    Arguments
    ---------
    posteriors : Posteriors
        Features, encoder, readout and CTC layer.
    tokenizer : sentencepiece.SentencePieceProcessor
        Its pieces are the first units; the CTC blank is the next.
    decoder : AttentionDecoder
        None for CTC alone.
    beam_size, search_ctc_weight, max_decode_ratio, **search
        As for :func:`load_recogniser`.

    Attributes
    ----------
    kind : str
        ``ctc`` or ``attention``.
    sample_rate : int
        Of the waveforms, in Hz.
    tokenizer, posteriors, decoder
        As above.
    """

    def __init__(
        self,
        posteriors,
        tokenizer,
        decoder=None,
        beam_size=None,
        search_ctc_weight=None,
        max_decode_ratio=None,
        **search,
    ):
        super().__init__()
        self.posteriors, self.tokenizer, self.decoder = posteriors, tokenizer, decoder
        self.sample_rate, self.search = posteriors.sample_rate, None
        self.kind = "ctc" if decoder is None else "attention"
        if decoder is not None:
            self.search = joint_search(
                {"decoder": decoder, "ctc": posteriors.ctc},
                len(tokenizer),
                beam_size,
                search_ctc_weight,
                max_decode_ratio,
            )
        else:
            self.search = ctc_search(tokenizer, beam_size, **search)

    def encode(self, wavs, wav_lens=None):
        """What the readout makes of waveforms, (batch, frames, d_model), and lengths in
        frames."""
        return self.posteriors.encode(wavs, wav_lens)

    def log_probs(self, wavs, wav_lens=None):
        """CTC's log-probabilities of waveforms, (batch, frames, outputs), and lengths in
        frames. The outputs are the pieces, the blank and an attention model's marks."""
        return self.posteriors.log_probs(wavs, wav_lens)

    def decode_ctc(self, log_probs, lengths):
        """Texts from CTC's log-probabilities, greedily or by its beam search.

        Arguments
        ---------
        log_probs, lengths : torch.Tensor
            From :meth:`log_probs`.

        Returns
        -------
        list of str
        """
        blank = len(self.tokenizer)
        if self.search is not None and self.decoder is None:
            found = self.search(blanks_behind(log_probs, lengths, blank))
            return [spaced(hypotheses[0].text) for hypotheses in found]
        ids = ctc_greedy_decode(log_probs, lengths / log_probs.shape[1], blank)
        return [self.text(sequence) for sequence in ids]

    @torch.no_grad()
    def transcribe(self, wavs, wav_lens=None):
        """Texts of a batch of waveforms, as the evaluation of fine-tuning finds them.

        Arguments
        ---------
        wavs : torch.Tensor
            (batch, samples) at ``sample_rate``.
        wav_lens : torch.Tensor
            (batch,), relative to the longest. Default: all are as long.

        Returns
        -------
        list of str
        """
        if self.decoder is None:
            return self.decode_ctc(*self.log_probs(wavs, wav_lens))
        encoded, lengths = self.encode(wavs, wav_lens)
        ids, *_ = self.search(encoded, lengths / encoded.shape[1])
        return [self.text(sequence) for sequence in ids]

    def text(self, ids):
        """The text of units; the blank and a decoder's marks are ignored."""
        return spaced(
            self.tokenizer.decode([i for i in ids if i < len(self.tokenizer)])
        )


def spaced(text):
    """A text with single spaces between its words, as evaluations have it."""
    return " ".join(text.split())

"""What SpeechBrain's ``EncoderASR`` and ``EncoderDecoderASR`` need of a model folder.

Their encoders take waveforms, and their decoders relative lengths in samples, which do
not say exactly how many frames an utterance has. So what is behind its end is marked in
the encodings: zeros, or a blank that is certain.
"""

import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from torch import nn

from ..models.speech_encoder import SpeechEncoder
from .ctc import blanks_behind, unit_log_probs
from .joint import joint_search


class Encoded(SpeechEncoder):
    """The encoder of ``EncoderDecoderASR``: waveforms to what the readout makes of them.

    Arguments
    ---------
    features, encoder, readout : torch.nn.Module
        Of a recogniser.
    sample_rate : int
        In Hz.
    """

    def __init__(self, features, encoder, readout, sample_rate):
        super().__init__(features, encoder, sample_rate)
        self.readout = readout

    def encode(self, wavs, wav_lens=None):
        """Encode.

        Returns
        -------
        encoded : torch.Tensor
            (batch, frames, d_model).
        lengths : torch.Tensor
            (batch,) in frames.
        """
        encoded, lengths, layers = super().forward(wavs, wav_lens)
        return self.readout(encoded, layers), lengths

    def forward(self, wavs, wav_lens=None):
        """As :meth:`encode`, but only the encodings, zero after the end."""
        encoded, lengths = self.encode(wavs, wav_lens)
        inside = length_to_mask(lengths, encoded.shape[1], torch.bool)
        return encoded.masked_fill(~inside.unsqueeze(2), 0)


class Posteriors(Encoded):
    """The encoder of ``EncoderASR``: waveforms to log-probabilities of CTC.

    Arguments
    ---------
    features, encoder, readout, ctc : torch.nn.Module
        Of a recogniser.
    blank_id : int
        Index of the blank.
    sample_rate : int
        In Hz.
    """

    def __init__(self, features, encoder, readout, ctc, blank_id, sample_rate):
        super().__init__(features, encoder, readout, sample_rate)
        self.ctc, self.blank_id = ctc, blank_id

    def log_probs(self, wavs, wav_lens=None):
        """Log-probabilities of the units, (batch, frames, outputs), and lengths in
        frames, (batch,)."""
        encoded, lengths = self.encode(wavs, wav_lens)
        return unit_log_probs(self.ctc, encoded), lengths

    def forward(self, wavs, wav_lens=None):
        """As :meth:`log_probs`, but only these, with a certain blank after the end."""
        return blanks_behind(*self.log_probs(wavs, wav_lens), self.blank_id)


def frames_of(encoded, wav_lens):
    """Frames of each utterance of an :class:`Encoded`, relative to all: (batch,)."""
    return (encoded != 0).any(2).sum(1).to(wav_lens) / encoded.shape[1]


def greedy(log_probs, wav_lens, blank_id):
    """Greedy decoding of :class:`Posteriors`.

    Arguments
    ---------
    log_probs : torch.Tensor
        (batch, frames, outputs).
    wav_lens : torch.Tensor
        (batch,), not used: blanks are after the end.
    blank_id : int
        Index of the blank.

    Returns
    -------
    list of list of int
        Units of each utterance.
    """
    return ctc_greedy_decode(log_probs, torch.ones_like(wav_lens), blank_id)


class BeamSearch(CTCBeamSearcher):
    """SpeechBrain's CTC beam search on log-probabilities with blanks after the end.

    SpeechBrain's rounds relative lengths down, which may lose the last frame.

    Arguments
    ---------
    vocab_list : list of str
        Pieces of the tokenizer, which the blank follows.
    unknown : str
        Text of the unknown unit, the first.
    **settings
        ``beam_size``, and a language model's, as SpeechBrain's searcher takes them.
    """

    def __init__(self, vocab_list, unknown, **settings):
        names = [unknown, *vocab_list[1:], ""]
        super().__init__(blank_index=len(vocab_list), vocab_list=names, **settings)

    def __call__(self, log_probs, wav_lens=None, **kwargs):
        """As SpeechBrain's on all frames; the relative lengths are not used."""
        return super().__call__(log_probs, **kwargs)


class JointSearch(nn.Module):
    """The decoder of ``EncoderDecoderASR``: beam search with the scores of both.

    Arguments
    ---------
    decoder, ctc : torch.nn.Module
        Of a recogniser.
    n_pieces : int
        Pieces of the tokenizer.
    beam_size, ctc_weight, max_decode_ratio
        As for :func:`~hetero_brain.recognition.joint.joint_search`.
    """

    def __init__(self, decoder, ctc, n_pieces, beam_size, ctc_weight, max_decode_ratio):
        super().__init__()
        self.n_pieces = n_pieces
        self.search = joint_search(
            {"decoder": decoder, "ctc": ctc},
            n_pieces,
            beam_size,
            ctc_weight,
            max_decode_ratio,
        )

    def forward(self, encoded, wav_lens):
        """Search.

        Arguments
        ---------
        encoded : torch.Tensor
            (batch, frames, d_model) from :class:`Encoded`.
        wav_lens : torch.Tensor
            (batch,) of samples; the frames are counted instead.

        Returns
        -------
        tuple
            Units of each utterance, without the marks behind the pieces; lengths, scores
            and log-probabilities as SpeechBrain's search has them.
        """
        ids, *rest = self.search(encoded, frames_of(encoded, wav_lens))
        return ([[i for i in sequence if i < self.n_pieces] for sequence in ids], *rest)

"""Beam search of CTC, with an n-gram language model or without one."""

from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from .interfaces import BeamSearch

PACKAGES = ("kenlm", "pygtrie")  # of the extra: SpeechBrain's scorer imports both


def ctc_search(tokenizer, beam_size, lm=None, lm_alpha=0.5, lm_beta=1.5):
    """SpeechBrain's beam search of CTC, or None for greedy search.

    It looks for the text w with the largest log p_CTC(w) + α log p_LM(w) + β |w|, where
    |w| is the number of its words. The language model is one of words, in the spelling of
    the tokenizer's transcripts; SpeechBrain's search does not ask it for the end of a
    sentence.

    Arguments
    ---------
    tokenizer : SentencePieceProcessor
        Its pieces are the first outputs of the CTC layer; the blank follows them.
    beam_size : int or None
        Hypotheses kept per utterance; None: greedy search.
    lm : str or Path
        An n-gram model in the format ARPA (``.arpa``) or a binary of KenLM. Only the
        former lists its words, so that only with it words that it does not know, and
        parts of words that begin none, cost 10 more each (in nats).
    lm_alpha : float
        α, the weight of the language model.
    lm_beta : float
        β, the reward of a word, in nats; a larger one gives more and shorter words.

    Returns
    -------
    BeamSearch or None
        Log-probabilities of :func:`~hetero_brain.recognition.ctc.blanks_behind` →
        hypotheses of each utterance, best first.

    Raises
    ------
    InputError
        See :func:`check_search`; or the file is no language model.
    """
    check_search(beam_size, lm)
    if beam_size is None:
        return None
    pieces = [*map(tokenizer.id_to_piece, range(tokenizer.get_piece_size()))]
    unknown = tokenizer.decode([tokenizer.unk_id()])
    if lm is None:
        return BeamSearch(pieces, unknown, beam_size=beam_size)
    # Without a list of words, SpeechBrain would count every part of a word as unknown.
    offset = {} if str(lm).endswith(".arpa") else {"unk_score_offset": 0.0}
    try:
        return BeamSearch(
            pieces,
            unknown,
            kenlm_model_path=str(lm),
            alpha=lm_alpha,
            beta=lm_beta,
            beam_size=beam_size,
            **offset,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"lm: {lm} cannot be read as a language model: {error}"
        ) from error


def check_search(beam_size, lm=None):
    """Check the keys of a search before anything is trained.

    Arguments
    ---------
    beam_size, lm
        As for :func:`ctc_search`.

    Raises
    ------
    InputError
        There is no hypothesis to keep; or a language model is given to greedy search, its
        file is missing, or the packages that read it are.
    """
    if beam_size is not None and beam_size < 1:
        raise InputError(
            f"beam_size: {beam_size} is not 1 or more (null: greedy search)"
        )
    if lm is None:
        return
    if beam_size is None:
        raise InputError(
            f"lm: {lm} needs a beam search; give a beam_size, e.g. 100 (null is greedy "
            "search, which takes no language model)"
        )
    if not Path(lm).is_file():
        raise InputError(f"lm: {lm}: no such file")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"lm: {lm} cannot be read without {' and '.join(missing)}; install the extra "
            "lm: pip install 'hetero_brain[lm]'"
        )

"""Which utterances CTC can spell: each unit takes a frame, and so does the blank that has
to separate two equal units.

Graves et al., "Connectionist temporal classification", ICML 2006: an utterance with
fewer frames has no path, and its loss is infinite.
"""

import numpy as np
import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.utils.logger import get_logger

from ..errors import InputError
from .tokenizer import CHUNK, listed

logger = get_logger(__name__)

ADVICE = "Larger units (unigram, bpe; vocab_size) or a smaller stack help."


def frames_to_spell(tokens, counts):
    """The minimum number of frames in which CTC can emit each utterance.

    Arguments
    ---------
    tokens : torch.Tensor
        (batch, tokens) of int64.
    counts : torch.Tensor
        (batch,), number of tokens of each utterance, followed by padding.

    Returns
    -------
    torch.Tensor
        (batch,) of int64.

    Example
    -------
    >>> frames_to_spell(torch.tensor([[1, 1, 2, 2], [1, 1, 0, 0]]), torch.tensor([4, 2]))
    tensor([6, 3])
    """
    inside = length_to_mask(counts, tokens.shape[1], torch.bool)
    repeated = (tokens[:, 1:] == tokens[:, :-1]) & inside[:, 1:]
    return counts + repeated.sum(1)


def unspellable(manifest, tokenizer, features, sample_rate):
    """The utterances of a manifest that CTC cannot spell, judged by their durations.

    Durations are rounded, and the audio may be slightly shorter: an utterance within a
    frame of the limit may be judged differently once its audio is read.

    Arguments
    ---------
    manifest : Manifest
        Of transcribed speech.
    tokenizer : SentencePieceProcessor
        Words → units.
    features : torch.nn.Module
        Its method ``frames`` maps numbers of samples to numbers of frames.
    sample_rate : int
        In Hz.

    Returns
    -------
    dict
        Row → (frames needed, frames available).
    """
    samples = np.round(manifest.duration * float(sample_rate)).astype(np.int64)
    frames = features.frames(torch.from_numpy(samples))
    found = {}
    for start in range(0, len(manifest), CHUNK):
        rows = range(start, min(start + CHUNK, len(manifest)))
        units = tokenizer.encode([manifest[row]["wrd"] for row in rows])
        tokens = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(ids, dtype=torch.long) for ids in units], batch_first=True
        )
        needed = frames_to_spell(tokens, torch.tensor([len(ids) for ids in units]))
        for i in (needed > frames[start : rows.stop]).nonzero().flatten().tolist():
            found[start + i] = int(needed[i]), int(frames[start + i])
    return found


def leave_out_unspellable(splits, tokenizer, features, sample_rate, keep=False):
    """Log which utterances CTC cannot spell, and remove them from the training split.

    Arguments
    ---------
    splits : dict
        ``train`` and other splits → Manifest.
    tokenizer, features, sample_rate
        As for :func:`unspellable`.
    keep : bool
        Keep them in training, for a decoder to learn from.

    Returns
    -------
    dict
        As ``splits``. Other splits are unchanged: error rates cover all utterances.

    Raises
    ------
    InputError
        Names the domains that would have no training utterance left.
    """
    remaining_splits = {}
    for split, manifest in splits.items():
        found = unspellable(manifest, tokenizer, features, sample_rate)
        leave_out = found and split == "train" and not keep
        if found:
            left_out_of = "training" if leave_out else "the CTC loss"
            log_unspellable(manifest, found, f"left out of {left_out_of}")
        remaining_splits[split] = remaining(manifest, found) if leave_out else manifest
    return remaining_splits


def log_unspellable(manifest, found, treatment):
    """Log what :func:`unspellable` found in a manifest, and how it is treated."""
    names = (
        f"{manifest[row]['ID']}: {needed} frames needed, {available} there"
        for row, (needed, available) in found.items()
    )
    logger.warning(
        f"{manifest.path}: {len(found)} of {len(manifest)} utterances have fewer frames "
        f"than CTC needs to spell them; {treatment}. {ADVICE}{listed(names)}"
    )


def remaining(manifest, left_out):
    """The manifest without some rows; ValueError if a domain has none left."""
    rest = manifest.subset(np.setdiff1d(np.arange(len(manifest)), [*left_out]))
    if gone := {*manifest.domain.tolist()} - {*rest.domain.tolist()}:
        names = ", ".join(sorted(manifest.domains[i] for i in gone))
        raise InputError(
            f"{manifest.path}: CTC cannot spell any utterance of {names}. {ADVICE}"
        )
    return rest

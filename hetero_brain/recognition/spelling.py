"""What CTC can spell: each unit takes a frame, and so does the blank that has to stand
between two units that are the same.

Graves et al., "Connectionist temporal classification", ICML 2006: an utterance with
fewer frames has no path, and a loss of infinity.
"""

import numpy as np
import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.utils.logger import get_logger

from .tokenizer import CHUNK, listed

logger = get_logger(__name__)

ADVICE = "Larger units (unigram, bpe; vocab_size) or a smaller stack help."


def frames_to_spell(tokens, counts):
    """The fewest frames in which CTC can emit each of some utterances.

    Arguments
    ---------
    tokens : torch.Tensor
        (batch, tokens) of int64.
    counts : torch.Tensor
        (batch,), tokens of each utterance; what is behind them is padding.

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
    """The utterances of a manifest that CTC cannot spell, as far as it tells.

    A duration is rounded, and audio may be a little shorter than it: an utterance with
    hardly a frame to spare may turn out otherwise once it is read.

    Arguments
    ---------
    manifest : Manifest
        With words.
    tokenizer : SentencePieceProcessor
        Words → units.
    features : torch.nn.Module
        Its ``frames`` tells the frames of so many samples.
    sample_rate : int
        Hz.

    Returns
    -------
    dict
        Row → (frames that it needs, frames that it has).
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
    """Log which utterances CTC cannot spell, and leave those of training out.

    Arguments
    ---------
    splits : dict
        ``train`` and others → Manifest.
    tokenizer, features, sample_rate
        As for :func:`unspellable`.
    keep : bool
        Those of training stay, as there is a decoder that learns from them.

    Returns
    -------
    dict
        As ``splits``. The others are as they were: their error rates are of all.

    Raises
    ------
    ValueError
        Naming the domains that would have no utterance left to train on.
    """
    left = {}
    for split, manifest in splits.items():
        found = unspellable(manifest, tokenizer, features, sample_rate)
        leave_out = found and split == "train" and not keep
        if found:
            what = "left out of training" if leave_out else "left out of the CTC loss"
            log_unspellable(manifest, found, what)
        left[split] = remaining(manifest, found) if leave_out else manifest
    return left


def log_unspellable(manifest, found, what):
    """Log what :func:`unspellable` found in a manifest, and what becomes of it."""
    names = (
        f"{manifest[row]['ID']}: {needed} frames needed, {had} there"
        for row, (needed, had) in found.items()
    )
    logger.warning(
        f"{manifest.path}: {len(found)} of {len(manifest)} utterances have fewer frames "
        f"than CTC needs to spell them; {what}. {ADVICE}{listed(names)}"
    )


def remaining(manifest, left_out):
    """The manifest of the other rows; ValueError if a domain has none."""
    rest = manifest.subset(np.setdiff1d(np.arange(len(manifest)), [*left_out]))
    if gone := {*manifest.domain.tolist()} - {*rest.domain.tolist()}:
        names = ", ".join(sorted(manifest.domains[i] for i in gone))
        raise ValueError(
            f"{manifest.path}: CTC cannot spell any utterance of {names}. {ADVICE}"
        )
    return rest

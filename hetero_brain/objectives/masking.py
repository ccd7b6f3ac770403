"""Span masks that belong to (seed, step, utterance)."""

import numpy as np


def span_mask(n_frames, mask_prob, span, rng):
    """Mask spans of an utterance, each frame with probability 1 − (1 − p)^span.

    A span starts at any frame with probability p; spans may overlap, and may begin
    before the first frame, so that the share is the same at the start of an utterance
    as in its middle, and in a short one as in a long one.

    Arguments
    ---------
    n_frames : int
        Length of the utterance.
    mask_prob : float
        p, the probability that a span starts at a frame (paper: 0.02).
    span : int
        Frames in a span (paper: 20).
    rng : numpy.random.Generator
        Where the draw comes from.

    Returns
    -------
    numpy.ndarray
        (n_frames,) of bool.

    Example
    -------
    >>> mask = span_mask(100_000, 0.02, 20, np.random.default_rng(0))
    >>> round(float(mask.mean()), 2), round(1 - 0.98**20, 2)
    (0.33, 0.33)
    """
    starts = rng.random(n_frames + span - 1) < mask_prob
    # A frame is masked if one of the `span` places up to it starts a span.
    started = np.concatenate([[0], np.cumsum(starts)])
    return started[span:] > started[:-span]


def mask_batch(lengths, n_frames, mask_prob, span, rngs):
    """Masks of a batch, each utterance's drawn over its own frames.

    Arguments
    ---------
    lengths : sequence of int
        Frames of each utterance.
    n_frames : int
        Frames of the padded batch.
    mask_prob, span
        As for :func:`span_mask`.
    rngs : sequence of numpy.random.Generator
        One an utterance.

    Returns
    -------
    numpy.ndarray
        (batch, n_frames) of bool, False in the padding.
    """
    masks = np.zeros((len(lengths), n_frames), dtype=bool)
    for mask, length, rng in zip(masks, lengths, rngs):
        mask[:length] = span_mask(length, mask_prob, span, rng)
    return masks

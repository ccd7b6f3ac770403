"""Span masks, drawn per utterance from its own generator."""

from dataclasses import dataclass

import numpy as np
import torch

from .drawing import Drawer


def span_mask(n_frames, mask_prob, span, rng):
    """Mask spans of an utterance: a frame is masked with probability 1 − (1 − p)^span.

    A span starts at any frame with probability p. Spans may overlap, and may start before
    the first frame, so that the probability is the same at the start of an utterance as
    in its middle, and in short utterances as in long ones.

    Arguments
    ---------
    n_frames : int
        Length of the utterance.
    mask_prob : float
        p, the probability that a span starts at a frame (paper: 0.02).
    span : int
        Frames in a span (paper: 20).
    rng : numpy.random.Generator
        Source of randomness.

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
    # A frame is masked if a span starts at it or at one of the span − 1 frames before.
    started = np.concatenate([[0], np.cumsum(starts)])
    return started[span:] > started[:-span]


def mask_batch(lengths, n_frames, mask_prob, span, rngs):
    """Masks of a batch, drawn for each utterance over its own frames.

    Arguments
    ---------
    lengths : sequence of int
        Frames of each utterance.
    n_frames : int
        Frames of the padded batch.
    mask_prob, span
        As for :func:`span_mask`.
    rngs : sequence of numpy.random.Generator
        One per utterance.

    Returns
    -------
    numpy.ndarray
        (batch, n_frames) of bool, False in the padding.
    """
    masks = np.zeros((len(lengths), n_frames), dtype=bool)
    for mask, length, rng in zip(masks, lengths, rngs):
        mask[:length] = span_mask(length, mask_prob, span, rng)
    return masks


@dataclass(frozen=True)
class MaskDrawer(Drawer):
    """Draws the masked frames of a batch.

    Attributes
    ----------
    mask_prob, mask_span
        As for :func:`span_mask`.
    """

    mask_prob: float
    mask_span: int

    def masks(self, batch, iteration):
        """(batch, frames) of bool."""
        lengths = self.lengths(batch)
        rngs = self.generators(batch, "mask", iteration)
        prob, span = self.mask_prob, self.mask_span
        return mask_batch(lengths, max(lengths), prob, span, rngs)

    def __call__(self, batch, iteration):
        """Draw for a batch.

        Returns
        -------
        n_frames : int
            Of the longest utterance.
        masked : torch.Tensor
            (masked frames,) of int64, indices in the flattened (batch · n_frames).
        """
        masks = self.masks(batch, iteration)
        return masks.shape[1], torch.from_numpy(np.flatnonzero(masks))

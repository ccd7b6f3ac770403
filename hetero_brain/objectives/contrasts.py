"""Which masked frames wav2vec 2.0 tells apart: drawn per utterance."""

from dataclasses import dataclass

import numpy as np
import torch

from .masking import MaskDrawer


def draw_contrasts(masks, n_negatives, rngs):
    """Negatives for each masked frame, from the other masked frames of its utterance.

    A single masked frame of an utterance has none: it is unmasked.

    Arguments
    ---------
    masks : numpy.ndarray
        (batch, frames) of bool; changed.
    n_negatives : int
        Negatives of a frame, drawn uniformly with replacement.
    rngs : sequence of numpy.random.Generator
        One per utterance.

    Returns
    -------
    places : numpy.ndarray
        (batch, M) of int64, the masked frames of each utterance, M being the most that
        one has; behind an utterance's own, 0.
    inside : numpy.ndarray
        (batch, M) of bool, False behind an utterance's own.
    negatives : numpy.ndarray
        (batch, M, n_negatives) of int64, positions in ``places``.

    Example
    -------
    >>> masks = np.array([[0, 1, 0, 1], [0, 0, 1, 0]], dtype=bool)
    >>> rngs = [np.random.default_rng(i) for i in range(2)]
    >>> places, inside, negatives = draw_contrasts(masks, 1, rngs)
    >>> places.tolist(), inside.tolist(), negatives[0].tolist()
    ([[1, 3], [0, 0]], [[True, True], [False, False]], [[1], [0]])
    """
    masks[masks.sum(1) == 1] = False
    counts = masks.sum(1)
    inside = np.arange(counts.max(initial=0)) < counts[:, None]
    places = np.zeros(inside.shape, dtype=np.int64)
    places[inside] = masks.nonzero()[1]
    negatives = np.zeros((*inside.shape, n_negatives), dtype=np.int64)
    for drawn, count, rng in zip(negatives, counts, rngs):
        if count:
            drawn[:count] = rng.integers(count - 1, size=(count, n_negatives))
            drawn[:count] += drawn[:count] >= np.arange(count)[:, None]  # not itself
    return places, inside, negatives


@dataclass(frozen=True)
class ContrastDrawer(MaskDrawer):
    """Draws the masked frames of a batch, and their negatives.

    Attributes
    ----------
    n_negatives : int
        As for :func:`draw_contrasts`.
    """

    n_negatives: int

    def __call__(self, batch, iteration):
        """Draw for a batch.

        Returns
        -------
        masks : torch.Tensor
            (batch, frames) of bool.
        places, inside, negatives : torch.Tensor
            As from :func:`draw_contrasts`.
        """
        masks = self.masks(batch, iteration)
        rngs = self.generators(batch, "negatives", iteration)
        arrays = masks, *draw_contrasts(masks, self.n_negatives, rngs)
        return tuple(map(torch.from_numpy, arrays))

"""Which frames CPC contrasts with the next ones: drawn per utterance."""

from dataclasses import dataclass

import numpy as np
import torch

from .drawing import Drawer


def draw_negatives(lengths, n_frames, n_steps, n_negatives, rngs):
    """The instances of a batch, and the frames to contrast them with.

    Arguments
    ---------
    lengths : sequence of int
        Frames of each utterance.
    n_frames : int
        Frames of the padded batch.
    n_steps, n_negatives : int
        Positives and negatives per instance.
    rngs : sequence of numpy.random.Generator
        One per utterance.

    Returns
    -------
    instances : numpy.ndarray
        (N,) of int64, indices in the flattened (batch · n_frames): the frames t for which
        all of t + 1 … t + n_steps are in the utterance.
    negatives : numpy.ndarray
        (N, n_negatives) of int64, indices likewise: uniform over the frames of the
        utterance other than t + 1 … t + n_steps.
    """
    instances, negatives = [], []
    for row, (length, rng) in enumerate(zip(lengths, rngs)):
        frames = np.arange(max(0, length - n_steps))
        if len(frames):
            drawn = rng.integers(length - n_steps, size=(len(frames), n_negatives))
            drawn += n_steps * (drawn > frames[:, None])  # skip the positives
            instances.append(frames + row * n_frames)
            negatives.append(drawn + row * n_frames)
    if not instances:
        return np.zeros(0, np.int64), np.zeros((0, n_negatives), np.int64)
    return np.concatenate(instances), np.concatenate(negatives)


@dataclass(frozen=True)
class NegativeDrawer(Drawer):
    """Draws the negatives of a batch.

    Attributes
    ----------
    n_steps, n_negatives : int
        As for :func:`draw_negatives`.
    """

    n_steps: int
    n_negatives: int

    def __call__(self, batch, iteration):
        """Draw for a batch.

        Returns
        -------
        n_frames : int
            Of the longest utterance.
        instances, negatives : torch.Tensor
            As from :func:`draw_negatives`.
        """
        lengths = self.lengths(batch)
        rngs = self.generators(batch, "negatives", iteration)
        counts = self.n_steps, self.n_negatives
        drawn = draw_negatives(lengths, max(lengths), *counts, rngs)
        return max(lengths), *map(torch.from_numpy, drawn)

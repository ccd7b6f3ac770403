"""What draws the random numbers of a batch: in loader workers, or in the Brain.

It is sent to the workers, and must not need a model there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..training.rng import generator


@dataclass(frozen=True)
class Drawer:
    """Draws for each utterance of a batch, by (seed, iteration, utterance) alone.

    A callable for :func:`~hetero_brain.domain_batch.drawn`; subclasses define it.

    Attributes
    ----------
    seed : int
        The seed of the run.
    frames : callable
        Samples, a tensor of int64 → encoder frames, likewise: ``frames`` of the features.
    """

    seed: int
    frames: Callable

    def lengths(self, batch):
        """Encoder frames of each utterance, as a list."""
        wavs, lengths = batch.sig
        samples = (lengths * wavs.shape[1]).round().long()
        return self.frames(samples).tolist()

    def generators(self, batch, purpose, iteration):
        """A NumPy generator for each utterance of a batch."""
        return [generator(self.seed, purpose, iteration, name) for name in batch.id]

"""How many frames an utterance has: loader workers know it without the features."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FrameCount:
    """Frames of utterances of so many samples.

    Attributes
    ----------
    windows : tuple of (int, int)
        Length of a window and the step from one to the next, in samples; then of each
        further stage, in the frames of the one before it.

    Example
    -------
    >>> import torch
    >>> frames = FrameCount(((400, 320), (2, 2)))
    >>> frames(torch.tensor([100, 1039, 1040, 16000])), frames.step
    (tensor([ 1,  1,  1, 24]), 640)
    """

    windows: tuple

    @property
    def step(self):
        """Samples from one frame to the next."""
        return math.prod(step for _, step in self.windows)

    def __call__(self, samples):
        """(…) of int64, samples → (…) of int64, frames: whole windows, at least 1."""
        for length, step in self.windows:
            samples = (samples - length) // step + 1
        return samples.clamp(min=1)

"""What all passes of a local solve draw alike."""

import copy
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from torch.utils.data.dataloader import _BaseDataLoaderIter

from .rng import RandomState

END = object()  # of an iterator, in place of a batch


class Draws(RandomState):
    """The random numbers that a pass draws, and the batches that it takes from the data
    loaders in its modules, such as the noises of SpeechBrain's ``AddNoise``.

    Arguments
    ---------
    device : torch.device or str
        Device of the model.

    Example
    -------
    >>> from torch.utils.data import DataLoader
    >>> noises = iter(DataLoader([0.1, 0.2, 0.3]))
    >>> draws = Draws("cpu")
    >>> draws.keep()
    >>> with draws.replaying():
    ...     draws.restore()  # a pass
    ...     one = next(noises)
    ...     draws.restore()  # another one
    ...     other = next(noises)
    >>> one.item() == other.item(), round(next(noises).item(), 1)
    (True, 0.2)
    """

    def keep(self):
        """Keep the current state for :meth:`restore`, and no batch."""
        super().keep()
        self.batches, self.position = [], 0

    def restore(self):
        """Return to the state that was kept: a pass begins."""
        super().restore()
        self.position = 0

    @contextmanager
    def replaying(self):
        """In this block, each pass takes copies of the batches that the first one took.

        A pass may change them in place, and find that a loader has come to its end. What
        the loader itself has drawn at random is not drawn again.
        """
        take = _BaseDataLoaderIter.__next__

        def take_or_replay(iterator):
            if self.position == len(self.batches):
                batch, state = next_or_end(partial(take, iterator)), RandomState("cpu")
                state.keep()
                self.batches.append((batch, state))
            else:
                self.batches[self.position][1].restore()
            batch, _ = self.batches[self.position]
            self.position += 1
            if batch is END:
                raise StopIteration
            return copy.deepcopy(batch)

        with patch.object(_BaseDataLoaderIter, "__next__", take_or_replay):
            yield


def next_or_end(take):
    """The batch that ``take()`` returns, or END."""
    try:
        return take()
    except StopIteration:
        return END

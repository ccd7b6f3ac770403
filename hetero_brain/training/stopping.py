"""Early stopping."""

import math

from speechbrain.utils.epoch_loop import EpochCounterWithStopper


class PatientCounter(EpochCounterWithStopper):
    """SpeechBrain's counter of epochs that ends when an error no longer falls.

    SpeechBrain registers no checkpoint hooks for its class, so that a checkpoint has the
    epoch alone; :meth:`state` is the rest.

    Arguments
    ---------
    limit : int
        The most epochs.
    patience : int
        Epochs without a lower error after which to stop; None: never.

    Example
    -------
    >>> counter = PatientCounter(9, patience=2)
    >>> for epoch, error in zip(counter, [30.0, 20.0, 21.0, 20.0, 19.0]):
    ...     counter.update_metric(error)
    >>> counter.current, counter.should_stop
    (4, True)
    """

    def __init__(self, limit, patience=None):
        patience = math.inf if patience is None else patience
        super().__init__(limit, patience, 0, "min")

    def state(self):
        """The best epoch and its error, and the epochs behind it if it has stopped."""
        waited = self.current - self.best_limit if self.should_stop else 0
        return self.best_limit, self.best_score, waited

    def restore(self, state):
        """Restore what :meth:`state` returned; with more patience, it goes on."""
        self.best_limit, self.best_score, waited = state
        self.should_stop = waited >= self.limit_to_stop

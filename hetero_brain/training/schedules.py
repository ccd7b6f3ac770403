"""Learning-rate factors as functions of epoch and iteration: nothing to checkpoint."""


class HoldThenDecay:
    """1 for N epochs, then multiplied by a factor every epoch, with a linear warm-up.

    The schedule of the paper, whose pre-training holds the rate for 60 epochs and then
    multiplies it by 1/√2 every epoch until epoch 80. Local and global rates share it, so
    their ratio is constant.

    Arguments
    ---------
    hold_epochs : float
        Epochs at the full rate.
    decay : float
        Factor on the rate for each epoch after those.
    warmup_iterations : int
        Iterations over which the rate rises linearly from 0.

    Example
    -------
    >>> schedule = HoldThenDecay(hold_epochs=2, decay=0.5, warmup_iterations=4)
    >>> [schedule(epoch, iteration=100) for epoch in (1, 2, 3, 4)]
    [1.0, 1.0, 0.5, 0.25]
    >>> schedule(epoch=1, iteration=0)
    0.25
    """

    def __init__(self, hold_epochs, decay=2**-0.5, warmup_iterations=0):
        self.hold_epochs, self.decay = hold_epochs, decay
        self.warmup_iterations = warmup_iterations

    def __call__(self, epoch, iteration):
        """Factor for an iteration (counted from 0) of an epoch (counted from 1)."""
        warm = min(1.0, (iteration + 1) / max(1, self.warmup_iterations))
        return warm * self.decay ** max(0, epoch - self.hold_epochs)


def scale_rates(optimizers, factor):
    """Set every learning rate to its initial value times a factor.

    Arguments
    ---------
    optimizers : iterable of torch.optim.Optimizer
        Changed in place; the initial rate of a group is kept as its ``initial_lr``.
    factor : float
        Factor on the initial rates.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor

"""Warnings of a loss that says that a phase learns nothing, or unlearns."""

RISE = 0.1  # of the dev loss within a PTLOC phase: its θ is being lost
FAR, TIMES = 1.5, 3  # times that of guessing, in so many entries one after another


class LossWatch:
    """What is wrong with the losses of a phase, in words, each thing once.

    Arguments
    ---------
    guess : float
        The loss of guessing; by default the first training loss stands for it.
    """

    def __init__(self, guess=None):
        self.guess = guess
        self.first, self.far = None, 0
        self.first_dev = None
        self.told = []  # what has been said

    def of_training(self, loss, lr, local_lr=None):
        """Take the training loss of an entry, and the rates.

        Returns
        -------
        str or None
            That it is far above the loss of guessing, if so.
        """
        self.first = loss if self.first is None else self.first
        usual = self.guess or self.first
        self.far = self.far + 1 if loss > FAR * usual else 0
        if self.far < TIMES or "far" in self.told:
            return None
        self.told.append("far")
        of_what = "that of guessing" if self.guess else "the first"
        rates = f"the learning rate, which is {lr:.3g} now"
        if local_lr:
            rates += f", or local_lr, which is {local_lr:.3g}"
        return (
            f"The training loss is {loss:.4g}, far above {of_what}, {usual:.4g}: this "
            f"phase learns nothing. Lower {rates}; or raise warmup_iterations."
        )

    def of_dev(self, loss, local_lr=None):
        """Take the dev loss at θ, and the local rate, None in CSSL.

        Returns
        -------
        str or None
            That it has risen in a PTLOC phase, where φ_K may become better all the same.
        """
        if self.first_dev is None:
            self.first_dev = loss
        risen = loss > (1 + RISE) * self.first_dev
        if local_lr is None or not risen or "rise" in self.told:
            return None
        self.told.append("rise")
        return (
            f"The dev loss at θ has risen from {self.first_dev:.4g} to {loss:.4g} in "
            "this phase: the local steps are so long that θ itself gets worse. Lower "
            f"local_lr, which is {local_lr:.3g} now, or have it fall sooner, with fewer "
            "ptloc_hold_epochs."
        )

    def state(self):
        """What has been seen and said, for a checkpoint."""
        return {key: value for key, value in vars(self).items() if key != "guess"}

    def restore(self, state):
        """Go on from a state."""
        vars(self).update(state)

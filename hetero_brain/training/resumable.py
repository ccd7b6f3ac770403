"""A Brain that resumes after any iteration and keeps figures of each domain."""

import math

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from ..domain_batch import DomainBatch, NothingToLearn
from .geometry import UpdateGeometry
from .monitor import DomainMonitor
from .parallel import gathered, rank_and_size
from .saved import SavedBrain
from .schedules import scale_rates
from .solves import reason_to_leave_out

logger = get_logger(__name__)


class ResumableBrain(SavedBrain):
    """A ``sb.Brain`` that resumes after any iteration and keeps figures of each domain.

    Takes the arguments of ``sb.Brain``. ``monitor`` averages the figures of each domain
    over training iterations until they are read, ``dev_monitor`` over a validation.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.monitor, self.dev_monitor = DomainMonitor(), DomainMonitor()
        self.geometry = UpdateGeometry(self)
        self.nonfinite_count = 0  # set here for a fit_batch called without fit
        self.epoch = 1
        self.progress = None  # the progress bar, during an epoch
        self.stopping = False  # some rank asked to stop in the last iteration
        # Of the gradient accumulated since the last step: its share of the mean, and
        # whether the loss scale was too large.
        self.used, self.overflowed = 0.0, False

    @property
    def iteration(self):
        """Iterations since the phase began: updates of θ, including skipped ones."""
        return self.optimizer_step

    def next_batch(self, per_epoch):
        """The number of the next global batch of the run, in epochs of ``per_epoch``."""
        n = self.grad_accumulation_factor  # an epoch drops what it has not stepped on
        before = self.iteration - self.step // n
        epochs, steps = divmod(before, max(1, per_epoch // n))
        return epochs * per_epoch + steps * n + self.step

    def is_due(self, interval, done=False):
        """Whether an interval ends with this iteration; ``done`` if already counted."""
        return interval and (self.iteration + (not done)) % interval == 0

    def wants_to_stop(self):
        """Whether this rank asks all ranks to stop after this iteration; to override.

        Afterwards ``self.stopping`` is True on every rank if any rank asked.
        """
        return False

    # ------------------------------------------------------------------ training

    def fit(self, *args, **kwargs):
        """As SpeechBrain's."""
        super().fit(*args, **kwargs)
        self.geometry.conclude()

    def _fit_train(self, train_set, epoch, enable):
        """As SpeechBrain's, but starts the loader at this iteration if its sampler has
        ``start_at``, and with figures of its own in the progress bar."""
        self.epoch = epoch
        self.used, self.overflowed = 0.0, False
        if hasattr(sampler := getattr(train_set, "sampler", None), "start_at"):
            sampler.start_at(self.next_batch(len(sampler)))
            train_set = () if self.step == len(sampler) else train_set
        options = dict(initial=self.step, dynamic_ncols=True, disable=not enable)
        bar = sb.core.tqdm(train_set, **options)  # a recipe may have its own
        nonfinite = self.nonfinite_count if self.step else 0

        def remaining_batches():
            self.nonfinite_count = nonfinite  # SpeechBrain has just set it to 0
            if self.step:
                # If no batch is left in the epoch, its log entry needs these rates.
                self.anneal(self.iteration - 1)
            yield from bar

        with bar as self.progress:
            super()._fit_train(remaining_batches(), epoch, enable=False)
        self.progress = None

    def anneal(self, iteration):
        """Set local and global learning rates of an iteration by the same factor."""
        if self.lr_schedule is not None:
            optimizers = [*self.global_optimizers(), self.local_solver.optimizer]
            scale_rates(optimizers, self.lr_schedule(self.epoch, iteration))

    def optimizers_step(self):
        """As SpeechBrain's; in some iterations of PTLOC, also measures the update."""
        if self.geometry.is_due():
            self.geometry.measure_step(super().optimizers_step)
        else:
            super().optimizers_step()

    def end_iteration(self, loss):
        """Called at the end of ``fit_batch``; shows the loss and the update angle."""
        if self.progress is not None:
            figures = {"loss": f"{loss:.4f}"}
            if math.isfinite(self.geometry.last):
                figures["angle"] = f"{self.geometry.last:.1f}°"
                figures["ratio"] = f"{self.geometry.ratio:.1f}"  # step_ratio
            self.progress.set_postfix(figures)

    def leave_out(self, domain, reason):
        """Log and count a domain that does not contribute to this iteration."""
        logger.warning(
            f"iteration {self.iteration}: domain {domain} is left out: {reason}"
        )
        self.monitor.drop(domain)

    def record_solve(self, domain, passes):
        """Pass the figures of a local solve to the monitor, or leave its domain out.

        Arguments
        ---------
        domain : str
            Its domain.
        passes : list of (float, float)
            Loss and gradient norm of each pass.

        Returns
        -------
        bool
            Whether all passes were finite.
        """
        if reason := reason_to_leave_out(passes):
            self.leave_out(domain, reason)
        else:
            self.monitor.add_solve(domain, passes)
        return not reason

    def interval_stats(self):
        """Figures since the last call, ``name/domain`` → float; clears them."""
        return self.monitor.pop()

    # ---------------------------------------------------------------- validation

    def _fit_valid(self, valid_set, epoch, enable):
        """As SpeechBrain's, with the same statistics of modules on all ranks."""
        self.average_statistics()
        super()._fit_valid(valid_set, epoch, enable)

    def evaluate_batch(self, batch, stage):
        """Evaluate a batch; for a :class:`DomainBatch`, record the loss of its domain."""
        if not isinstance(batch, DomainBatch):
            return super().evaluate_batch(batch, stage)
        try:
            loss = super().evaluate_batch(batch.batches[-1], stage)
        except NothingToLearn:
            self.dev_monitor.drop(batch.domain)
            # SpeechBrain's running mean ignores the NaN but would count the step.
            self.step -= 1
            return torch.tensor(math.nan)
        self.dev_monitor.add(batch.domain, loss=loss.item())
        return loss

    def dev_figures(self, stage_loss):
        """Mean losses over the batches of all ranks: ``loss`` over all domains, and one
        for each; NaN without any batch. ``stage_loss`` is the mean of this rank."""
        counts = self.dev_monitor.counts.items()
        batches = sum(count for (figure, _), count in counts if figure == "loss")
        dropped = any(gathered(bool(self.dev_monitor.dropped)))
        of_ranks = gathered((float(stage_loss), batches))
        total = sum(count for _, count in of_ranks)
        loss = sum(mean * (count / total if total else 1) for mean, count in of_ranks)
        if dropped and not total:
            loss = math.nan
        return {"loss": loss, **self.dev_monitor.pop()}

    # --------------------------------------------------------------- checkpoints

    def run_state(self):
        """The state of a run between two iterations that ``sb.Brain`` does not save, as
        tensors and plain values."""
        return {
            "nonfinite_count": self.nonfinite_count,
            "angles": self.geometry.angles,
            "ranks": gathered(self.interval_state()),
        }

    def restore_run(self, state):
        """Restore what :meth:`run_state` returned, on any number of ranks."""
        self.nonfinite_count = state["nonfinite_count"]
        self.geometry.angles = state.get("angles", [])
        (rank, size), ranks = rank_and_size(), state["ranks"]
        if size == len(ranks):
            ranks = [ranks[rank]]
        elif rank > 0:
            ranks = []  # rank 0 takes the states of all
        self.restore_interval(ranks)

    def interval_state(self):
        """The state behind :meth:`interval_stats`, as tensors and plain values."""
        return self.monitor.state()

    def restore_interval(self, states):
        """Restore what :meth:`interval_state` returned on one rank or on several."""
        self.monitor.restore(states)

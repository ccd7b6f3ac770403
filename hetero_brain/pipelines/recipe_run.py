"""What the recipes add to a Brain: logs, checkpoints and preemption."""

import logging
from contextlib import nullcontext

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_barrier
from speechbrain.utils.logger import get_logger

from ..domain_batch import DomainBatch
from ..errors import InputError
from ..training import preemption
from ..training.gradients import gradients
from ..training.parallel import gathered
from ..training.settings import BRAIN_SETTINGS, RUN_SETTINGS, check_settings
from ..training.stopping import PatientCounter
from .console import in_a_line, training_loss
from .look_ahead import Pace
from .loss_watch import LossWatch

logger = get_logger(__name__)

ADAPTED = 4  # every so many dev batches of a domain, the loss after local steps


def recipe_brain(kind):
    """A subclass of a :class:`HeteroBrain` that also logs, saves and handles signals.

    Arguments
    ---------
    kind : type
        The HeteroBrain of an objective.

    Returns
    -------
    type
        ``kind`` extended by :class:`RecipeRun`.
    """
    return type(kind.__name__, (RecipeRun, kind), {"__doc__": kind.__doc__})


class RecipeRun:
    """Mix-in for a HeteroBrain that logs, saves and handles preemption signals.

    A run writes a log entry every ``log_interval`` iterations, and after each validation
    another one and a checkpoint; the console has a line of each. On a signal it finishes
    the current iteration or validation, saves and exits (see
    :mod:`~hetero_brain.training.preemption`). In a PTLOC phase, a validation also has
    ``loss_at_phi``, the loss that PTLOC minimises: of every
    :data:`ADAPTED`-th dev batch of each domain, after the K local steps on that batch.
    :class:`LossWatch` warns of losses that are too high. An objective may have
    ``loss_of_guessing``, in nats. Reads from ``hparams``:

    ``seed`` : int
        The seed of the run, which is also the ``solve_seed`` of its Brain.
    ``loggers`` : list
        SpeechBrain train loggers that receive every entry.
    ``log_interval`` : int
        Iterations between two log entries (100).
    ``valid_interval`` : int
        Epochs between two validations (1); there is always one after the last epoch.
    """

    run_name = "training"  # that of its folder, if it has one
    last_epoch = None

    def __init__(self, modules=None, opt_class=None, hparams=None, *args, **kwargs):
        settings = check_settings(hparams or {}, BRAIN_SETTINGS | RUN_SETTINGS)
        super().__init__(modules, opt_class, hparams, *args, **kwargs)
        vars(self).update(settings)
        if self.solve_seed is None:
            self.solve_seed = self.seed
        guess = getattr(self, "loss_of_guessing", None)
        self.loss_watch, self.guess_to_show = LossWatch(guess), guess
        self.patient = None  # the counter of epochs, if it stops early
        self.pace = None  # estimates how long a fit takes
        factor = self.grad_accumulation_factor
        if factor != 1:  # the plan counts global batches, not steps
            raise InputError(
                f"grad_accumulation_factor is {factor}, but must be 1 in a recipe; for a "
                "larger batch raise global_batch_seconds"
            )

    def fit(self, epoch_counter, train_set, valid_set=None, **kwargs):
        """As SpeechBrain's, but stops early on a preemption signal, or if the counter has
        patience and has lost it; it gets the first of ``min_keys`` on dev. In debug
        mode, the counter has no more than ``debug_epochs``."""
        if self.debug and getattr(epoch_counter, "limit", 0) > self.debug_epochs:
            epoch_counter.limit = self.debug_epochs
        if isinstance(epoch_counter, PatientCounter):
            self.patient = epoch_counter
        self.last_epoch = getattr(epoch_counter, "limit", None)
        saves = self.checkpointer is not None
        if saves:
            self.run_name = self.checkpointer.checkpoints_dir.parent.name
            if self.last_epoch and not self.debug:
                self.pace = Pace(self.run_name, self.last_epoch * len(train_set))
        with preemption.deferred(self.remaining_work) if saves else nullcontext():
            super().fit(epoch_counter, train_set, valid_set, **kwargs)
            if any(gathered(preemption.requested())):
                preemption.leave(saved=True)

    def remaining_work(self):
        """Describe what the run still does before it exits on a signal."""
        if self.progress is not None:
            return f"finishing iteration {self.iteration + 1} and saving"
        return f"finishing the validation of epoch {self.epoch} and saving"

    def wants_to_stop(self):
        """Whether a signal asked this rank to leave."""
        return preemption.requested()

    # ----------------------------------------------------------------- validation

    def evaluate_batch(self, batch, stage):
        """As the base class's; of some batches also the loss after K local steps."""
        loss = super().evaluate_batch(batch, stage)
        adapts = self.local_steps and stage == sb.Stage.VALID
        if adapts and isinstance(batch, DomainBatch) and loss.isfinite():
            if batch.replica % ADAPTED == 0:  # the same batches on any number of ranks
                adapted = self.adapted_loss(batch.batches[-1])
                self.dev_monitor.add(batch.domain, loss_at_phi=adapted)
        return loss

    def adapted_loss(self, batch):
        """The loss of a dev batch after K local steps on it, as a float."""

        def dev_loss():
            with self.evaluation_ctx:
                outputs = self.compute_forward(batch, sb.Stage.VALID)
                return self.compute_objectives(outputs, batch, sb.Stage.VALID)

        with self.local_solver.solve() as phi:
            for _ in range(self.local_steps):
                with torch.enable_grad():
                    grads = gradients(dev_loss(), phi.params, self.scaler)
                phi.step(grads)
            return dev_loss().item()

    # ---------------------------------------------------------------- checkpoints

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        due = super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)
        return due or self.stopping

    def _save_intra_epoch_ckpt(self):
        super()._save_intra_epoch_ckpt()
        if self.stopping:
            ddp_barrier()  # torchrun kills the other ranks soon after one has exited
            preemption.leave(saved=True)

    def _fit_valid(self, valid_set, epoch, enable):
        """As SpeechBrain's, if a validation is due, followed by a checkpoint."""
        if epoch != self.last_epoch and epoch % self.valid_interval:
            return
        self.dev_stats = {}
        super()._fit_valid(valid_set, epoch, enable)
        keys = getattr(self, "min_keys", ())  # the best by these is kept
        if self.patient:
            self.patient.update_metric(self.dev_stats[keys[0]])
        if self.checkpointer is not None:
            scores = {key: self.dev_stats[key] for key in keys if key in self.dev_stats}
            meta = {"epoch": epoch, **scores}
            if self.patient and self.patient.should_stop:
                meta["stopped"] = True  # it has fewer epochs than it was to have
            self.checkpointer.save_and_keep_only(
                meta, min_keys=keys, verbosity=logging.DEBUG
            )

    # ----------------------------------------------------------------------- logs

    def on_fit_start(self):
        """As SpeechBrain's; logs continue from their positions in the checkpoint."""
        self.log_positions = [None] * len(self.loggers)
        super().on_fit_start()
        if self.checkpointer is not None:
            for train_logger, position in zip(self.loggers, self.log_positions):
                if hasattr(train_logger, "resume"):
                    train_logger.resume(position, self.iteration)
        self.begun_at = self.iteration
        self.on_recovered()

    def on_recovered(self):
        """Called before the first iteration, once the last checkpoint is loaded."""

    def run_state(self):
        """With the positions of the logs, and what patience there is."""
        logs = [
            train_logger.position() if hasattr(train_logger, "position") else None
            for train_logger in self.loggers
        ]
        own = {"logs": logs, "watch": self.loss_watch.state()}
        if self.patient:
            own["patience"] = self.patient.state()
        return {**super().run_state(), **own}

    def restore_run(self, state):
        """With the positions of the logs, and what patience there is."""
        super().restore_run(state)
        self.log_positions = state["logs"]
        self.loss_watch.restore(state.get("watch", {}))
        if self.patient and "patience" in state:
            self.patient.restore(state["patience"])

    def end_iteration(self, loss):
        """Write the log entries that are due after an iteration."""
        super().end_iteration(loss)
        if self.pace is not None:
            self.pace.tick(self.iteration)
        if self.is_due(self.cosine_interval, done=True):
            self.log(train_stats=self.monitor.cosines(self.device))
        if self.is_due(self.log_interval, done=True):
            self.log(train_stats=self.interval_stats())

    def on_stage_start(self, stage, epoch=None):
        """As the base class's; says where training goes on."""
        super().on_stage_start(stage, epoch)
        if stage == sb.Stage.TRAIN and 0 < self.iteration == self.begun_at:
            logger.info(f"{self.run_name} goes on after iteration {self.iteration}")

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log the results of a validation."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        self.dev_stats = self.dev_figures(stage_loss)
        if stage == sb.Stage.VALID:
            self.warn(self.loss_watch.of_dev(self.dev_stats["loss"], self.local_rate))
            train_stats = {"loss": float(self.train_loss)}
            self.log(train_stats=train_stats, valid_stats=self.dev_stats)

    @property
    def local_rate(self):
        """The local rate of this iteration; None in CSSL."""
        if not self.local_steps:
            return None
        return self.local_solver.optimizer.param_groups[0]["lr"]

    def log(self, **stats):
        """Write an entry to every logger, with epoch, iteration and learning rates, and
        what people read of it to the console."""
        meta = {"epoch": self.epoch, "iteration": self.iteration, **self.rates()}
        if self.local_steps:
            meta["local_lr"] = self.local_rate
        for train_logger in self.loggers:
            train_logger.log_stats(meta, **stats)
        stages = {key.removesuffix("_stats"): figures for key, figures in stats.items()}
        if line := in_a_line(meta, stages, self.guess_to_show):
            epoch = f"epoch {self.epoch}"
            epoch += f" of {self.last_epoch}" if self.last_epoch else ""
            logger.info(f"{self.run_name}, {epoch}, iteration {self.iteration}: {line}")
            self.guess_to_show = None
        loss = training_loss(stages.get("train", {}))
        if loss is not None:
            self.warn(self.loss_watch.of_training(loss, meta["lr"], self.local_rate))

    def warn(self, text):
        """Log a warning, if there is one."""
        if text is not None:
            logger.warning(text)

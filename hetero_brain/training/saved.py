"""The files of a Brain in a checkpoint: SpeechBrain's own, and others beside it."""

import zipfile
from functools import partial

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from .local_states import INDEX
from .parallel import rank_and_size
from .participants import Participants

logger = get_logger(__name__)

STATE = "hetero_brain.ckpt"  # what :meth:`SavedBrain.run_state` returns


@partial(register_checkpoint_hooks, save_on_main_only=False)
class SavedBrain(Participants):
    """A ``sb.Brain`` whose checkpoints an ``sb.Brain`` can go on from, and vice versa.

    ``brain.ckpt`` is SpeechBrain's. What it has no place for is in files beside it, which
    SpeechBrain ignores, and without which a run begins with empty ones. Subclasses define
    ``run_state``, ``restore_run``, ``restore_interval`` and ``local_solver``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.checkpointer is not None:
            # Saved before the modules, since it averages their statistics over ranks.
            others = self.checkpointer.recoverables
            self.checkpointer.recoverables = {"brain": self, **others}

    def average_statistics(self):
        """Make running statistics equal on all ranks; see :class:`ModuleState`."""
        if rank_and_size()[1] > 1:
            self.local_solver.module_state.average_over_ranks(self.device)

    def solver_with_states(self):
        """The local solver if it keeps the states of its optimizer, otherwise None."""
        solver = vars(self).get("local_solver")  # absent in a mere evaluation
        return solver if solver is not None and solver.keep_state else None

    @mark_as_saver
    def _save(self, path):
        """Write the state of the run between two iterations; every rank must call it."""
        self.average_statistics()
        state, solver = self.run_state(), self.solver_with_states()
        if if_main_process():
            super()._save(path)
            torch.save(state, path.with_name(STATE))
        if solver is not None:
            solver.states.save(path.parent, solver.optimizer)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        solver = self.solver_with_states()
        if zipfile.is_zipfile(path):  # until November 2026 it held all of the state
            state = _load(path)
            for name in ("step", "avg_train_loss", "optimizer_step"):
                setattr(self, name, state[name])
            self.restore_run(state)
        else:
            super()._recover(path, end_of_epoch)
            self._recover_state(path.with_name(STATE))
        if solver is not None and not solver.states.load(path.parent):
            logger.warning(
                f"{path.parent} has no states of local optimizers ({INDEX}): those of "
                "all domains start empty"
            )

    def _recover_state(self, path):
        if path.exists():
            self.restore_run(_load(path))
        else:
            logger.info(f"{path.parent} was written by sb.Brain; continuing from it")
            self.nonfinite_count = 0
            self.restore_interval([])


def _load(path):
    return torch.load(path, map_location="cpu", weights_only=True)

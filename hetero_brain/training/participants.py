"""Which parts of a Brain take part in its local solves."""

from contextlib import contextmanager
from functools import cache

import torch

from .compilation import CompilingBrain
from .devices import warn_of_slow_precision
from .draws import Draws
from .parallel import rank_and_size, without_collectives
from .requirements import (
    refuse_data_parallel,
    refuse_graphs,
    refuse_reentrant_checkpoint,
)

COUNTING = {
    "speechbrain.utils.Accuracy",
    "speechbrain.utils.metric_stats",
    "speechbrain.nnet.schedulers",
}


class Participants(CompilingBrain):
    """A ``sb.Brain`` that knows its optimizers, parameters and modules, and what else
    its forward passes change. Takes the arguments of ``sb.Brain``."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        refuse_data_parallel(self)
        self.random_state = Draws(self.device)
        self.local_step = 0  # k of the pass that is running: 0 at θ, K at φ_K
        self.graph_is_checked = False  # that of the first pass
        warn_of_slow_precision(self)
        refuse_graphs(self)

    def graph_obstacle(self):
        """Why passes cannot be CUDA graphs, and what to do; None if they can."""
        return f"{type(self).__name__} does not prepare batches of few shapes"

    def global_optimizers(self):
        """The optimizers of θ: one, unless a subclass creates several."""
        if self.optimizers_dict is None:
            return [self.optimizer] if hasattr(self, "optimizer") else []
        return [*self.optimizers_dict.values()]

    def all_parameters(self):
        """The parameters of all modules and of all optimizers, each once."""
        groups = [g for o in self.global_optimizers() for g in o.param_groups]
        of_optimizers = [p for group in groups for p in group["params"]]
        return [*dict.fromkeys([*self.modules.parameters(), *of_optimizers])]

    def all_modules(self):
        """All modules in ``modules`` and in ``hparams``, each once."""
        given = [
            v for v in vars(self.hparams).values() if isinstance(v, torch.nn.Module)
        ]
        found = [
            module for whole in (self.modules, *given) for module in whole.modules()
        ]
        return [*dict.fromkeys(found)]

    def counting_objects(self):
        """The attributes of SpeechBrain's metrics and schedulers in this Brain and in
        ``hparams``, which count what ``compute_objectives`` gives them, and of the
        parameter groups whose rates they set."""
        given = (*vars(self).values(), *vars(self.hparams).values())
        groups = [g for o in self.global_optimizers() for g in o.param_groups]
        return [*counting(given), *groups]

    @contextmanager
    def alone(self):
        """A local solve, in which all passes draw alike, and other ranks take no part.

        Raises
        ------
        RuntimeError
            On several ranks, something in it communicates, or changes a learning rate,
            which would then differ between ranks.
        """
        before = self.learning_rates()
        with self.random_state.replaying(), without_collectives():
            yield
        if rank_and_size()[1] > 1 and self.learning_rates() != before:
            raise RuntimeError(
                "A learning rate has changed in a local solve, of which ranks have "
                "different numbers: call the scheduler in on_fit_batch_end, not in "
                "compute_forward or compute_objectives."
            )

    def rates(self):
        """Name → learning rate, as log entries have them."""
        return {"lr": self.global_optimizers()[0].param_groups[0]["lr"]}

    def learning_rates(self):
        """The learning rates of all groups of all optimizers of θ."""
        groups = [g for o in self.global_optimizers() for g in o.param_groups]
        return [float(group["lr"]) for group in groups]

    def check_graph(self, loss):
        """Refuse what :mod:`.requirements` refuses in the graph of the first pass."""
        if not self.graph_is_checked:
            refuse_reentrant_checkpoint(loss)
            self.graph_is_checked = True

    def drop_frozen(self, grads):
        """Set local gradients to None where no optimizer trains a parameter for now: that
        of ``freeze_optimizers``, if there are several."""
        if self.optimizers_dict:
            active = self.freeze_optimizers(self.optimizers_dict).values()
            groups = [group for o in active for group in o.param_groups]
            trained = {id(param) for group in groups for param in group["params"]}
            for i, param in enumerate(self.local_solver.params):
                if id(param) not in trained:
                    grads[i] = None


def counting(values):
    """The attributes of the metrics and schedulers among some values, of those in
    dictionaries among them, and of those that these hold in turn."""
    for value in values:
        for member in value.values() if type(value) is dict else [value]:
            if counts(type(member)):
                yield vars(member)
                yield from counting(vars(member).values())


@cache
def counts(kind):
    """Whether a class is a metric or a scheduler of SpeechBrain, or derived from one."""
    return any(base.__module__ in COUNTING for base in kind.__mro__)

"""What passes change besides parameters counts each batch once."""

from types import SimpleNamespace

import torch
from speechbrain.nnet.schedulers import CyclicLRScheduler
from speechbrain.utils.Accuracy import AccuracyStats
from speechbrain.utils.metric_stats import MetricStats, MultiMetricStats
from torch import nn

from hetero_brain import DomainBatch
from hetero_brain.training.module_state import ModuleState


class Kept(nn.Module):
    """Keeps figures in all the ways that modules do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.total = torch.zeros(2)  # written in place
        self.mean = torch.zeros(2)  # replaced
        self.count, self.first = 0, None
        self.history = []
        self.activations = None

    def forward(self, x):
        self.count += 1
        self.total += x.mean(0)
        self.mean = self.mean + (x.mean(0) - self.mean) / self.count
        self.first = self.count if self.first is None else self.first
        self.history.append(self.count)
        self.activations = self.linear(x)
        return self.activations


def test_each_kind_is_restored():
    module = Kept()
    module(torch.ones(3, 2))
    state = ModuleState(module.modules())
    snapshot, total = state.copy(), module.total
    module(torch.full((3, 2), 9.0))
    assert module.count == 2 and module.total.tolist() == [10, 10]
    state.restore(snapshot)
    assert module.total is total and module.total.tolist() == [1, 1]
    assert module.mean.tolist() == [1, 1]
    assert (module.count, module.first, module.history) == (1, 1, [1])


def test_a_batch_that_is_not_finite_leaves_tensors_as_they_were():
    module = Kept()
    module(torch.ones(3, 2))
    state = ModuleState(module.modules())
    for finite in (True, False):
        snapshot = state.copy()
        module(torch.full((3, 2), 3.0))
        state.restore_unless(torch.tensor(finite), snapshot)
        assert module.total.tolist() == [4, 4]
        assert module.mean.tolist() == [2, 2]


def test_other_objects():
    metric = MetricStats(lambda p, labels: (p - labels).abs())
    scheduler = CyclicLRScheduler(base_lr=0.1, max_lr=0.3, step_size=2)
    objects = [vars(metric)]
    state = ModuleState([], lambda: objects)
    metric.append(["a"], torch.ones(1), torch.zeros(1))
    objects.append(vars(scheduler))  # as Brains make theirs when an epoch begins
    snapshot = state.copy()
    metric.append(["b"], torch.ones(1), torch.zeros(1))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    scheduler.on_batch_end(optimizer)
    assert (metric.ids, scheduler.clr_iterations) == (["a", "b"], 1)
    state.restore(snapshot)
    assert metric.ids == ["a"] and len(metric.scores) == 1
    assert scheduler.clr_iterations == 0


class Errors(MetricStats):
    """A metric of a recipe's own."""


def test_metrics_of_any_kind_count_each_batch_once(make_brain):
    own, accuracy = Errors(lambda p, y: (p - y).abs()), AccuracyStats()
    several = MultiMetricStats(lambda p, y: {"sum": p + y}, batch_eval=True)

    def loss(model, x):
        outputs = model(x)
        own.append(["a"], outputs, x)
        several.append(["a"], outputs[:, 0], x[:, 0])
        accuracy.append(outputs[None], torch.zeros(1, len(x)))
        return outputs.square().mean()

    metrics = {"by": {"name": own}, "several": several, "accuracy": accuracy}
    brain = make_brain(nn.Linear(2, 2), loss, local_lr=0.1, local_steps=2, **metrics)
    for _ in range(2):
        brain.fit_batch([DomainBatch("a", (torch.ones(3, 2),))])
    assert len(own.ids) == len(own.scores) / 3 == len(several.ids) == 2
    assert len(several.metrics["sum"].ids) == 2 and accuracy.total == 6


def test_local_solves_leave_what_the_first_pass_left(make_brain):
    ends = []
    for steps in (0, 1, 3):
        torch.manual_seed(1)
        module = Kept()
        brain = make_brain(
            module,
            lambda model, x: model(x).square().mean(),
            local_lr=0.1,
            local_steps=steps,
        )
        for value in (1.0, 4.0):
            brain.fit_batch([DomainBatch("a", (torch.full((3, 2), value),))])
        ends.append([module.total.tolist(), module.mean.tolist(), module.history])
    assert ends == [[[5, 5], [2.5, 2.5], [1, 2]]] * 3


def test_the_pass_that_runs_is_known(make_brain):
    seen = []
    brain = make_brain(
        nn.Linear(2, 1),
        lambda model, x: seen.append(brain.local_step) or model(x).square().mean(),
        local_lr=0.1,
        local_steps=2,
    )
    brain.fit_batch([DomainBatch(d, (torch.ones(3, 2),)) for d in "ab"])
    assert seen == [0, 1, 2, 0, 1, 2]

"""Brains as SpeechBrain's recipes write them become heterogeneous by their base class."""

import inspect
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import speechbrain as sb
import torch
import yaml
from speechbrain.nnet.schedulers import NewBobScheduler
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.metric_stats import MetricStats
from torch import nn

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.training.checkpoints import AtomicCheckpointer
from hetero_brain.training.local_states import INDEX
from hetero_brain.training.saved import STATE
from tests.unit import recipe_brains
from tests.unit.recipe_brains import ALONE, SHAPES, batch_of
from tests.unit.test_distributed import flat, torchrun

OPTIONS = {"device": "cpu", "noprogressbar": True}
ERRORS = [3.0, 1.0, 2.0]  # of the epochs, as a recipe's metric


@pytest.fixture(autouse=True)
def forgotten_calls():
    """SpeechBrain's checkpointer appends to its own default argument in each call, and
    reads all checkpoints again for each entry of it."""
    signature = inspect.signature(Checkpointer.save_and_keep_only)
    signature.parameters["importance_keys"].default.clear()


class Killed(BaseException):
    """An exception that no code handles, in place of SIGKILL."""


def batch(number):
    draw = torch.Generator().manual_seed(number)
    return torch.randn(4, 3, generator=draw)


def own(base):
    """A recipe's Brain: it calls no ``super()``, saves the best and anneals by itself."""

    class Own(base):
        dies_at = None  # steps of the optimizer

        def compute_forward(self, batch, stage):
            if stage == sb.Stage.TRAIN and self.optimizer_step == self.dies_at:
                raise Killed
            return self.modules.model(batch)

        def compute_objectives(self, predictions, batch, stage):
            if stage != sb.Stage.TRAIN:
                self.metric.append(["a"] * len(batch), predictions, batch)
            return (predictions - 1).square().mean()

        def on_stage_start(self, stage, epoch=None):
            self.seen.append((stage.name, epoch, self.optimizer.param_groups[0]["lr"]))
            if stage != sb.Stage.TRAIN:
                self.metric = MetricStats(metric=lambda p, b: p.squeeze(1))

        def on_stage_end(self, stage, stage_loss, epoch=None):
            self.seen.append(stage_loss)
            if stage != sb.Stage.VALID:
                return
            self.seen.append(self.metric.summarize("average"))
            error = ERRORS[epoch - 1]
            _, rate = self.hparams.lr_scheduler(error)
            sb.nnet.schedulers.update_learning_rate(self.optimizer, rate)
            self.rates.append(rate)
            self.checkpointer.save_and_keep_only({"error": error}, min_keys=["error"])

    return Own


def recipe(
    base,
    folder,
    train,
    epochs=3,
    dropout=0.5,
    saver=Checkpointer,
    dies_at=None,
    **hparams,
):
    """Run a recipe of three epochs, and test the best of them."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(dropout), nn.Linear(4, 1))
    counter = EpochCounter(epochs)
    scheduler = NewBobScheduler(0.1, annealing_factor=0.5, improvement_threshold=0.1)
    saved = {"model": model, "counter": counter, "scheduler": scheduler}
    brain = own(base)(
        {"model": model},
        partial(torch.optim.SGD, lr=0.1, momentum=0.5),
        {"lr_scheduler": scheduler, "seed": 1986, **hparams},
        OPTIONS,
        saver(folder, saved),
    )
    brain.seen, brain.rates, brain.dies_at = [], [], dies_at
    valid = torch.utils.data.DataLoader([batch(100), batch(101)], batch_size=None)
    brain.fit(counter, train, valid, train_loader_kwargs={"batch_size": None})
    loss = brain.evaluate(valid, min_key="error")
    return brain, counter.current, loss


def test_a_recipe_is_the_same_with_one_domain_and_no_local_steps(tmp_path):
    train = [batch(i) for i in range(5)]
    theirs = recipe(sb.Brain, tmp_path / "theirs", train)
    train = [[DomainBatch("a", (x,))] for x in train]
    ours = recipe(HeteroBrain, tmp_path / "ours", train)
    assert ours[0].seen == theirs[0].seen
    assert ours[1:] == theirs[1:] and ours[1] == 2  # tested with the best epoch
    for a, b in zip(ours[0].modules.parameters(), theirs[0].modules.parameters()):
        assert torch.equal(a, b)
    assert ours[0].rates == theirs[0].rates == [0.1, 0.1, 0.05]


@pytest.mark.parametrize("local_steps", [1, 3])
def test_a_recipe_goes_on_with_local_steps(tmp_path, local_steps):
    train = [
        [DomainBatch(d, (batch(i + n),)) for n, d in enumerate("ab")] for i in range(5)
    ]
    sgd = partial(torch.optim.SGD, lr=0.05)
    options = {"local_steps": local_steps, "local_optimizer": sgd}
    brain, best, loss = recipe(HeteroBrain, tmp_path, train, **options)
    epochs = [item[1] for item in brain.seen if type(item) is tuple]
    assert epochs == [1, 1, 2, 2, 3, 3, None]
    assert best == 2 and loss < 2
    kept = brain.checkpointer.list_checkpoints()
    assert sorted(checkpoint.meta["error"] for checkpoint in kept) == [1.0, 2.0]


def test_a_brain_without_an_optimizer(tmp_path):
    """Some recipes only gather statistics in an epoch."""

    class Statistics(HeteroBrain):
        def compute_forward(self, batch, stage):
            return self.modules.model(batch)

        def compute_objectives(self, predictions, batch, stage):
            return predictions.square().mean()

    brain = Statistics({"model": nn.Linear(3, 1)}, None, {}, OPTIONS)
    before = [p.detach().clone() for p in brain.modules.parameters()]
    brain.fit(range(1, 2), [[DomainBatch("a", (batch(1),))]])
    assert all(map(torch.equal, before, brain.modules.parameters()))


# ---------------------------------------------- going on from the other's checkpoints


def half_a_recipe(base, folder, dies_at=None, **options):
    """A recipe of 5 iterations an epoch, which saves after every second, too."""
    train = [batch(i) for i in range(5)]
    if base is HeteroBrain:
        train = [[DomainBatch("a", (x,))] for x in train]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONS, "ckpt_interval_steps", 2)
        return recipe(base, folder, train, dropout=0.0, dies_at=dies_at, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """sb.Brain, undisturbed."""
    return half_a_recipe(sb.Brain, tmp_path_factory.mktemp("alone"))


def assert_goes_on(found, alone):
    """A brain that has gone on ends as if it had never stopped."""
    (brain, *result), (other, *expected) = found, alone
    assert result == expected
    assert brain.optimizer_step == other.optimizer_step
    assert brain.seen == other.seen[-len(brain.seen) :]  # losses, rates, metrics
    assert str(brain.optimizer.state_dict()) == str(other.optimizer.state_dict())
    assert all(map(torch.equal, brain.modules.parameters(), other.modules.parameters()))


SAVERS = [
    (Checkpointer, Checkpointer),
    (Checkpointer, AtomicCheckpointer),
    (AtomicCheckpointer, Checkpointer),
]


@pytest.mark.parametrize("dies_at", [5, 8])  # at an epoch's end; within the second
@pytest.mark.parametrize("savers", SAVERS)
@pytest.mark.parametrize("kinds", [(sb.Brain, HeteroBrain), (HeteroBrain, sb.Brain)])
def test_one_class_goes_on_where_the_other_stopped(
    alone, tmp_path, caplog, kinds, savers, dies_at
):
    with pytest.raises(Killed):
        half_a_recipe(kinds[0], tmp_path, dies_at, saver=savers[0])
    found = half_a_recipe(kinds[1], tmp_path, saver=savers[1])
    assert_goes_on(found, alone)
    epochs = [item[1] for item in found[0].seen if type(item) is tuple]
    assert epochs == [2, 2, 3, 3, None]
    names = [r.getMessage() for r in caplog.records if "sb.Brain" in r.getMessage()]
    assert len(names) == (kinds == (sb.Brain, HeteroBrain))


def test_local_steps_go_on_from_a_brain_without_them(tmp_path, caplog):
    """The states of the local optimizers are not there yet; then they are."""
    half_a_recipe(sb.Brain, tmp_path, epochs=1)
    options = {"local_steps": 1, "local_optimizer_state": "per_domain"}
    options["local_optimizer"] = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    for epochs in (2, 3):
        caplog.clear()
        brain, *_ = half_a_recipe(HeteroBrain, tmp_path, epochs=epochs, **options)
        assert brain.optimizer_step == 10  # of the best epoch
        assert brain.local_solver.states.files.keys() == {"a"}
        assert caplog.text.count(INDEX) == (epochs == 2)
    half_a_recipe(sb.Brain, tmp_path)


def test_checkpoints_of_earlier_versions(alone, tmp_path):
    """One file held all of a HeteroBrain's state."""
    with pytest.raises(Killed):
        half_a_recipe(HeteroBrain, tmp_path, dies_at=8)
    path = Checkpointer(tmp_path).find_checkpoint().path
    more = torch.load(path / STATE, weights_only=True)
    state = yaml.safe_load((path / "brain.ckpt").read_text())
    torch.save({**state, **more}, path / "brain.ckpt")
    (path / STATE).unlink()
    assert_goes_on(half_a_recipe(HeteroBrain, tmp_path), alone)


# ------------------------------------------------------- a table of shapes of Brains


def options_of(shape):
    return {**OPTIONS, **SHAPES[shape]}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_the_same_with_one_domain_and_no_local_steps(shape):
    train, valid = [batch_of(i) for i in range(5)], [batch_of(100)]
    theirs = recipe_brains.fit(sb.Brain, shape, train, valid, options_of(shape))
    train = [[DomainBatch("a", (x,))] for x in train]
    ours = recipe_brains.fit(HeteroBrain, shape, train, valid, options_of(shape))
    assert ours.seen == theirs.seen and len(ours.seen) == 4
    state = theirs.modules.state_dict()
    for name, tensor in ours.modules.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    normalize = ours.modules.normalize
    if shape == "normalised":
        assert normalize.count == theirs.modules.normalize.count > 0
        assert torch.equal(normalize.glob_mean, theirs.modules.normalize.glob_mean)


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_trains_and_counts_each_batch_once(shape, local_steps):
    train = [
        [DomainBatch(d, (batch_of(10 * t + i),)) for i, d in enumerate("abc")]
        for t in range(4)
    ]
    found = {}
    for steps in (0, local_steps):
        sgd = partial(torch.optim.SGD, lr=0.05)
        brain = recipe_brains.fit(
            HeteroBrain,
            shape,
            train * 5,
            [batch_of(100)],
            options_of(shape),
            local_steps=steps,
            local_optimizer=sgd,
        )
        found[steps] = brain
        losses = [loss for stage, loss, *_ in brain.seen if stage == "TRAIN"]
        assert losses[1] < 0.9 * losses[0]
    cssl, ptloc = found.values()
    for one, other in zip(cssl.seen, ptloc.seen):
        assert one[2] == other[2]  # rates
        assert len(one[3]) == len(other[3])  # scores
    assert ptloc.modules.normalize.count == cssl.modules.normalize.count


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_on_two_ranks(shape, steps, tmp_path):
    found = {}
    for size in (1, 2):
        out = tmp_path / f"{size}.json"
        refused = shape in ALONE and size == 2
        done = torchrun(
            size, Path(recipe_brains.__file__), shape, out, steps, check=not refused
        )
        if refused:
            assert done.returncode != 0
            assert "in a local solve" in done.stdout, done.stdout[-3000:]
            return
        found[size] = json.loads(out.read_text())
    one, two = found.values()
    states = [flat(of["state"]) for of in (one, two)]
    np.testing.assert_allclose(*states, rtol=2e-4, atol=1e-6)
    rates = [[rates for _, _, rates, _ in of["seen"]] for of in (one, two)]
    assert rates[0] == rates[1]

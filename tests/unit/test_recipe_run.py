"""What recipes add to a validation in a PTLOC phase, and the finder before it."""

import json
import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hetero_brain import DomainBatch
from hetero_brain.pipelines.phases import alternation
from hetero_brain.pipelines.rounds import run_phases
from tests.unit.test_rounds import CSSL, PTLOC, Toy, loader, make_hparams

ALPHA = 0.1


class Theta(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(2).double())


def bowl(model, curvature):
    return curvature * model.theta.square().sum() / 2


def dev(domain, *curvatures):
    return [DomainBatch(domain, (c,), i) for i, c in enumerate(curvatures)]


def unbatched(batches):
    return DataLoader(batches, batch_size=None)


@pytest.mark.parametrize("state", ["fresh", "per_domain"])
def test_dev_losses_behind_local_steps(make_run, state):
    brain = make_run(
        Theta(),
        bowl,
        lr=0.0,
        local_lr=ALPHA,
        local_steps=2,
        local_optimizer_state=state,
        run_opts={"noprogressbar": True},
    )
    entries = []
    brain.log = lambda **stats: entries.append(stats)
    valid = [*dev("en", 1.0, 2.0, 3.0, 4.0, 5.0), *dev("fr", 2.0)]
    brain.fit([1], [dev("en", 1.0)], unbatched(valid))
    (figures,) = [e["valid_stats"] for e in entries if "valid_stats" in e]
    assert figures["loss/en"] == pytest.approx(3.0)  # |θ|² = 2
    # Of the first and the fifth batch: a sample.
    adapted = [c * (1 - ALPHA * c) ** 4 for c in (1.0, 5.0)]
    assert figures["loss_at_phi/en"] == pytest.approx(sum(adapted) / 2)
    assert figures["loss_at_phi/fr"] == pytest.approx(2 * (1 - ALPHA * 2) ** 4)
    assert brain.modules.model.theta.tolist() == [1, 1]
    assert set(brain.local_solver.states) <= {"en"}  # of training only


def test_cssl_has_no_losses_behind_local_steps(make_run):
    brain = make_run(Theta(), bowl, run_opts={"noprogressbar": True})
    entries = []
    brain.log = lambda **stats: entries.append(stats)
    brain.fit([1], [dev("en", 1.0)], unbatched(dev("en", 1.0)))
    (figures,) = [e["valid_stats"] for e in entries if "valid_stats" in e]
    assert set(figures) == {"loss", "loss/en"}


def rises(caplog):
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if "The dev loss at θ has risen" in message]


@pytest.mark.parametrize(
    "losses, steps, count",
    [
        ([1.0, 1.05, 1.2, 1.5], 1, 1),
        ([1.0, 1.09, 0.5, 1.08], 1, 0),
        ([1.0, 1.5], 0, 0),
    ],
)
def test_a_dev_loss_that_rises_is_warned_of_once(
    make_run, caplog, losses, steps, count
):
    caplog.set_level(logging.WARNING)
    brain = make_run(Theta(), bowl, local_lr=ALPHA, local_steps=steps)
    for loss in losses:
        brain.warn(brain.loss_watch.of_dev(loss, brain.local_rate))
    assert len(rises(caplog)) == count
    if count:
        assert "from 1 to 1.2" in rises(caplog)[0] and "local_lr" in rises(caplog)[0]
    # A run that goes on from a checkpoint knows the first loss, and what it has said.
    other = make_run(Theta(), bowl, local_lr=ALPHA, local_steps=steps)
    other.restore_run(brain.run_state())
    watch = other.loss_watch
    assert watch.first_dev == 1.0 and ("rise" in watch.told) == bool(count)


def test_the_dev_loss_of_a_validation_is_watched(make_run, caplog):
    caplog.set_level(logging.WARNING)
    brain = make_run(
        Theta(),
        bowl,
        opt_class=partial(torch.optim.SGD, lr=0.2, maximize=True),
        local_lr=ALPHA,
        local_steps=1,
        run_opts={"noprogressbar": True},
    )
    brain.fit([1, 2, 3], [dev("en", 1.0)], unbatched(dev("en", 1.0)))
    assert len(rises(caplog)) == 1


def test_rates_are_measured_before_the_first_ptloc_phase(tmp_path, unplotted):
    options = {"device": "cpu", "noprogressbar": True}
    ends = []
    for find in (False, True):
        folder = tmp_path / str(find)
        phases = alternation(2, CSSL, {**PTLOC, "local_lr": 0.03})
        hparams = make_hparams(folder, phases=phases, find_local_lr=find)

        class Run(Toy):
            first, last = {}, {}

        run_phases(hparams, options, Run, loader())
        ends.append(Run.last)
        assert (folder / "PTLOC.1/local_lr.json").exists() == find
        assert not (folder / "PTLOC.2/local_lr.json").exists()
        assert not (folder / "CSSL.1/local_lr.json").exists()
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][phase], ends[1][phase]) for phase in ends[0])
    rows = json.loads((tmp_path / "True/PTLOC.1/local_lr.json").read_text())
    assert len(rows) == 10 and rows[5]["local_lr"] == pytest.approx(0.03)
    # Started again, the phase has a checkpoint, and is not measured once more.
    (tmp_path / "True/PTLOC.1/local_lr.json").unlink()
    run_phases(hparams, options, Toy, loader())
    assert not (tmp_path / "True/PTLOC.1/local_lr.json").exists()

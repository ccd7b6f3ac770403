"""The finder of local learning rates: right figures, and a Brain as it was before."""

import copy
import json
import math
from functools import partial
from unittest.mock import patch

import pytest
import torch
from matplotlib.axes import Axes
from torch import nn

from hetero_brain import DomainBatch, local_lr_finder
from hetero_brain.training.geometry import SMALL_ANGLE
from hetero_brain.training.local_lr_report import LARGE_ANGLE, advice, useful_rates

CURVATURES = {"flat": 1.0, "steep": 10.0}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.3)
        self.linear = nn.Linear(3, 1)

    def forward(self, x):
        return self.linear(self.drop(self.norm(x)))


def net_loss(model, batch):
    return (model(batch) - 1).square().mean()


def global_batches(n):
    draw = torch.Generator().manual_seed(1)
    return [
        [DomainBatch(d, (torch.randn(6, 3, generator=draw),)) for d in "ab"]
        for _ in range(n)
    ]


class Bowl(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(2).double())


def bowl(model, domain):
    return CURVATURES[domain] * model.theta.square().sum() / 2


def test_figures_in_closed_form(make_brain, tmp_path):
    brain = make_brain(Bowl(), bowl, local_lr=0.1, local_steps=1)
    loader = [[DomainBatch(d, (d,)) for d in CURVATURES]]
    rows = local_lr_finder(brain, loader, [0.01, 0.15, 0.5, 3.0], folder=tmp_path)
    for row in rows:
        gains, risen = [], 0
        for curvature in CURVATURES.values():
            shrunk = 1 - row["local_lr"] * curvature
            gains.append(curvature * (1 - shrunk**2))
            risen += abs(shrunk) > 1
        assert row["local_gain"] == pytest.approx(sum(gains) / 2, rel=1e-5)
        assert row["risen"] == risen / 2
    assert [row["risen"] for row in rows] == [0, 0, 0.5, 1]
    # All gradients point along θ: to the same side, or to the other one.
    assert rows[0]["update_angle"] == pytest.approx(0, abs=1e-4)
    assert rows[3]["update_angle"] == pytest.approx(180)
    assert json.loads((tmp_path / "local_lr.json").read_text()) == rows
    assert (tmp_path / "local_lr.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "settings",
    [
        {"local_steps": 1},
        {
            "local_steps": 2,
            "local_optimizer_state": "per_domain",
            "local_optimizer": partial(torch.optim.AdamW, lr=0.1),
        },
        {"local_steps": 0},
        {"local_steps": 1, "solve_seed": 4, "cosine_interval": 1},
    ],
)
def test_a_run_goes_on_as_if_nothing_had_been_measured(make_run, settings):
    ends = []
    for measured in (False, True):
        brain = make_run(
            Net(),
            net_loss,
            log_interval=2,
            run_opts={"noprogressbar": True},
            **{"local_optimizer": partial(torch.optim.SGD, lr=0.1), **settings},
        )
        brain.logged = []
        brain.log = lambda brain=brain, **stats: brain.logged.append(
            copy.deepcopy(stats)
        )
        torch.manual_seed(7)
        before = brain.random_state
        if measured:
            rows = local_lr_finder(brain, global_batches(2))
            assert len(rows) == 10 and not brain.logged
            rates = [row["local_lr"] for row in rows]
            assert rates == sorted(rates) and 0.1 == pytest.approx(rates[5])
            assert all(math.isfinite(row["update_angle"]) for row in rows)
            assert brain.local_steps == settings["local_steps"]
        brain.fit([1, 2], global_batches(3))
        assert brain.random_state is before
        ends.append(
            (brain.modules.state_dict(), brain.logged, torch.rand(1), brain.iteration)
        )
    (one, *rest), (other, *others) = ends
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert str(rest) == str(others)


def test_before_the_optimizers_exist(make_brain):
    """The recipes measure before ``fit``, which creates them."""
    brain = make_brain(Bowl(), bowl, local_lr=0.1, local_steps=1)
    fresh = type(brain)(
        {"model": Bowl()}, brain.opt_class, vars(brain.hparams), {"device": "cpu"}
    )
    fresh.modules.eval()
    rows = local_lr_finder(fresh, [[DomainBatch("flat", ("flat",))]], [0.1])
    assert rows[0]["local_gain"] == pytest.approx(1 - 0.9**2)
    assert not any(module.training for module in fresh.modules.modules())
    assert "local_solver" not in vars(fresh) and not hasattr(fresh, "optimizer")
    assert fresh.modules.model.theta.grad is None


def test_rates_that_diverge_are_counted_as_risen(make_brain):
    brain = make_brain(Bowl(), bowl, local_lr=0.1, local_steps=1)
    rows = local_lr_finder(brain, [[DomainBatch("flat", ("flat",))]], [1e200])
    assert rows[0]["risen"] == 1 and math.isnan(rows[0]["local_gain"])
    assert brain.nonfinite_count == 0 and brain.iteration == 0


def test_what_it_needs(make_brain):
    with pytest.raises(ValueError, match="set local_optimizer"):
        local_lr_finder(make_brain(Bowl(), bowl), [])
    with pytest.raises(ValueError, match="no batch"):
        local_lr_finder(make_brain(Bowl(), bowl, local_lr=0.1, local_steps=1), [])


# ---------------------------------------------------------------------------- advice


def rows_of(*figures):
    """Rows from (local_lr, update_angle, risen)."""
    keys = "local_lr", "update_angle", "risen"
    return [{**dict(zip(keys, row)), "local_gain": 0.1} for row in figures]


def test_rates_between_the_limits_are_recommended():
    rows = rows_of((0.01, 1, 0), (0.1, 10 * LARGE_ANGLE, 0), (1, 90, 0))
    low, high = useful_rates(rows)
    exponent = 1 + math.log10(LARGE_ANGLE)  # of the angle, from 0.01 to 0.1
    assert low == pytest.approx(0.01 * SMALL_ANGLE ** (1 / exponent))
    assert high == pytest.approx(0.01 * LARGE_ANGLE ** (1 / exponent))
    for given, place in ((low / 2, "below"), (low, "within"), (2 * high, "above")):
        told = [*advice(rows, given)]
        assert f"Rates from {low:.2g} to {high:.2g} turn this update by" in told[0]
        assert told[1] == f"local_lr is {given:.3g} now, which is {place} these."
        assert "single updates" in told[2]


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([(0.1, SMALL_ANGLE, 0), (0.2, LARGE_ANGLE, 0.5)], (0.1, 0.1)),
        ([(0.1, SMALL_ANGLE / 2, 0), (0.2, SMALL_ANGLE + 1, 0.5)], (None, None)),
        ([(0.1, 0.1, 0), (0.2, 0.2, 0)], (None, None)),
        ([(0.1, LARGE_ANGLE + 1, 0), (0.2, LARGE_ANGLE, 0)], (None, None)),
        ([(0.1, math.nan, 0), (0.2, LARGE_ANGLE, 0)], (None, None)),
    ],
)
def test_rates_that_are_not_recommended(rows, expected):
    assert useful_rates(rows_of(*rows)) == expected
    if expected == (None, None):
        assert "None of these rates" in next(advice(rows_of(*rows), 0.1))


def test_the_rate_of_the_optimizer_is_marked(make_brain, tmp_path, capsys):
    brain = make_brain(Net(), net_loss, local_lr=0.1, local_steps=1)
    drawn = []
    with patch.object(Axes, "axvline", lambda axis, x, **kw: drawn.append(x)):
        local_lr_finder(brain, global_batches(2), folder=tmp_path)
    told = capsys.readouterr().out
    assert "| 0.1 (now) |" in told and told.count("(now)") == 1
    assert "local_lr is 0.1 now" in told or "None of these rates" in told
    assert drawn == [0.1] * 3

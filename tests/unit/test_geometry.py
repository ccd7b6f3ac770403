"""Update angles and step ratios: right in closed form, and without effect."""

import copy
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hetero_brain import DomainBatch
from hetero_brain.training.geometry import angle
from hetero_brain.training.schedules import HoldThenDecay

# (A, c) of ℓ(θ) = ½ (θ − c)ᵀ A (θ − c) for each domain.
BOWLS = {
    "a": (torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([1.0, 0.0])),
    "b": (torch.tensor([[0.3, 0.1], [0.1, 3.0]]).double(), torch.tensor([0.0, 2.0])),
    "c": (torch.tensor([[1.0, 0.0], [0.0, 0.2]]).double(), torch.tensor([-1.0, 1.0])),
}
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.4, -0.3]).double())
        self.unused = nn.Parameter(torch.ones(2).double())


def bowl(model, domain):
    curvature, centre = BOWLS[domain.removesuffix("!")]
    away = model.theta - centre
    loss = away @ curvature @ away / 2
    return loss * math.nan if domain.endswith("!") else loss


def batch(*domains):
    return [DomainBatch(domain.removesuffix("!"), (domain,)) for domain in domains]


def degrees(one, other):
    cosine = torch.cosine_similarity(one, other, dim=0)
    return torch.rad2deg(torch.arccos(cosine)).item()


def solved(theta, domain, alpha, steps):
    """Gradient at θ, hypergradient, and ‖φ_K − θ‖."""
    curvature, centre = BOWLS[domain]
    phi = theta.clone()
    for _ in range(steps):
        phi = phi - alpha * curvature @ (phi - centre)
    return (
        curvature @ (theta - centre),
        curvature @ (phi - centre),
        (phi - theta).norm().item(),
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_angles_and_ratios_in_closed_form(make_brain, steps):
    model = Vector()
    brain = make_brain(
        model,
        bowl,
        local_lr=0.3,
        local_steps=steps,
        angle_interval=2,
        domain_weights=WEIGHTS,
    )
    brain.fit_batch(batch(*"abc"))
    assert not any("angle" in key for key in brain.monitor.pop())  # only every second
    before = model.theta.detach().clone()
    found = {d: solved(before, d, 0.3, steps) for d in "abc"}
    brain.fit_batch(batch(*"abc"))
    step = (model.theta.detach() - before).norm().item()
    figures = brain.monitor.pop()
    for d, (gradient, hypergradient, distance) in found.items():
        expected = degrees(gradient, hypergradient)
        assert figures[f"update_angle/{d}"] == pytest.approx(expected, rel=1e-6)
        assert figures[f"step_ratio/{d}"] == pytest.approx(distance / step, rel=1e-6)
    means = [sum(WEIGHTS[d] * found[d][i] for d in "abc") for i in (0, 1)]
    assert figures["update_angle"] == pytest.approx(degrees(*means), rel=1e-6)
    ratio = sum(distance for *_, distance in found.values()) / 3 / step
    assert figures["step_ratio"] == pytest.approx(ratio, rel=1e-6)
    assert brain.monitor.pop() == {}


def test_angle_of_an_exact_hypergradient(make_brain):
    brain = make_brain(
        Vector(),
        bowl,
        local_lr=0.3,
        local_steps=2,
        angle_interval=1,
        hypergradient="exact",
    )
    before = brain.modules.model.theta.detach().clone()
    gradient, hypergradient, distance = solved(before, "a", 0.3, 2)
    backwards = torch.eye(2).double() - 0.3 * BOWLS["a"][0]
    exact = backwards @ backwards @ hypergradient
    brain.fit_batch(batch("a"))
    step = (brain.modules.model.theta.detach() - before).norm().item()
    figures = brain.monitor.pop()
    assert figures["update_angle/a"] == pytest.approx(degrees(gradient, exact))
    assert figures["step_ratio/a"] == pytest.approx(distance / step)


def test_small_angles_are_accurate():
    one = torch.zeros(1000)
    one[0] = 3.0
    for small in (1e-3, 1e-2, 1.0):  # degrees; a cosine in single precision sees none
        other = one.clone()
        other[1] = 3.0 * math.tan(math.radians(small))
        assert angle([one], [other]).item() == pytest.approx(small, rel=1e-4)
    assert angle([one], [one * 2]).item() == 0
    assert math.isnan(angle([one], [one * 0]).item())
    assert math.isnan(angle([None], [one]).item())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"local_optimizer_state": "per_domain"},
        {"hypergradient": "exact"},
        {"local_steps": 0},
    ],
)
def test_measuring_changes_nothing(make_brain, settings):
    ends = []
    for interval in (0, 1):
        brain = make_brain(
            copy.deepcopy(Vector()),
            bowl,
            **{"local_lr": 0.3, "local_steps": 2, "angle_interval": interval}
            | settings,
        )
        for _ in range(3):
            brain.fit_batch(batch(*"abc"))
        ends.append(brain.modules.model.theta.detach().clone())
        measured = "update_angle" in brain.monitor.pop()
        assert measured == bool(interval and brain.local_steps)
    assert torch.equal(*ends)


def test_a_domain_that_is_not_finite_stays_out(make_brain):
    brain = make_brain(Vector(), bowl, local_lr=0.3, local_steps=1, angle_interval=1)
    before = brain.modules.model.theta.detach().clone()
    pairs = [solved(before, d, 0.3, 1)[:2] for d in "ac"]
    brain.fit_batch(batch("a", "b!", "c"))
    figures = brain.monitor.pop()
    assert "update_angle/b" not in figures and "step_ratio/b" not in figures
    means = [sum(pair[i] for pair in pairs) for i in (0, 1)]
    assert figures["update_angle"] == pytest.approx(degrees(*means))
    # An iteration without any domain leaves nothing for the next one.
    brain.fit_batch(batch("b!"))
    before = brain.modules.model.theta.detach().clone()
    expected = degrees(*solved(before, "c", 0.3, 1)[:2])
    brain.monitor.pop()
    brain.fit_batch(batch("c"))
    assert brain.monitor.pop()["update_angle"] == pytest.approx(expected)


def test_accumulated_global_batches_are_measured_as_one(make_brain):
    options = {"grad_accumulation_factor": 2}
    brain = make_brain(
        Vector(), bowl, local_lr=0.3, local_steps=1, angle_interval=1, run_opts=options
    )
    before = brain.modules.model.theta.detach().clone()
    pairs = [solved(before, d, 0.3, 1)[:2] for d in "ab"]
    for step, domain in enumerate("ab", start=1):
        brain.step = step
        brain.fit_batch(batch(domain))
    means = [sum(pair[i] for pair in pairs) for i in (0, 1)]
    assert brain.monitor.pop()["update_angle"] == pytest.approx(degrees(*means))


# -------------------------------------------------------------------------- warnings


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if "of PTLOC is" in r.getMessage()]


def fitted(make_brain, alpha, n, caplog, interval=5, warmup=0, brain=None):
    """Fit a small α for n iterations; how many warnings it gave, and the Brain."""
    caplog.clear()
    caplog.set_level(logging.WARNING)
    brain = brain or make_brain(
        Vector(),
        bowl,
        lr=1e-4,
        local_lr=alpha,
        local_steps=1,
        angle_interval=interval,
        lr_schedule=HoldThenDecay(math.inf, warmup_iterations=warmup),
        run_opts={"noprogressbar": True},
    )
    brain.warned = []  # after each iteration
    brain.end_iteration = lambda loss: brain.warned.append(len(warnings(caplog)))
    brain.fit([1], [batch(*"ab")] * n)
    return len(warnings(caplog)), brain


def test_ptloc_that_is_cssl_is_warned_of_once(make_brain, caplog):
    count, brain = fitted(make_brain, 1e-3, 150, caplog)
    assert count == 1
    assert brain.warned[90] == 0 and brain.warned[110] == 1  # not only at the end
    assert "local_lr" in warnings(caplog)[0] and "rate of 0.001" in warnings(caplog)[0]
    assert brain.geometry.angles == []
    assert fitted(make_brain, 0.3, 150, caplog)[0] == 0


def test_a_phase_shorter_than_what_is_judged_is_warned_of_at_its_end(
    make_brain, caplog
):
    assert fitted(make_brain, 1e-3, 25, caplog)[0] == 1
    assert fitted(make_brain, 1e-3, 25, caplog, warmup=30)[0] == 0  # all of it warm-up


def test_a_few_measurements_are_not_judged(make_brain, caplog):
    assert fitted(make_brain, 1e-3, 24, caplog)[0] == 0  # four of them


def test_angles_of_the_warm_up_do_not_count(make_brain, caplog):
    # Rates that rise from 0: the angles of the warm-up alone would give a warning.
    count, brain = fitted(make_brain, 0.3, 400, caplog, warmup=280)
    assert count == 0 and brain.geometry.last > 5


def test_angles_to_be_judged_are_part_of_a_checkpoint(make_brain, caplog):
    brain = fitted(make_brain, 0.3, 3, caplog)[1]
    brain.geometry.angles = [1.0, 2.0]
    state = brain.run_state()
    brain.geometry.angles = []
    brain.restore_run(state)
    assert brain.geometry.angles == [1.0, 2.0]


@pytest.mark.parametrize("steps", [0, 1])
def test_the_progress_bar_shows_both_in_ptloc(make_brain, steps):
    brain = make_brain(
        Vector(), bowl, local_lr=0.3, local_steps=steps, angle_interval=1
    )
    shown = []
    brain.progress = SimpleNamespace(set_postfix=shown.append)
    before = brain.modules.model.theta.detach().clone()
    brain.fit_batch(batch("a"))
    gradient, hypergradient, distance = solved(before, "a", 0.3, 1)
    step = (brain.modules.model.theta.detach() - before).norm().item()
    (figures,) = shown
    assert "gain" not in figures
    if steps:
        assert figures["angle"] == f"{degrees(gradient, hypergradient):.1f}°"
        assert figures["ratio"] == f"{distance / step:.1f}"
    else:
        assert figures.keys() == {"loss"}

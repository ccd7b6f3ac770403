"""fit_batch in SpeechBrain's loop: accumulation, failures, precision, logs, seeds."""

import copy
import json
import logging
import math
import random
import weakref
from collections import deque
from functools import partial

import numpy as np
import pytest
import speechbrain as sb
import torch
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.errors import InputError
from hetero_brain.pipelines.recipe_run import recipe_brain
from hetero_brain.training.loggers import IterationTensorboardLogger, JsonLinesLogger
from hetero_brain.training.schedules import HoldThenDecay

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


def data(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def domains(*batches):
    return [DomainBatch(name, (batch,)) for name, batch in zip("abcdefg", batches)]


class Vector(nn.Module):
    """θ itself, in float64."""

    def __init__(self, *values):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def bowl(model, batch):
    """(s/2)|θ − c|² of a batch (s, c): gradient s(θ − c), any φ_K in closed form."""
    scale, centre = batch
    return scale * (model.theta - torch.as_tensor(centre)).square().sum() / 2


def values(model):
    return model.theta.tolist()


def state_of(brain):
    """Every tensor that an iteration may change, by name."""
    state = {k: v.clone() for k, v in brain.modules.state_dict().items()}
    for index, slots in brain.optimizer.state_dict()["state"].items():
        for k, v in slots.items():
            state[f"optimizer/{index}/{k}"] = torch.as_tensor(v).clone()
    return state


def assert_same(left, right):
    assert left.keys() == right.keys()
    different = [k for k in left if not torch.equal(left[k], right[k])]
    assert different == []


# --------------------------------------------------------------- K = 0 is CSSL


class Everything(nn.Module):
    """Dropout, running statistics, tied and unused weights, gradients that alias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.3)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.place = nn.Parameter(torch.randn(5, 6))
        self.kind = nn.Parameter(torch.randn(5, 6))  # the gradient of ``place``
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.randn(6), requires_grad=False)

    def forward(self, x):
        x = self.norm(self.conv(x)).transpose(1, 2)
        x = self.drop(x + (self.place + self.kind)) * self.frozen
        return self.two(self.drop(self.one(x)).tanh())


def everything_loss(model, batch):
    return (model(batch) - 1).square().mean()


class PlainBrain(sb.Brain):
    def compute_forward(self, batch, stage):
        return self.hparams.loss(self.modules.model, batch)

    def compute_objectives(self, predictions, batch, stage):
        return predictions


@pytest.mark.parametrize("max_grad_norm", [5.0, 0.05])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_cssl_is_gradient_accumulation(make_brain, count, precision, max_grad_norm):
    torch.manual_seed(1)
    model = Everything()
    factory = partial(AdamW, lr=0.01, weight_decay=0.1)
    hparams = {"loss": everything_loss, "max_grad_norm": max_grad_norm}
    hparams["seed"] = 1986  # as in most of SpeechBrain's YAMLs, beside dropout
    run_opts = {"device": "cpu", "precision": precision}
    batches = [data(4, 3, 7, seed=i) for i in range(4 * count)]
    if precision == "fp64":  # where the sum of seven sevenths is not 1
        run_opts["precision"] = "fp32"
        model, batches = model.double(), [b.double() for b in batches]
    plain = PlainBrain(
        {"model": copy.deepcopy(model)},
        factory,
        hparams,
        run_opts | {"grad_accumulation_factor": count},
    )
    plain.init_optimizers()
    ours = make_brain(
        model, opt_class=factory, run_opts=run_opts, local_steps=0, **hparams
    )
    torch.manual_seed(2)
    losses = []
    for batch in batches:
        plain.step += 1
        losses.append(plain.fit_batch(batch).item())
    torch.manual_seed(2)
    for t in range(4):
        part = slice(t * count, (t + 1) * count)
        loss = ours.fit_batch(domains(*batches[part]))
        mean = sum(losses[part]) / count
        assert loss.item() == pytest.approx(mean, rel=1e-6)
    assert_same(state_of(ours), state_of(plain))
    assert ours.optimizer_step == plain.optimizer_step == 4
    moved = [n for n, p in ours.modules.model.named_parameters() if p.grad is None]
    assert len(moved) == len(list(model.named_parameters()))


# ------------------------------------------------------- domains that are not finite

BAD = {
    "nan loss": lambda m: m.theta.sum() * math.nan,
    "inf loss": lambda m: m.theta.sum() * math.inf,
    "-inf loss": lambda m: m.theta.sum() * -math.inf,
    "nan loss alone": lambda m: m.theta.sum() + math.nan,  # the gradient is 1
    # the loss is 0 and the gradient NaN
    "nan gradient": lambda m: (m.theta * 0).sum().abs().sqrt(),
    # the loss is 0 and the gradient inf
    "inf gradient": lambda m: (m.theta - m.theta.detach()).sum().sqrt(),
}


def bowl_or_bad(model, batch):
    return BAD[batch](model) if isinstance(batch, str) else bowl(model, batch)


GOOD = (0.5, [1.0, -2.0]), (0.3, [0.5, 4.0])


@pytest.mark.parametrize("at", ["theta", "phi", "CSSL"])
@pytest.mark.parametrize("bad", BAD)
def test_a_domain_that_is_not_finite_drops_out(make_brain, caplog, bad, at):
    good = (1.0, [3.0, 3.0])
    broken = {"theta": (bad, good), "phi": (good, bad), "CSSL": (bad,)}[at]
    brains = []
    for _ in range(2):
        brain = make_brain(
            Vector(0.3, -0.7),
            bowl_or_bad,
            opt_class=partial(SGD, lr=0.1, momentum=0.9),
            local_lr=0.2,
            local_steps=0 if at == "CSSL" else 1,
            domain_weights={"a": 1, "b": 5, "c": 3},
        )
        brains.append(brain)
    a, c = DomainBatch("a", GOOD[:1]), DomainBatch("c", GOOD[1:])
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        loss = brains[0].fit_batch([a, DomainBatch("b", broken), c])
        expected = brains[1].fit_batch([a, c])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    theirs = brains[1].modules.model.theta
    torch.testing.assert_close(
        brains[0].modules.model.theta, theirs, rtol=1e-12, atol=1e-14
    )
    said = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(said) == 2 and "iteration 0: domain b is left out: " in said[0]
    assert not said[0].endswith("gradient norm 0")
    assert "iteration 1: domain b is left out: " in said[1]
    assert brains[0].nonfinite_count == 2
    figure = "loss" if at == "CSSL" else "local_gain"
    means = [brain.monitor.mean(figure) for brain in brains]
    assert means[0] == pytest.approx(means[1], rel=1e-6)
    entry = brains[0].monitor.pop()
    assert entry["dropped/b"] == 2 and "dropped/a" not in entry
    assert f"{figure}/b" not in entry
    assert means[0] == pytest.approx(
        (entry[f"{figure}/a"] + entry[f"{figure}/c"]) / 2, rel=1e-6, abs=1e-12
    )
    assert brains[0].monitor.pop() == {}  # cleared by the entry before


def hidden(model, batch):
    """A gradient of inf at θ; at φ, −inf, loss and gradient are finite."""
    if batch == "hidden":
        return (model.theta - model.theta.detach()).sum().sqrt().clamp(max=9)
    if batch == "blind":
        return model.theta.relu().sum()
    return bowl(model, batch)


def test_a_local_gradient_that_no_later_pass_shows_drops_its_domain(make_brain):
    brain = make_brain(Vector(0.3, -0.7), hidden, local_lr=0.2, local_steps=1)
    brain.fit_batch([DomainBatch("a", GOOD[:1]), DomainBatch("b", ("hidden", "blind"))])
    assert brain.monitor.dropped == {"b": 1}


def kinked(model, batch):
    """Finite gradient, infinite Hessian where it is evaluated."""
    if batch == "kink":
        return (model.theta - model.theta.detach()).abs().pow(1.5).sum()
    return bowl(model, batch)


def test_an_exact_hypergradient_that_is_not_finite_drops_out(make_brain):
    brain = make_brain(
        Vector(0.3, -0.7),
        kinked,
        local_lr=0.2,
        local_steps=1,
        hypergradient="exact",
        nonfinite_patience=5,
    )
    brain.fit_batch([DomainBatch("a", GOOD[:1]), DomainBatch("b", ("kink", GOOD[1]))])
    assert brain.monitor.dropped == {"b": 1}
    scale, centre = GOOD[0]
    keep = (1 - 0.2 * scale) ** 2 * scale
    expected = [t - 0.1 * keep * (t - c) for t, c in zip((0.3, -0.7), centre)]
    assert values(brain.modules.model) == pytest.approx(expected, rel=1e-12)


def test_no_finite_domain_leaves_everything(make_brain):
    ended = []
    brain = make_brain(
        Vector(0.3, -0.7),
        bowl_or_bad,
        opt_class=partial(AdamW, lr=0.1),
        local_lr=0.2,
        local_steps=1,
        nonfinite_patience=9,
    )
    brain.on_fit_batch_end = lambda *arguments: ended.append(arguments)
    brain.fit_batch(domains(*GOOD))
    before = state_of(brain)
    assert "optimizer/0/exp_avg" in before
    loss = brain.fit_batch(domains("nan loss", "inf gradient"))
    assert math.isnan(loss) and loss.device.type == "cpu"
    assert_same(state_of(brain), before)
    assert brain.optimizer_step == brain.iteration == 2
    assert brain.modules.model.theta.grad is None
    _, outputs, given, should_step = ended[-1]
    assert outputs == [] and math.isnan(given) and should_step is True
    assert brain.nonfinite_count == 2


def test_patience_ends_as_in_speechbrain(make_brain):
    brain = make_brain(
        Vector(0.3, -0.7),
        bowl_or_bad,
        local_lr=0.2,
        local_steps=1,
        run_opts={"nonfinite_patience": 2},
    )
    bad = DomainBatch("b", (GOOD[1], "nan gradient"))
    for _ in range(2):
        brain.fit_batch([DomainBatch("a", GOOD[:1]), bad])
    before = values(brain.modules.model)
    with pytest.raises(ValueError, match="patience is exhausted"):
        brain.fit_batch([DomainBatch("a", GOOD[:1]), bad])
    assert values(brain.modules.model) == before


# ------------------------------------------------------------------- precision


def small_model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def small_loss(model, batch):
    return (model(batch) - batch.sum(-1, keepdim=True)).square().mean()


@pytest.mark.parametrize(
    "precision, dtype", [("fp32", "float32"), ("bf16", "bfloat16")]
)
def test_both_levels_compute_in_the_run_precision(make_brain, precision, dtype):
    seen = []

    def spy(model, batch):
        theta = torch.cat([p.detach().flatten() for p in model.parameters()])
        seen.append((model(batch).dtype, theta))
        return (model(batch).float() - 1).square().mean()

    model = small_model()
    brain = make_brain(
        model,
        spy,
        local_optimizer=partial(AdamW, lr=0.1),
        local_steps=2,
        run_opts={"precision": precision},
    )
    brain.fit_batch(domains(data(5, 3), data(5, 3, seed=1)))
    assert [d for d, _ in seen] == [getattr(torch, dtype)] * 6
    thetas = [theta for _, theta in seen]
    assert torch.equal(thetas[0], thetas[3]) and thetas[0].dtype == torch.float32
    assert not torch.equal(thetas[0], thetas[1])  # bf16 does not see stale casts
    assert not torch.equal(thetas[1], thetas[2])
    with torch.no_grad():
        outputs = model(data(5, 3))
    assert outputs.dtype == torch.float32 and outputs.isfinite().all()


def with_scaler(brain, init_scale):
    """Loss scaling as of fp16, which SpeechBrain does not offer on a CPU."""
    brain.scaler = torch.GradScaler("cpu", init_scale=init_scale, growth_interval=10**6)
    return brain


@pytest.mark.parametrize("kind", ["first_order", "exact"])
@pytest.mark.parametrize("steps", [0, 2])
def test_loss_scaling_changes_nothing(make_brain, steps, kind):
    states = []
    for scale in (1.0, 2.0**13, None):
        local = (
            partial(AdamW, lr=0.05) if kind == "first_order" else partial(SGD, lr=0.1)
        )
        brain = make_brain(
            small_model(),
            small_loss,
            opt_class=partial(AdamW, lr=0.01, weight_decay=0.1),
            local_optimizer=local,
            local_steps=steps,
            hypergradient=kind,
            max_grad_norm=0.5,
        )
        if scale is not None:
            with_scaler(brain, scale)
        for t in range(3):
            brain.fit_batch(domains(*(data(5, 3, seed=3 * t + i) for i in range(3))))
        states.append(state_of(brain))
        figure = "hypergradient_norm" if steps else "gradient_norm"
        norm = brain.monitor.pop()[f"{figure}/a"]
        states[-1]["norm"] = torch.tensor(norm)
        assert scale is None or brain.scaler.get_scale() == scale
    assert_same(states[0], states[2])
    assert_same(states[1], states[2])


SCALE = 2.0**118  # its product with a gradient of 1e4 overflows in float32


@pytest.mark.parametrize("steps", [0, 1])
def test_an_overflow_of_fp16_lowers_the_scale(make_brain, steps):
    def brain():
        model = Vector(0.3, -0.7).float()
        return make_brain(model, bowl_or_bad, local_lr=1e-6, local_steps=steps)

    ours, without = with_scaler(brain(), SCALE), brain()
    good, other = GOOD
    overflows = (2e4, [5.0, 5.0])
    ours.fit_batch(domains(good, overflows, other))
    without.fit_batch([DomainBatch("a", (good,)), DomainBatch("c", (other,))])
    assert ours.monitor.dropped == {"b": 1}
    assert ours.nonfinite_count == 0
    assert ours.scaler.get_scale() == SCALE / 2
    assert values(ours.modules.model) == pytest.approx(
        values(without.modules.model), rel=1e-6
    )
    # Only overflows: θ stays, and the scale decreases until the gradient is finite.
    before = values(ours.modules.model)
    ours.fit_batch(domains(overflows, overflows))
    assert values(ours.modules.model) == before
    assert ours.scaler.get_scale() == SCALE / 4
    ours.optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(8):
        ours.fit_batch(domains(good, overflows, other))
    assert ours.monitor.counts["loss_at_phi" if steps else "loss", "b"] > 0
    settled = ours.scaler.get_scale()
    ours.fit_batch(domains(good, overflows, other))
    assert ours.scaler.get_scale() == settled
    assert ours.nonfinite_count == 0
    # A loss that is not finite is not an overflow of the gradients.
    ours.fit_batch(domains(good, "nan loss"))
    assert ours.nonfinite_count == 1 and ours.scaler.get_scale() == settled


def test_clipping_acts_on_the_hypergradient(make_brain):
    model = Vector(3.0, -4.0)
    brain = make_brain(
        model, bowl, lr=2.0, local_lr=0.5, local_steps=2, max_grad_norm=0.01
    )
    before = model.theta.detach().clone()
    brain.fit_batch(domains((1.0, [0.0, 0.0]), (1.0, [0.0, 0.0])))
    step = before - model.theta.detach()
    assert step.norm().item() == pytest.approx(2.0 * 0.01, rel=1e-4)
    assert torch.cosine_similarity(step, before, dim=0).item() == pytest.approx(1)
    # the local steps were not clipped: φ_2 = θ/4, and the loss there is a 16th
    entry = brain.monitor.pop()
    assert entry["loss_at_phi/a"] == pytest.approx(12.5 / 16)
    assert entry["hypergradient_norm/a"] == pytest.approx(5 / 4)


# -------------------------------------------------------------------- settings


def build(**hparams):
    return recipe_brain(HeteroBrain)(
        {"model": Vector(1.0)},
        partial(SGD, lr=0.1),
        hparams,
        {"device": "cpu"},
    )


WRONG = {
    "local_steps": [-1, 1.5, True, "1", None],
    "local_optimizer": ["SGD", 0.1],
    "local_optimizer_state": ["keep", None, True],
    "hypergradient": ["first-order", None, 1],
    "domain_weights": [{"a": 0}, {"a": -1.0}, {"a": "1"}, [1.0], {"a": math.nan}],
    "lr_schedule": ["constant", 0.5],
    "log_interval": [0, -1, 2.5, False],
    "cosine_interval": [-1, 0.5, True],
    "loggers": [lambda: None, {"a": 1}, None],
    "valid_interval": [0, 0.5, True],
    "seed": [-1, 0.5, "1234", True],
    "solve_seed": [-1, 0.5, "1234", True],
}


@pytest.mark.parametrize("key, value", [(k, v) for k in WRONG for v in WRONG[k]])
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(ValueError, match=f"{key}: .* is not ") as error:
        build(**{key: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("factory", [SGD, partial(SGD, momentum=0.9)])
def test_a_local_optimizer_without_a_rate_is_refused(factory):
    with pytest.raises(InputError, match="local_optimizer: give it lr"):
        build(local_steps=1, local_optimizer=factory)
    build(local_steps=0, local_optimizer=factory)
    build(local_steps=1, local_optimizer=partial(factory, lr=0.1))
    build(local_steps=1, local_optimizer=lambda params: SGD(params, lr=0.1))


def test_all_faults_at_once():
    with pytest.raises(ValueError) as error:
        build(
            local_step=3,
            **{key: wrong[0] for key, wrong in WRONG.items() if key != "local_steps"},
        )
    for key in set(WRONG) - {"local_steps"}:
        assert f"{key}: " in str(error.value)
    assert "local_step: no such setting; did you mean local_steps?" in str(error.value)


@pytest.mark.parametrize(
    "key, meant",
    [
        ("local_step", "local_steps"),
        ("local_optimiser", "local_optimizer"),
        ("hyper_gradient", "hypergradient"),
        ("domain_weight", "domain_weights"),
        ("lr_schedules", "lr_schedule"),
    ],
)
def test_a_misspelt_key_is_named(key, meant):
    with pytest.raises(ValueError, match=f"{key}: .*did you mean {meant}"):
        build(**{key: 1})


def test_right_values_and_other_keys_pass():
    brain = build(
        local_steps=2,
        local_optimizer=partial(SGD, lr=0.1),
        local_optimizer_state="per_domain",
        hypergradient="exact",
        domain_weights={"a": 1, "b": 0.5},
        log_interval=7,
        cosine_interval=3,
        seed=0,
        n_mels=80,
        number_of_epochs=3,
        lr_scheduler="SpeechBrain's usual name",
    )
    assert (brain.local_steps, brain.log_interval, brain.cosine_interval) == (2, 7, 3)
    assert brain.local_optimizer_state == "per_domain" and brain.seed == 0
    assert brain.hypergradient == "exact" and brain.hparams.n_mels == 80
    plain = build()
    assert (plain.local_steps, plain.local_optimizer, plain.seed) == (0, None, None)
    assert plain.solve_seed is None and brain.solve_seed == 0
    assert (plain.log_interval, plain.cosine_interval) == (100, 0)
    assert (plain.loggers, plain.valid_interval) == ((), 1)
    assert plain.local_optimizer_state == "fresh"
    assert plain.hypergradient == "first_order" and plain.domain_weights is None


def test_local_steps_need_a_local_optimizer():
    with pytest.raises(ValueError, match="local_optimizer: needed with local_steps: 2"):
        build(local_steps=2)


def test_exact_needs_plain_steps(make_brain):
    with pytest.raises(ValueError, match="hypergradient: exact.*SGD"):
        make_brain(
            Vector(1.0),
            bowl,
            local_steps=1,
            local_optimizer=partial(AdamW, lr=0.1),
            hypergradient="exact",
        )


@pytest.mark.parametrize("faulty", [[], [3], [2, 3]], ids=str)
@pytest.mark.parametrize("local_steps", [0, 2])
def test_global_batches_accumulate_before_a_step(make_brain, local_steps, faulty):
    """Pairs of global batches of one domain, as global batches of two domains."""
    batches = [
        data(4, 3, 7, seed=i) * (math.nan if i in faulty else 1) for i in range(8)
    ]
    brains, losses = [], []
    for factor in (1, 2):
        torch.manual_seed(1)
        brain = make_brain(
            Everything(),
            everything_loss,
            opt_class=partial(AdamW, lr=0.01),
            run_opts={"grad_accumulation_factor": factor, "nonfinite_patience": 9},
            local_steps=local_steps,
            local_lr=0.1,
        )
        torch.manual_seed(2)
        losses.append([])
        for batch in zip(*([iter(batches)] * (3 - factor))):
            brain.step += 1  # as in fit
            losses[-1].append(brain.fit_batch(domains(*batch)).item())
        brains.append(brain)
    pairs = np.reshape(losses[1], (4, 2))
    for i, loss in enumerate(losses[0]):
        finite = pairs[i][np.isfinite(pairs[i])]
        assert loss == pytest.approx(
            finite.mean() if len(finite) else math.nan, nan_ok=True
        )
    assert_same(*map(state_of, brains))
    assert [brain.optimizer_step for brain in brains] == [4, 4]


def test_what_an_epoch_leaves_of_an_accumulation_is_dropped(make_brain):
    """As by SpeechBrain: three batches in an epoch are one step of two."""
    brain = make_brain(
        Vector(1.0),
        bowl,
        run_opts={"grad_accumulation_factor": 2, "noprogressbar": True},
    )
    batches = [domains((0.5, [3.0])) for _ in range(3)]
    brain.fit(range(1, 3), torch.utils.data.DataLoader(batches, batch_size=None))
    assert brain.optimizer_step == 2
    other = make_brain(Vector(1.0), bowl)
    for _ in range(2):
        other.fit_batch(batches[0])
    assert_same(*(b.modules.state_dict() for b in (brain, other)))


def test_masks_differ_in_the_batches_of_an_accumulation(make_brain):
    options = {"grad_accumulation_factor": 2}
    brain = noisy_brain(make_brain, solve_seed=5, run_opts=options)
    for brain.step in (1, 2):
        brain.fit_batch(domains(1.0))
    masks = brain.modules.model.masks
    assert brain.optimizer_step == 1 and not torch.equal(masks[0], masks[-1])


def test_a_recipe_counts_global_batches():
    with pytest.raises(
        ValueError, match="grad_accumulation_factor is 2, .*global_batch"
    ):
        build(grad_accumulation_factor=2)


# ------------------------------------------------------------- what is trained


class Layers(nn.Module):
    """Two layers; the weight of a third is trained, but is in no module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 1)
        self.outside = [nn.Parameter(torch.ones(1))]

    def forward(self, x):
        return self.two(self.one(x).tanh()) * self.outside[0]


def layers_loss(model, batch):
    return (model(batch) - 1).square().mean()


def with_outside(model, params):
    return AdamW([*params, *model.outside], lr=0.05)


def freeze(model, t):
    """Iterations 2 and 3 of six train the second layer alone."""
    model.one.requires_grad_(t not in (2, 3))


def test_freezing_in_mid_run_is_that_of_speechbrain(make_brain):
    """And so are parameters that the optimizer has and ``modules`` has not."""
    brains = []
    for kind, count in ((PlainBrain, 2), (HeteroBrain, 1)):
        model = Layers()
        options = {"device": "cpu", "grad_accumulation_factor": count}
        hparams = {"loss": layers_loss}
        opt_class = partial(with_outside, model)
        if kind is PlainBrain:
            brain = PlainBrain({"model": model}, opt_class, hparams, options)
            brain.init_optimizers()
        else:
            brain = make_brain(model, layers_loss, opt_class=opt_class)
            brain.max_grad_norm = 5.0
        for t in range(6):
            freeze(model, t)
            batches = [data(4, 3, seed=2 * t + i) for i in range(2)]
            if kind is HeteroBrain:
                brain.fit_batch(domains(*batches))
            for batch in batches if kind is PlainBrain else ():
                brain.step += 1
                brain.fit_batch(batch)
        brains.append(brain)
    assert_same(*map(state_of, brains))
    ours, theirs = (b.modules.model.outside[0] for b in brains)
    assert torch.equal(ours, theirs) and ours != 1


@pytest.mark.parametrize("state", ["fresh", "per_domain"])
def test_local_steps_move_what_is_trained_now(make_brain, state):
    model, seen = Layers(), []

    def spy(model, batch):
        weights = [model.one.weight, model.two.weight, model.outside[0]]
        seen.append([weight.detach().clone() for weight in weights])
        return layers_loss(model, batch)

    brain = make_brain(
        model,
        spy,
        opt_class=partial(with_outside, model),
        local_optimizer=partial(AdamW, lr=0.1),
        local_optimizer_state=state,
        local_steps=1,
    )
    for t in range(6):
        freeze(model, t)
        brain.fit_batch(domains(data(4, 3, seed=t)))
        theta, phi = seen[-2:]
        moved = [not torch.equal(a, b) for a, b in zip(theta, phi)]
        assert moved == [t not in (2, 3), True, True]
    ends = [seen[2 * t][0] for t in range(6)]  # θ of the first layer, by iteration
    assert torch.equal(ends[2], ends[3]) and not torch.equal(ends[4], ends[5])


def test_local_steps_leave_a_frozen_optimizer_alone(make_brain):
    seen = []

    class Two(HeteroBrain):
        def compute_forward(self, batch, stage):
            return self.hparams.loss(self.modules.model, batch)

        def compute_objectives(self, predictions, batch, stage):
            return predictions

        def init_optimizers(self):
            model = self.modules.model
            kinds = {"one": model.one, "two": model.two}
            self.optimizers_dict = {
                k: SGD(m.parameters(), lr=0.1) for k, m in kinds.items()
            }

        def freeze_optimizers(self, optimizers):
            return {"two": optimizers["two"]}

    def spy(model, batch):
        seen.append([p.detach().clone() for p in model.parameters()])
        return layers_loss(model, batch)

    brain = make_brain(Layers(), spy, kind=Two, local_lr=0.1, local_steps=1)
    brain.fit_batch(domains(data(4, 3)))
    moved = [not torch.equal(a, b) for a, b in zip(*seen)]
    assert moved == [False, False, True, True]


# ------------------------------------------------------------ state of modules


def normalised(make_brain, place, **hparams):
    """A Brain that normalises by global statistics, which are plain attributes."""
    torch.manual_seed(1)
    normalize = InputNormalization(norm_type="global")
    model = nn.ModuleDict({"layer": nn.Linear(3, 1)})
    if place == "modules":
        model["normalize"] = normalize

    def loss(model, batch):
        return (model["layer"](normalize(batch)) - 1).square().mean()

    brain = make_brain(model, loss, normalize=normalize, **hparams)
    return brain, normalize


@pytest.mark.parametrize("place", ["modules", "hparams"])
@pytest.mark.parametrize("kind", ["first_order", "exact"])
def test_statistics_count_each_batch_once(make_brain, place, kind):
    batches = [data(4, 5, 3, seed=i) + i for i in range(4)]
    found = []
    for local_steps in (0, 1, 3):
        brain, normalize = normalised(
            make_brain, place, local_steps=local_steps, local_lr=0.1, hypergradient=kind
        )
        brain.fit_batch(domains(*batches[:2]))
        brain.fit_batch(domains(*batches[2:]))
        found.append([normalize.count, normalize.glob_mean, normalize.glob_std])
    plain, once, thrice = found
    assert plain[0] == once[0] == thrice[0] == 4 * 4 * 5  # frames
    for other in once, thrice:
        assert torch.equal(plain[1], other[1]) and torch.equal(plain[2], other[2])


@pytest.mark.parametrize("local_steps", [0, 2])
def test_a_batch_that_is_not_finite_leaves_statistics_as_they_were(
    make_brain, local_steps
):
    brain, normalize = normalised(
        make_brain, "modules", local_steps=local_steps, local_lr=0.1
    )
    brain.fit_batch(domains(data(4, 5, 3)))
    mean, std = normalize.glob_mean, normalize.glob_std
    brain.fit_batch(domains(data(4, 5, 3) * math.nan))
    assert torch.equal(normalize.glob_mean, mean) and torch.equal(
        normalize.glob_std, std
    )


# ----------------------------------------------------------------------- hooks


def test_hooks_are_called_once_an_iteration(make_brain):
    calls = []
    model = Vector(0.3, -0.7)

    def loss(model, batch):
        calls.append("loss")
        return bowl_or_bad(model, batch)

    brain = make_brain(model, loss, local_lr=0.1, local_steps=1)
    brain.on_fit_batch_start = lambda *a: calls.append(("start", a, values(model)))
    brain.on_fit_batch_end = lambda *a: calls.append(("end", a, values(model)))
    batch = domains(GOOD[0], "nan loss", GOOD[1])
    before = values(model)
    returned = brain.fit_batch(batch)
    (first, started, at_start), *losses, (last, ended, at_end) = calls
    # The NaN of b is noticed after its last step, without an earlier synchronisation.
    assert first == "start" and last == "end" and losses == ["loss"] * 6
    assert len(started) == 2 and started[0] is batch and started[1] is True
    assert len(ended) == 4 and ended[0] is batch and ended[3] is True
    assert ended[2] is returned
    assert at_start == before and at_end == values(model) != before
    # outputs are those at φ_K of the finite domains, in order
    figures = brain.monitor.pop()
    expected = [figures["loss_at_phi/a"], figures["loss_at_phi/c"]]
    assert [float(o.detach()) for o in ended[1]] == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------ randomness


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))
        self.masks = deque()  # a list would be restored behind a solve

    def forward(self, batch):
        mask = nn.functional.dropout(torch.ones(64), 0.5)
        self.masks.append(mask)
        return (self.weight * mask * batch).square().mean()


def noisy_loss(model, batch):
    return model(batch)


def noisy_brain(make_brain, kind="first_order", **hparams):
    torch.manual_seed(9)
    return make_brain(
        Noisy(), noisy_loss, local_lr=0.1, local_steps=2, hypergradient=kind, **hparams
    )


@pytest.mark.parametrize("kind", ["first_order", "exact"])
@pytest.mark.parametrize("seed", [{}, {"solve_seed": 5}], ids=["no seed", "seed"])
def test_one_dropout_mask_a_domain(make_brain, seed, kind):
    brain = noisy_brain(make_brain, kind, **seed)
    for _ in range(2):
        brain.fit_batch(domains(1.0, 2.0))
    masks = [*brain.modules.model.masks]
    passes = 5 if kind == "exact" else 3  # K+1, and K Hessians
    assert len(masks) == 4 * passes
    firsts = masks[::passes]
    for solve, first in enumerate(firsts):
        of_solve = masks[solve * passes : (solve + 1) * passes]
        assert all(torch.equal(first, mask) for mask in of_solve)
    for i, one in enumerate(firsts):  # other domains and iterations: other masks
        assert all(not torch.equal(one, other) for other in firsts[:i])


@pytest.mark.parametrize(
    "draw", [random.random, np.random.random, lambda: torch.rand(()).item()]
)
@pytest.mark.parametrize("seed", [{}, {"solve_seed": 5}], ids=["no seed", "seed"])
def test_every_generator_draws_the_same_in_all_passes_of_a_solve(
    make_brain, draw, seed
):
    """SpeechBrain's Augmenter draws from Python's, Hugging Face's masks from NumPy's."""
    drawn = []

    def loss(model, batch):
        drawn.append(draw())
        return model(torch.ones(1, 3)).square().mean() * batch

    options = {"local_lr": 0.1, "local_steps": 2, **seed}
    random.seed(0)
    brain = make_brain(nn.Linear(3, 1), loss, **options)
    brain.fit_batch(domains(1.0, 2.0))
    brain.fit_batch(domains(1.0, 2.0))
    assert len(drawn) == 12 and len(set(drawn)) == 4
    assert drawn == [first for first in drawn[::3] for _ in range(3)]
    again = list(drawn)
    drawn.clear()
    random.seed(1)
    brain = make_brain(nn.Linear(3, 1), loss, **options)
    brain.fit_batch(domains(1.0, 2.0))
    assert (drawn == again[:6]) == bool(seed)


def test_an_iteration_replays_alone(make_brain):
    run = noisy_brain(make_brain, solve_seed=5)
    run.fit_batch(domains(1.0, 2.0))
    state = copy.deepcopy(run.modules.state_dict())
    run.fit_batch(domains(1.0, 2.0))

    alone = noisy_brain(make_brain, solve_seed=5)
    alone.modules.load_state_dict(state)
    alone.optimizer_step = 1
    torch.manual_seed(12345)
    torch.rand(17)
    alone.fit_batch(domains(1.0, 2.0))
    assert_same(state_of(alone), state_of(run))

    other = noisy_brain(make_brain, solve_seed=6)
    other.modules.load_state_dict(state)
    other.optimizer_step = 1
    other.fit_batch(domains(1.0, 2.0))
    assert not torch.equal(other.modules.model.weight, run.modules.model.weight)


def test_a_domain_draws_the_same_beside_others(make_brain):
    masks = []
    for batch in (domains(1.0, 2.0), domains(1.0, 2.0)[1:]):
        brain = noisy_brain(make_brain, solve_seed=5)
        brain.fit_batch(batch)
        masks.append(brain.modules.model.masks[-1])
    assert torch.equal(*masks)


def test_without_a_seed_the_generator_is_the_users(make_brain):
    brains = [noisy_brain(make_brain) for _ in range(2)]
    for brain, seed in zip(brains, (1, 2)):
        torch.manual_seed(seed)
        brain.fit_batch(domains(1.0, 2.0))
    assert not torch.equal(*(b.modules.model.masks[0] for b in brains))


# -------------------------------------------------------------- learning rates


def halving(epoch, iteration):
    return 0.5**iteration / epoch


class TwoOptimizers(HeteroBrain):
    """Overrides ``init_optimizers`` as SpeechBrain's recipes do."""

    def compute_forward(self, batch, stage):
        return self.modules.model(batch)

    def compute_objectives(self, predictions, batch, stage):
        return (predictions - 1).square().mean()

    def init_optimizers(self):
        first, _, last = self.modules.model
        self.optimizer = SGD(first.parameters(), lr=0.1)
        self.other = SGD(last.parameters(), lr=0.4)
        self.optimizers_dict = {"optimizer": self.optimizer, "other": self.other}


def rate(optimizer):
    return optimizer.param_groups[0]["lr"]


def scheduled_brain(make_brain, folder):
    model = Vector(0.3, -0.7)
    return make_brain(
        model,
        bowl,
        lr=0.2,
        local_lr=0.4,
        local_steps=1,
        local_optimizer_state="per_domain",
        lr_schedule=halving,
        checkpointer=Checkpointer(folder, {"model": model}),
    )


def test_both_rates_follow_the_schedule(make_brain, tmp_path):
    brain = scheduled_brain(make_brain, tmp_path)
    model, centre = brain.modules.model, torch.tensor([1.0, 2.0]).double()
    for t, epoch in enumerate([1, 1, 2, 2]):
        brain.epoch = epoch
        theta, factor = model.theta.detach().clone(), 0.5**t / epoch
        brain.fit_batch(domains((1.0, centre)))
        assert rate(brain.optimizer) == 0.2 * factor
        assert rate(brain.local_solver.optimizer) == 0.4 * factor
        step = 0.2 * factor * (1 - 0.4 * factor) * (theta - centre)
        torch.testing.assert_close(
            model.theta.detach(), theta - step, rtol=1e-12, atol=1e-14
        )


def test_a_resumed_run_continues_the_schedule(make_brain, tmp_path):
    first = scheduled_brain(make_brain, tmp_path)
    for _ in range(2):
        first.fit_batch(domains((1.0, [1.0, 2.0])))
    first.checkpointer.save_checkpoint()
    second = scheduled_brain(make_brain, tmp_path)
    assert second.iteration == 2
    for brain in first, second:
        brain.fit_batch(domains((1.0, [1.0, 2.0])))
        assert rate(brain.optimizer) == 0.2 / 4
        assert rate(brain.local_solver.optimizer) == 0.4 / 4
    assert_same(state_of(first), state_of(second))


def test_every_optimizer_is_annealed(make_brain):
    brain = make_brain(
        small_model(), None, kind=TwoOptimizers, lr_schedule=lambda e, i: 0.25
    )
    for _ in range(2):
        brain.fit_batch(domains(data(4, 3)))
    assert rate(brain.optimizer) == 0.025 and rate(brain.other) == 0.1


def test_hold_then_decay():
    paper = HoldThenDecay(hold_epochs=60)
    factors = [paper(epoch, iteration=7) for epoch in (1, 60, 61, 62, 80)]
    assert factors == pytest.approx([1, 1, 2**-0.5, 0.5, 2**-10])
    warm = HoldThenDecay(hold_epochs=1, decay=0.1, warmup_iterations=10)
    assert [warm(1, i) for i in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert warm(3, 4) == pytest.approx(0.5 * 0.01)


# --------------------------------------------------------------------- logging


class Recorder:
    def __init__(self):
        self.entries = []

    def log_stats(self, meta, train_stats=None, valid_stats=None):
        stats = {"train": train_stats, "valid": valid_stats}
        self.entries.append((dict(meta), stats))


BOWLS = (0.5, [1.0, -2.0]), (2.0, [0.0, 0.0]), (1.0, [-3.0, 1.0])


def figures(theta, steps, local_lr):
    """Loss at θ and φ_K and hypergradient for each of BOWLS."""
    result = {}
    for name, (scale, centre) in zip("abc", BOWLS):
        away = theta - torch.tensor(centre).double()
        moved = (1 - local_lr * scale) ** steps * away
        losses = [scale * d.square().sum().item() / 2 for d in (away, moved)]
        result[name] = (*losses, scale * moved)
    return result


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_entries_hold_the_mean_figures_of_an_interval(make_run, steps):
    recorder, other = Recorder(), Recorder()
    model = Vector(0.3, -0.7)
    brain = make_run(
        model,
        bowl,
        local_lr=0.3,
        local_steps=steps,
        log_interval=2,
        loggers=[recorder, other],
    )
    seen = []
    for _ in range(5):
        seen.append(figures(model.theta.detach().clone(), steps, 0.3))
        brain.fit_batch(domains(*BOWLS))
    assert [meta["iteration"] for meta, _ in recorder.entries] == [2, 4]
    for (meta, stats), pair in zip(recorder.entries, (seen[:2], seen[2:4])):
        assert meta["epoch"] == 1 and meta["lr"] == 0.1
        assert meta.get("local_lr") == (0.3 if steps else None)
        assert stats["valid"] is None
        expected = {}
        for d in "abc":
            theta, phi, norm = (
                sum(f) / 2
                for f in zip(*((a, b, g.norm()) for a, b, g in (p[d] for p in pair)))
            )
            if steps == 0:  # no φ, and nothing to gain on the way there
                expected |= {f"loss/{d}": theta, f"gradient_norm/{d}": norm.item()}
                continue
            expected |= {
                f"loss_at_theta/{d}": theta,
                f"loss_at_phi/{d}": phi,
                f"local_gain/{d}": theta - phi,
                f"hypergradient_norm/{d}": norm.item(),
            }
        assert stats["train"] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert other.entries == recorder.entries


def test_norms_are_of_the_undivided_hypergradient_itself(make_brain):
    brain = make_brain(
        Vector(3.0, 4.0),
        bowl,
        local_lr=0.5,
        local_steps=1,
        hypergradient="exact",
        domain_weights={"a": 1, "b": 7},
    )
    brain.fit_batch(domains((1.0, [0.0, 0.0]), (1.0, [0.0, 0.0])))
    entry = brain.monitor.pop()
    assert entry["hypergradient_norm/a"] == pytest.approx(5 / 4)
    assert entry["hypergradient_norm/b"] == pytest.approx(5 / 4)


def cosine(x, y):
    return torch.cosine_similarity(x, y, dim=0).item()


def test_cosines_between_domains(make_run):
    recorder = Recorder()
    model = Vector(0.3, -0.7)
    brain = make_run(
        model,
        bowl,
        local_lr=0.3,
        local_steps=1,
        cosine_interval=2,
        loggers=[recorder],
    )
    for t in range(4):
        now = figures(model.theta.detach().clone(), 1, 0.3)
        brain.fit_batch(domains(*BOWLS))
        assert brain.monitor.gradients == {}  # none is kept between measurements
        assert len(recorder.entries) == (t + 1) // 2
        if t % 2:
            meta, stats = recorder.entries[-1]
            assert meta["iteration"] == t + 1
            grads = {d: g for d, (_, _, g) in now.items()}
            assert stats["train"] == pytest.approx(
                {
                    "cosine/a~b": cosine(grads["a"], grads["b"]),
                    "cosine/a~c": cosine(grads["a"], grads["c"]),
                    "cosine/b~c": cosine(grads["b"], grads["c"]),
                },
                rel=1e-5,
            )


class Heads(nn.Module):
    """One parameter for both domains between one of each domain's own."""

    def __init__(self):
        super().__init__()
        self.a, self.shared, self.b = (
            nn.Parameter(torch.tensor(v).double()) for v in ([1.0], [2.0], [3.0])
        )


def test_cosines_line_up_without_some_gradients(make_run):
    recorder = Recorder()
    brain = make_run(
        Heads(),
        lambda model, name: model.shared * 3 + getattr(model, name) * 4,
        cosine_interval=1,
        loggers=[recorder],
    )
    brain.fit_batch(domains("a", "b"))
    ((_, stats),) = recorder.entries  # (4, 3, 0) and (0, 3, 4)
    assert stats["train"] == pytest.approx({"cosine/a~b": 9 / 25})


def test_loggers_write_the_iteration(make_run, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = tmp_path / "log.jsonl"
    for resumed in (0, 4):  # from the start, and resumed at iteration 4
        model = Vector(0.3, -0.7)
        brain = make_run(
            model,
            bowl,
            local_lr=0.3,
            local_steps=1,
            log_interval=2,
            loggers=[
                JsonLinesLogger(lines),
                IterationTensorboardLogger(str(tmp_path / "board")),
            ],
        )
        brain.optimizer_step = resumed
        for _ in range(4):
            brain.fit_batch(domains(*BOWLS))
    brain.log(train_stats={"loss": 1.0}, valid_stats={"loss": 2.0, "loss/a": 3.0})

    entries = JsonLinesLogger.read(lines)
    assert [e["iteration"] for e in entries] == [2, 4, 6, 8, 8]
    assert all(e["local_lr"] == 0.3 and e["epoch"] == 1 for e in entries)
    assert entries[-1]["valid"] == {"loss": 2.0, "loss/a": 3.0}
    assert "test" not in entries[-1] and "valid" not in entries[0]
    assert all(json.loads(line) for line in lines.read_text().splitlines())

    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    for name in ("loss_at_theta/a", "local_gain/b", "hypergradient_norm/c"):
        events = board.Scalars(f"{name}/train")
        assert [e.step for e in events] == [2, 4, 6, 8]
        assert [e.value for e in events] == pytest.approx(
            [e["train"][name] for e in entries[:4]], rel=1e-6
        )
    assert [(e.step, e.value) for e in board.Scalars("loss/a/valid")] == [(8, 3.0)]
    assert {e.step for e in board.Scalars("lr")} == {2, 4, 6, 8}


# -------------------------------------------------------------- the whole loop


class Counting(list):
    """A loader that can start in the middle of a phase."""

    started = ()

    def start_at(self, iteration):
        self.started = (*self.started, iteration)


def loader(batches):
    made = torch.utils.data.DataLoader(Counting(batches), batch_size=None)
    made.sampler.start_at = made.dataset.start_at
    return made


def test_fit_validates_logs_and_saves(make_run, tmp_path):
    recorder = Recorder()
    model = Vector(0.3, -0.7)
    checkpointer = Checkpointer(tmp_path, {"model": model})
    brain = make_run(
        model,
        bowl,
        local_lr=0.3,
        local_steps=1,
        loggers=[recorder],
        checkpointer=checkpointer,
    )
    train = loader([domains(*BOWLS), domains(*BOWLS[:2])])
    valid = loader([part for part in domains(*BOWLS, *BOWLS[:1])] + [BOWLS[0]])
    brain.fit([1, 2], train, valid, progressbar=False)
    assert train.dataset.started == (0, 2)
    assert brain.optimizer_step == 4
    assert len(checkpointer.list_checkpoints()) == 1
    at_end = figures(model.theta.detach(), 1, 0.3)
    meta, stats = recorder.entries[-1]
    assert (meta["epoch"], meta["iteration"]) == (2, 4)
    losses = {d: f[0] for d, f in at_end.items()}
    everything = [*losses.values(), losses["a"], losses["a"]]
    assert stats["valid"] == pytest.approx(
        {
            "loss": sum(everything) / 5,
            **{f"loss/{d}": loss for d, loss in losses.items()},
            "loss/d": losses["a"],
            **{f"loss_at_phi/{d}": f[1] for d, f in at_end.items()},
            "loss_at_phi/d": at_end["a"][1],
        },
        rel=1e-5,
    )
    assert math.isfinite(stats["train"]["loss"])


def test_fit_takes_a_plain_list_of_global_batches():
    class Mean(HeteroBrain):
        def compute_forward(self, batch, stage):
            return self.modules.model(batch)

        def compute_objectives(self, predictions, batch, stage):
            seen.append(batch)
            return predictions.square().mean()

    seen = []
    global_batches = [[DomainBatch(d, (torch.rand(2, 3),)) for d in "ab"]] * 2
    brain = Mean({"model": nn.Linear(3, 1)}, partial(SGD, lr=0.1), {})
    brain.fit(range(1, 3), global_batches, progressbar=False)
    assert brain.iteration == 4
    assert [batch.shape for batch in seen] == [(2, 3)] * 8


# ------------------------------------------------------------------------ memory


@pytest.mark.parametrize("steps", [0, 2])
def test_one_gradient_at_a_time(make_brain, monkeypatch, steps):
    """When a pass begins, the only gradient in memory is the running mean."""
    alive, backward = [], torch.autograd.grad
    module = nn.Linear(3, 2)

    def grad(*args, **kwargs):
        grads = backward(*args, **kwargs)
        alive.extend(weakref.ref(g) for g in grads)
        return grads

    def loss(model, batch):
        left = {id(ref()) for ref in alive} - {id(None)}
        counts.append(len(left - {id(p.grad) for p in module.parameters()}))
        return model(batch).square().mean()

    counts = []
    monkeypatch.setattr(torch.autograd, "grad", grad)
    brain = make_brain(module, loss, local_steps=steps, local_lr=0.1)
    for _ in range(2):
        brain.fit_batch([DomainBatch(d, (torch.rand(4, 3),)) for d in "abc"])
    assert counts == [0] * (2 * 3 * (steps + 1))


class Aliased(torch.autograd.Function):
    """a + b, the gradients of which lie in one piece of memory."""

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, grad):
        both = torch.stack([grad, grad])
        return both[0], both[1]


@pytest.mark.parametrize(
    "loss, copied",
    [
        (lambda model, _: (model.a * 2).square().sum() + model.b.square().sum(), ""),
        (lambda model, _: ((model.a + model.b) * 2).square().sum(), "ab"),
        (lambda model, _: (Aliased.apply(model.a, model.b) * 2).square().sum(), "ab"),
        (lambda model, _: model.a.sum() + model.b.square().sum(), "a"),  # expanded
    ],
)
def test_the_mean_has_memory_of_its_own(make_brain, monkeypatch, loss, copied):
    """The first domain's gradient becomes ``.grad`` itself, unless it shares memory."""
    model, backward, places = nn.Module(), torch.autograd.grad, []
    model.a, model.b = (nn.Parameter(torch.ones(3) * i) for i in (1, 2))

    def grad(*args, **kwargs):
        grads = backward(*args, **kwargs)
        places.extend(g.untyped_storage().data_ptr() for g in grads)
        return grads

    monkeypatch.setattr(torch.autograd, "grad", grad)
    brain = make_brain(model, loss)
    seen = []

    def keep():
        seen.extend(p.grad.untyped_storage() for p in model.parameters())

    brain.optimizers_step = keep
    brain.fit_batch([DomainBatch("a", (None,))])
    own = [memory.data_ptr() for memory in seen]
    assert len(set(own)) == 2 and all(memory.nbytes() == 12 for memory in seen)
    assert [name for name, place in zip("ab", own) if place not in places] == [*copied]


class Transposing(nn.Module):
    """A linear layer whose weight's gradient has the layout of the transposed weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(data(4, 3).double())

    def forward(self, x):
        return x @ self.weight.T.contiguous()


@pytest.mark.parametrize("steps", [0, 2])
def test_fused_optimizers_get_gradients_in_the_layout_of_parameters(make_brain, steps):
    """They walk through the memory of both, and autograd.grad returns any layout."""
    moved = {}
    for fused in (False, True):
        model, optimizer = Transposing(), partial(AdamW, lr=0.05, fused=fused)
        brain = make_brain(
            model,
            lambda model, x: (model(x) - 1).square().mean(),
            opt_class=optimizer,
            local_optimizer=optimizer,
            local_steps=steps,
        )
        for i in range(2):
            brain.fit_batch(domains(*(data(5, 3, seed=i + j).double() for j in (1, 3))))
        moved[fused] = model.weight.detach()
    loss = model(data(5, 3).double()).square().mean()
    (grad,) = torch.autograd.grad(loss, model.weight)
    assert grad.stride() != model.weight.stride()
    torch.testing.assert_close(moved[True], moved[False], rtol=1e-9, atol=1e-12)


def test_domain_batches_are_pinned_as_their_batches_are():
    class Pinnable:
        def pin_memory(self):
            return "pinned"

    pinned = DomainBatch("a", (Pinnable(), None)).pin_memory()
    assert pinned == DomainBatch("a", ("pinned", None))

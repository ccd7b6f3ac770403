"""The bilevel update against closed forms and plain loops, and θ exactly restored."""

import copy
import json
import pickle
import shutil
from functools import partial
from itertools import product

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hetero_brain import DomainBatch
from hetero_brain.bilevel import LocalSolver
from hetero_brain.training.local_optimizer import make_local_optimizer
from hetero_brain.training.local_states import FORMER, INDEX
from tests.fake_cuda import CUDA, fake_cuda

ALPHA, BETA = 0.07, 0.3  # local and global learning rate
SGD, AdamW = torch.optim.SGD, torch.optim.AdamW
near = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-14)


class Theta(nn.Module):
    """θ itself, a float64 vector."""

    def __init__(self, dim=4, seed=0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        value = torch.randn(dim, generator=rng, dtype=torch.float64)
        self.theta = nn.Parameter(value)


def quadratic_loss(model, batch):
    """½(θ−c)ᵀA(θ−c) of a batch (A, c)."""
    matrix, centre = batch
    away = model.theta - centre
    return away @ matrix @ away / 2


def quadratic(seed, dim=4):
    """A batch (A, c) with a random positive definite A."""
    rng = torch.Generator().manual_seed(100 + seed)
    root = torch.randn(dim, dim, generator=rng, dtype=torch.float64)
    centre = torch.randn(dim, generator=rng, dtype=torch.float64)
    return root @ root.T / dim + 0.2 * torch.eye(dim, dtype=torch.float64), centre


def quadratic_domains(batches=1, count=3):
    """M domains with some different batches each."""
    return [
        DomainBatch(name, tuple(quadratic(10 * i + k) for k in range(batches)))
        for i, name in enumerate("abcdefg"[:count])
    ]


def closed_form(theta, batch, steps, kind):
    """Hypergradient after K gradient steps on one batch, and the loss there."""
    matrix, centre = batch
    contraction = torch.eye(4, dtype=torch.float64) - ALPHA * matrix
    power = torch.linalg.matrix_power(contraction, steps)
    away = power @ (theta - centre)
    grad = matrix @ away
    return (power @ grad if kind == "exact" else grad), away @ matrix @ away / 2


def plain_loop(theta, batches, steps, kind):
    """The same with a batch for each step, written out."""
    phi = theta.clone()
    used = []
    for k in range(steps):
        matrix, centre = batches[k % len(batches)]
        used.append(matrix)
        phi = phi - ALPHA * matrix @ (phi - centre)
    matrix, centre = batches[-1]
    grad = matrix @ (phi - centre)
    for matrix in reversed(used) if kind == "exact" else ():
        grad = grad - ALPHA * matrix @ grad
    return grad


def quadratic_brain(make_brain, steps, kind, **hparams):
    """θ, and a Brain that takes plain gradient steps of rates α and β from it."""
    model = Theta()
    settings = dict(local_steps=steps, hypergradient=kind, **hparams)
    return model, make_brain(model, quadratic_loss, BETA, local_lr=ALPHA, **settings)


@pytest.mark.parametrize("kind", ["first_order", "exact"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
class TestQuadratics:
    def test_closed_form(self, make_brain, steps, kind):
        model, brain = quadratic_brain(make_brain, steps, kind)
        theta = model.theta.detach().clone()
        domains = quadratic_domains()
        for _ in range(3):
            forms = [closed_form(theta, d.batches[0], steps, kind) for d in domains]
            loss = brain.fit_batch(domains)
            theta = theta - BETA * sum(grad for grad, _ in forms) / 3
            near(model.theta.detach(), theta)
            mean = sum(value for _, value in forms).item() / 3
            assert loss.item() == pytest.approx(mean, rel=1e-6)
            assert loss.device.type == "cpu" and not loss.requires_grad

    @pytest.mark.parametrize("fresh", [1, 0, -1], ids=["K+1", "K", "fewer"])
    def test_fresh_batches(self, make_brain, steps, kind, fresh):
        model, brain = quadratic_brain(make_brain, steps, kind)
        theta = model.theta.detach().clone()
        domains = quadratic_domains(batches=max(1, steps + fresh))
        grads = [plain_loop(theta, d.batches, steps, kind) for d in domains]
        brain.fit_batch(domains)
        near(model.theta.detach(), theta - BETA * sum(grads) / 3)

    def test_domain_weights(self, make_brain, steps, kind):
        weights = {"a": 1, "b": 2.5, "c": 4, "absent": 100}
        model, brain = quadratic_brain(make_brain, steps, kind, domain_weights=weights)
        for domains in quadratic_domains(), quadratic_domains()[1:]:
            theta = model.theta.detach().clone()
            total = sum(weights[d.domain] for d in domains)
            forms = [closed_form(theta, d.batches[0], steps, kind) for d in domains]
            shares = [weights[d.domain] / total for d in domains]
            loss = brain.fit_batch(domains)
            mean = sum(share * grad for share, (grad, _) in zip(shares, forms))
            near(model.theta.detach(), theta - BETA * mean)
            expected = sum(s * value.item() for s, (_, value) in zip(shares, forms))
            assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_domain_without_a_weight_is_named(make_brain):
    brain = make_brain(Theta(), quadratic_loss, domain_weights={"a": 1, "c": 1})
    with pytest.raises(ValueError, match="add a weight for 'b'; there are 'a', 'c'$"):
        brain.fit_batch(quadratic_domains())


# ------------------------------------------- exact hypergradients of other models


class Curved(nn.Module):
    """A small MLP with one parameter that only some batches depend on."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.gain = nn.Parameter(torch.tensor([0.3, -0.8]))
        self.never_used = nn.Parameter(torch.ones(2))
        self.double()


def curved_loss(model, batch):
    x, gained = batch
    y = model.net(x)
    if gained:
        y = y * model.gain.prod().exp()
    return (y.sin() - 0.7).square().mean()


class Attention(nn.Module):
    """Attention by PyTorch's fused function, which has no second derivative."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.double()

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v)


def attention_loss(model, batch):
    return model(batch).square().sum(-1).sqrt().mean()


def inner_steps(model, loss, batches, steps, weight_decay):
    """θ ↦ ℓ(φ_K) as a differentiable function of a dict of parameters."""

    class Call(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return loss(self.model, batch)

    call = Call()

    def value(theta):
        phi = dict(theta)
        for k in range(steps):
            inner = functional_call(call, phi, (batches[k % len(batches)],))
            grads = torch.autograd.grad(
                inner, list(phi.values()), create_graph=True, allow_unused=True
            )
            phi = {
                n: p if g is None else p - ALPHA * (g + weight_decay * p)
                for (n, p), g in zip(phi.items(), grads)
            }
        return functional_call(call, phi, (batches[-1],))

    theta = {n: p.detach().clone() for n, p in call.named_parameters()}
    return value, theta


def hypergradient(make_brain, model, loss, batches, steps, weight_decay):
    """θ before minus θ after one iteration at β = 1, i.e. the hypergradient."""
    brain = make_brain(
        model,
        loss,
        lr=1.0,
        local_optimizer=partial(SGD, lr=ALPHA, weight_decay=weight_decay),
        local_steps=steps,
        hypergradient="exact",
    )
    before = [p.detach().clone() for p in model.parameters()]
    brain.fit_batch([DomainBatch("a", batches)])
    return [b - p.detach() for b, p in zip(before, model.parameters())]


def inputs(*shape, seed=5):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


CURVED = [
    pytest.param([True], id="one batch"),
    pytest.param([True, True, True], id="fresh"),
    pytest.param([True, False, True], id="gain rests once"),
    pytest.param([False, True], id="gain in the last only"),
    pytest.param([True, False, False], id="gain in the first only"),
]


@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
@pytest.mark.parametrize("gained", CURVED)
def test_exact_is_the_derivative_through_the_steps(make_brain, gained, weight_decay):
    torch.manual_seed(1)
    model = Curved()
    batches = tuple((inputs(5, 3, seed=i), g) for i, g in enumerate(gained))
    steps = max(2, len(batches) - 1)
    value, theta = inner_steps(model, curved_loss, batches, steps, weight_decay)
    for p in theta.values():
        p.requires_grad_()
    expected = torch.autograd.grad(
        value(theta), list(theta.values()), materialize_grads=True, allow_unused=True
    )
    taken = hypergradient(make_brain, model, curved_loss, batches, steps, weight_decay)
    for ours, reference in zip(taken, expected):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-14)


def test_gradient_only_by_way_of_an_earlier_step(make_brain):
    # The last batch does not depend on the gain, but φ_1 does by way of ∇²ℓ.
    torch.manual_seed(1)
    model = Curved()
    batches = (inputs(5, 3), True), (inputs(5, 3, seed=6), False)
    taken = hypergradient(make_brain, model, curved_loss, batches, 1, 0.0)
    names = [n for n, _ in model.named_parameters()]
    assert dict(zip(names, taken))["gain"].abs().min() > 1e-6


@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
def test_exact_by_finite_differences(make_brain, weight_decay):
    torch.manual_seed(2)
    model, h = Curved(), 1e-5
    batches = ((inputs(5, 3), True),)
    value, theta = inner_steps(model, curved_loss, batches, 3, weight_decay)

    def at(name, index, delta):
        moved = {n: p.clone() for n, p in theta.items()}
        moved[name].view(-1)[index] += delta
        return value({n: p.requires_grad_() for n, p in moved.items()}).item()

    slopes = [
        [(at(n, i, h) - at(n, i, -h)) / (2 * h) for i in range(p.numel())]
        for n, p in theta.items()
    ]
    taken = hypergradient(make_brain, model, curved_loss, batches, 3, weight_decay)
    for ours, slope in zip(taken, slopes):
        reference = torch.tensor(slope, dtype=torch.float64)
        torch.testing.assert_close(ours.flatten(), reference, rtol=1e-6, atol=1e-9)


class Tilted(nn.Module):
    """A parameter that losses are linear in: no Hessian to differentiate."""

    def __init__(self):
        super().__init__()
        self.bent = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
        self.straight = nn.Parameter(torch.tensor([0.2], dtype=torch.float64))


@pytest.mark.parametrize("bend", [0.0, 2.0])
def test_exact_where_the_loss_is_linear(make_brain, bend):
    def loss(model, batch):
        curve = bend * model.bent.square().sum() / 2 if bend else 0
        return curve + 3 * model.straight.sum()

    taken = hypergradient(make_brain, Tilted(), loss, (None,), 2, 0.0)
    assert taken[0].item() == pytest.approx((1 - ALPHA * bend) ** 4 * bend * 0.7)
    assert taken[1].item() == pytest.approx(3.0)


def test_exact_through_attention(make_brain):
    torch.manual_seed(3)
    model = Attention()
    batches = (inputs(2, 5, 4),)
    value, theta = inner_steps(model, attention_loss, batches, 2, 0.0)
    for p in theta.values():
        p.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.autograd.grad(value(theta), list(theta.values()))
    taken = hypergradient(make_brain, model, attention_loss, batches, 2, 0.0)
    for ours, reference in zip(taken, expected):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(AdamW, lr=0.1),
        partial(SGD, lr=0.1, momentum=0.9),
        partial(SGD, lr=0.1, maximize=True),
    ],
)
def test_exact_refuses_other_optimizers(optimizer):
    with pytest.raises(ValueError, match="hypergradient: exact.*local_optimizer"):
        LocalSolver(Theta(), optimizer, hypergradient="exact")


def two_rates(params):
    """A rate for the first parameter, another for the others."""
    first, *others = params
    return SGD([{"params": [first]}, {"params": others, "lr": 0.4}], lr=0.1)


def test_two_rates_are_those_of_a_copy_and_refused_if_exact():
    model = Mixed()
    solver = LocalSolver(model, two_rates)
    copies = [nn.Parameter(p.detach().clone()) for p in solver.params]
    grads = [torch.ones_like(p) for p in solver.params]
    with solver.solve("a") as phi:
        phi.step(grads)
        for p, grad in zip(copies, grads):
            p.grad = grad
        two_rates(copies).step()
        assert same([bits(p) for p in solver.params], [bits(p) for p in copies])
    with pytest.raises(ValueError, match="hypergradient: exact.*local_optimizer"):
        LocalSolver(model, two_rates, hypergradient="exact")


# ----------------------------------------------------------------- θ restored


def bits(tensor):
    """A copy as integers, so that -0.0 is not 0.0 and NaN equals itself."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().clone().view(kind)


def all_bits(module):
    return [bits(p) for p in module.parameters()]


def same(left, right):
    return len(left) == len(right) and all(map(torch.equal, left, right))


class Mixed(nn.Module):
    """Parameters of several precisions, tied and frozen ones, awkward values."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.brief = nn.Parameter(torch.randn(3, 2).bfloat16())
        self.plain = nn.Parameter(torch.tensor([1e-40, -0.0, 1 / 3, 3e38]))
        self.wide = nn.Parameter(torch.tensor([1e-310, 1 / 3, -0.0]).double())
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.two.weight = self.one.weight
        self.transposed = nn.Parameter(torch.randn(3, 2).T)


def mixed_loss(model, batch):
    total = model.two(model.one(model.frozen)).square().sum().double()
    for p in model.brief, model.plain, model.wide, model.transposed:
        total = total + (p.double().clamp(-2, 2) - batch).square().sum()
    return total


@pytest.mark.parametrize("factory", [partial(SGD, lr=0.1), partial(AdamW, lr=0.1)])
def test_theta_is_restored_bit_for_bit(make_brain, factory):
    model = Mixed()
    seen = []

    def spy(model, batch):
        seen.append(all_bits(model))
        return mixed_loss(model, batch)

    before = all_bits(model)
    brain = make_brain(model, spy, local_optimizer=factory, local_steps=2)
    brain.optimizers_step = lambda: None
    brain.fit_batch([DomainBatch(d, (i + 0.5,)) for i, d in enumerate("abc")])
    assert len(seen) == 9
    for domain in range(3):
        assert same(seen[3 * domain], before)
        for k in (1, 2):  # every trainable parameter moved, the frozen one did not
            now, then = seen[3 * domain + k], seen[3 * domain + k - 1]
            names = [n for n, _ in model.named_parameters()]
            stayed = [n for n, a, b in zip(names, now, then) if torch.equal(a, b)]
            assert stayed == ["frozen"]
    assert same(all_bits(model), before)


@pytest.mark.parametrize("call", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("kind", ["first_order", "exact"])
def test_theta_is_restored_when_the_solve_raises(make_brain, call, kind):
    model = Mixed()
    calls = []

    def fails(model, batch):
        calls.append(batch)
        if len(calls) == call:
            raise KeyError("in compute_forward")
        return mixed_loss(model, batch)

    before = all_bits(model)
    brain = make_brain(model, fails, local_lr=0.1, local_steps=2, hypergradient=kind)
    with pytest.raises(KeyError, match="in compute_forward"):
        brain.fit_batch([DomainBatch(d, (0.5,)) for d in "ab"])
    assert same(all_bits(model), before)
    # and the next iteration equals that of a model without the failure
    other = Mixed()
    healthy = make_brain(
        other, mixed_loss, local_lr=0.1, local_steps=2, hypergradient=kind
    )
    brain.zero_grad(set_to_none=True)
    for each in brain, healthy:
        each.fit_batch([DomainBatch(d, (0.5,)) for d in "ab"])
    assert same(all_bits(model), all_bits(other))


def test_solver_takes_trainable_parameters_once():
    model = Mixed()
    solver = LocalSolver(model, partial(SGD, lr=0.1))
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert [id(p) for p in solver.params] == [id(p) for p in trainable]
    assert not any(model.frozen is p for p in solver.params)


def test_an_exact_hypergradient_leaves_the_model_at_phi():
    model, batch = small_model(), inputs(5, 3)
    solver = LocalSolver(model, partial(SGD, lr=0.1), hypergradient="exact")
    before, loss = all_bits(model), partial(small_loss, model, batch)
    with solver.solve() as phi:
        for _ in range(2):
            phi.step(torch.autograd.grad(loss(), solver.params), loss)
        at_phi = all_bits(model)
        phi.hypergradient(torch.autograd.grad(loss(), solver.params))
        assert same(all_bits(model), at_phi) and not phi.trajectory
    assert same(all_bits(model), before) and not same(at_phi, before)


def test_phi_has_one_block_of_memory_and_theta_is_never_touched():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    solver = LocalSolver(model, partial(SGD, lr=0.1))
    assert solver.blocks == []  # none without a local step
    addresses = [p.data_ptr() for p in model.parameters()]
    theta, before = [p.data for p in model.parameters()], all_bits(model)
    for _ in range(2):
        with solver.solve("a") as phi:
            loss = model(torch.ones(1, 3)).sum()
            phi.step(torch.autograd.grad(loss, solver.params))
            assert all(map(torch.equal, map(bits, theta), before))
            assert not any(map(torch.equal, map(bits, solver.params), before))
            (block,) = solver.blocks
            storage = block.untyped_storage().data_ptr()
            assert all(
                p.untyped_storage().data_ptr() == storage for p in model.parameters()
            )
            assert all(p.data_ptr() % 64 == storage % 64 for p in model.parameters())
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert solver.theta == solver.trajectory == [] and solver.after_theta is None
    assert all(phi.grad is None for phi in solver.phi)
    assert not solver.optimizer.state


@pytest.mark.parametrize("omitted", [(), (1,)])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"momentum": 0.9}])
def test_steps_of_sgd_are_those_of_a_copy(options, omitted):
    """Also in the first step, and where a parameter has no gradient."""
    model = Mixed()
    solver = LocalSolver(model, partial(SGD, lr=0.3, **options))
    copies = [nn.Parameter(p.detach().clone()) for p in solver.params]
    optimizer = SGD(copies, lr=0.3, **options)
    with solver.solve("a") as phi:
        for _step in range(2):
            grads = [torch.randn_like(p) for p in solver.params]
            for i in omitted:
                grads[i] = None
            phi.step(grads)
            for p, grad in zip(copies, grads):
                p.grad = grad
            optimizer.step()
            assert same([bits(p) for p in solver.params], [bits(p) for p in copies])
            assert all(p.grad is None for p in solver.params)


def test_phi_has_the_layout_of_theta():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))
    model = model.to(memory_format=torch.channels_last)
    model[1].weight = nn.Parameter(torch.randn(4, 2).T)
    strides = [p.stride() for p in model.parameters()]
    solver = LocalSolver(model, partial(SGD, lr=0.1))
    with solver.solve("a") as phi:
        phi.step([torch.ones_like(p) for p in solver.params])
        assert [p.stride() for p in model.parameters()] == strides


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["brief", "plain", "wide", "transposed"])
def test_a_phi_that_is_not_finite_is_seen(name, value):
    model = Mixed()
    solver = LocalSolver(model, partial(SGD, lr=0.1))
    with solver.solve("a") as phi:
        assert phi.check() == 0  # at θ
        phi.step([torch.zeros_like(p) for p in solver.params])
        assert phi.check() == 0
        grads = [torch.zeros_like(p) for p in solver.params]
        index = [p is getattr(model, name) for p in solver.params].index(True)
        grads[index][(1,) * grads[index].ndim] = value
        phi.step(grads)
        assert phi.check().isnan()


def test_half_precision_is_summed_in_single():
    model = nn.ParameterList([torch.full((2,), 6e4, dtype=torch.float16)])
    solver = LocalSolver(model, partial(SGD, lr=0.1))
    with solver.solve("a") as phi:
        phi.step([torch.zeros_like(p) for p in solver.params])
        assert phi.check() == 0


# -------------------------------------------------------------------- buffers


def normalised_loss(model, batch):
    return (model(batch) - 1).square().mean()


def normalised_model():
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


@pytest.mark.parametrize("kind", ["first_order", "exact"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_running_statistics_are_those_at_theta(make_brain, steps, kind):
    model = normalised_model()
    reference = copy.deepcopy(model)
    brain = make_brain(
        model, normalised_loss, local_lr=0.5, local_steps=steps, hypergradient=kind
    )
    data = [inputs(6, 3, seed=i).float() for i in range(3)]
    brain.fit_batch([DomainBatch(d, (x,)) for d, x in zip("abc", data)])
    for x in data:
        reference(x)
    for ours, theirs in zip(model.buffers(), reference.buffers()):
        assert torch.equal(ours, theirs)
    assert model[1].num_batches_tracked == 3


class Counted(nn.Module):
    """Replaces a buffer by a new tensor, as SpeechBrain's InputNormalization does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + x.sum()
        return self.weight * x


CASES = [(0, None), (0, "theta"), *product((1, 2), (None, "theta", "phi"))]


@pytest.mark.parametrize("steps, bad", CASES)
def test_statistics_in_new_tensors_are_those_at_theta(make_brain, steps, bad):
    brain = make_brain(Counted(), normalised_loss, local_lr=0.1, local_steps=steps)
    nan, good = torch.full((2,), torch.nan), torch.tensor([1.0, 2.0])
    last = {None: (good,), "theta": (nan,), "phi": (good,) * steps + (nan,)}[bad]
    brain.fit_batch([DomainBatch("a", (good,)), DomainBatch("b", last)])
    assert brain.modules.model.seen == (6 if bad is None else 3)


@pytest.mark.parametrize("bad", ["at theta", "at phi", "CSSL"])
def test_a_dropped_domain_leaves_no_statistics(make_brain, bad):
    model = normalised_model()
    reference = copy.deepcopy(model)
    steps = 0 if bad == "CSSL" else 1
    brain = make_brain(model, normalised_loss, local_lr=0.5, local_steps=steps)
    first, good, last = (inputs(6, 3, seed=i).float() for i in range(3))
    nan = torch.full((6, 3), torch.nan)
    broken = {"at theta": (nan, good), "at phi": (good, nan), "CSSL": (nan,)}[bad]
    parts = zip("abc", ((first,), broken, (last,)))
    brain.fit_batch([DomainBatch(d, batches) for d, batches in parts])
    assert brain.monitor.dropped == {"b": 1}
    for x in first, last:
        reference(x)
    for ours, theirs in zip(model.buffers(), reference.buffers()):
        assert torch.equal(ours, theirs)


# ------------------------------------------------------------ local optimizers

FACTORIES = {
    "sgd": partial(SGD, lr=0.1),
    "momentum": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": partial(AdamW, lr=0.05, weight_decay=0.1),
}


def small_model():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def small_loss(model, batch):
    return (model(batch) - batch.sum(-1, keepdim=True)).square().mean()


def plain_iterations(model, domains, factory, kept, iterations, steps=2):
    """PTLOC with a copy of the model per domain and plain torch.optim."""
    workers = {d.domain: copy.deepcopy(model) for d in domains}
    optimizers = {d: factory(w.parameters()) for d, w in workers.items()}
    for _ in range(iterations):
        mean = [torch.zeros_like(p) for p in model.parameters()]
        for domain in domains:
            worker = workers[domain.domain]
            worker.load_state_dict(model.state_dict())
            optimizer = (
                optimizers[domain.domain] if kept else factory(worker.parameters())
            )
            for _ in range(steps):
                optimizer.zero_grad()
                small_loss(worker, domain.batches[0]).backward()
                optimizer.step()
            optimizer.zero_grad()
            small_loss(worker, domain.batches[0]).backward()
            for total, p in zip(mean, worker.parameters()):
                total += p.grad / len(domains)
        with torch.no_grad():
            for p, g in zip(model.parameters(), mean):
                p -= BETA * g


@pytest.mark.parametrize("state", ["fresh", "per_domain"])
@pytest.mark.parametrize("name", FACTORIES)
def test_local_optimizers_against_a_plain_loop(make_brain, name, state):
    model, reference = small_model(), small_model()
    brain = make_brain(
        model,
        small_loss,
        lr=BETA,
        local_optimizer=FACTORIES[name],
        local_steps=2,
        local_optimizer_state=state,
    )
    domains = [DomainBatch(d, (inputs(5, 3, seed=i),)) for i, d in enumerate("abc")]
    plain_iterations(reference, domains, FACTORIES[name], state == "per_domain", 3)
    for _ in range(3):
        brain.fit_batch(domains)
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        near(ours, theirs)
    kept = {"a", "b", "c"} if state == "per_domain" else set()
    assert set(brain.local_solver.states) == kept


@pytest.mark.parametrize(
    "kind, options",
    [
        (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
        (AdamW, {"amsgrad": True, "fused": True}),
        (torch.optim.Adamax, {}),
        (torch.optim.RAdam, {}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
    ],
)
def test_a_fresh_state_is_the_last_one_set_to_zero(kind, options):
    model, factory = small_model(), partial(kind, lr=0.1, **options)
    solver, params = LocalSolver(model, factory), [*model.parameters()]
    good = [[inputs(*p.shape, seed=i) for p in params] for i in range(2)]
    nan = [None, *(torch.full_like(g, torch.nan) for g in good[0][1:])]

    def solved(gradients):
        with solver.solve() as phi:
            for grads in gradients:
                phi.step([None if g is None else g.clone() for g in grads])
            return [bits(p) for p in params]

    def places():
        slots = solver.optimizer.state.values()
        return {x.data_ptr() for state in slots for x in state.values()}

    expected = [bits(p) for p in plainly(copy.deepcopy(model), factory, good)]
    assert same(solved(good), expected)
    before = places()
    solved([good[0], nan])
    assert same(solved(good), expected) and places() == before
    part = [good[0][:1] + [None] * 3]
    expected = [bits(p) for p in plainly(copy.deepcopy(model), factory, part)]
    assert same(solved(part), expected)
    params[0].requires_grad_(False)
    with solver.solve():
        assert solver.phi_of[params[0]] not in solver.optimizer.state


def plainly(model, factory, gradients):
    """The parameters after steps of an optimizer on them."""
    params = [*model.parameters()]
    optimizer = factory(params)
    for grads in gradients:
        for param, grad in zip(params, grads):
            param.grad = grad
        optimizer.step()
    return params


def test_local_adamw_is_fused_on_a_gpu():
    def fused(factory, device):
        params = [torch.nn.Parameter(torch.zeros(3, device=device))]
        return make_local_optimizer(factory, params).param_groups[0].get("fused")

    adamw = partial(AdamW, lr=0.1)
    with fake_cuda(lambda tensor: [0.0] * tensor.numel()):
        assert fused(adamw, CUDA) and not fused(adamw, "cpu")
        assert not fused(partial(adamw, foreach=True), CUDA)
        assert not fused(partial(SGD, lr=0.1), CUDA)


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_kept_state_survives_a_checkpoint(make_brain, tmp_path, name, former):
    domains = [DomainBatch(d, (inputs(5, 3, seed=i),)) for i, d in enumerate("abc")]

    def fresh_brain():
        model = small_model()
        return make_brain(
            model,
            small_loss,
            opt_class=partial(AdamW, lr=0.01),
            local_optimizer=FACTORIES[name],
            local_steps=2,
            local_optimizer_state="per_domain",
            checkpointer=Checkpointer(tmp_path, {"model": model}),
        )

    first = fresh_brain()
    for _ in range(2):
        first.fit_batch(domains)
    folder = first.checkpointer.save_checkpoint().path
    if former:  # the states of all domains in one file
        (folder / INDEX).unlink()
        files = [*folder.glob("local_solver.*")]
        states = [torch.load(file, weights_only=True) for file in files]
        assert sorted(domain for state in states for domain in state) == [*"abc"]
        torch.save(
            {k: v for state in states for k, v in state.items()}, folder / FORMER
        )
        for file in files:
            file.unlink()
    first.fit_batch(domains)

    second = fresh_brain()
    assert not second.local_solver.states  # until they are asked for
    second.fit_batch(domains)
    assert set(second.local_solver.states) == {"a", "b", "c"}
    assert same(all_bits(second.modules), all_bits(first.modules))

    # A process that has continued, with a new domain, returns to the saved state.
    first.fit_batch([DomainBatch("d", (inputs(5, 3),))])
    first.checkpointer.recover_if_possible()
    first.fit_batch(domains)
    assert set(first.local_solver.states) == {"a", "b", "c"}
    assert same(all_bits(second.modules), all_bits(first.modules))


def test_a_fresh_state_is_not_in_the_checkpoint(make_brain, tmp_path):
    model = small_model()
    checkpointer = Checkpointer(tmp_path, {"model": model})
    make_brain(
        model, small_loss, local_lr=0.1, local_steps=1, checkpointer=checkpointer
    )
    checkpoint = checkpointer.save_checkpoint()
    assert checkpoint.path.exists() and not [*checkpoint.path.glob("local_solver*")]


def test_loading_executes_nothing(tmp_path):
    solver = LocalSolver(Theta(), partial(AdamW, lr=0.1), state="per_domain")
    torch.save({"a": partial(print, "executed")}, tmp_path / FORMER)
    with pytest.raises(pickle.UnpicklingError, match="[Ww]eights.only"):
        solver.states.load(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"a": FORMER}))
    assert solver.states.load(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="[Ww]eights.only"):
        with solver.solve("a"):
            pass


@pytest.mark.parametrize("renamed", [False, True])
def test_what_nobody_has_solved_is_in_every_later_checkpoint(tmp_path, renamed):
    """Also while rank 0 still writes the newest, or deletes the one before."""
    solver = LocalSolver(Theta(), partial(AdamW, lr=0.1), state="per_domain")
    grads = [torch.ones_like(p) for p in solver.params]

    def solve(unit):
        with solver.solve(unit) as phi:
            phi.step(grads)

    def steps(unit):
        return {s["step"].item() for s in solver.states[unit].values()}

    for unit in ("a", "a#1", "a#1"):
        solve(unit)
    one, two = tmp_path / "one", tmp_path / "unfinished.two"
    one.mkdir(), two.mkdir()
    solver.states.save(one, solver.optimizer)
    assert solver.states.load(one)
    solve("a")
    solver.states.save(two, solver.optimizer)
    shutil.rmtree(one)
    if renamed:
        two.rename(tmp_path / "two")
    solve("a#1")
    assert steps("a") == {2} and steps("a#1") == {3}


def test_local_gradients_never_reach_grad(make_brain):
    model = small_model()
    seen = []

    def spy(model, batch):
        seen.append([p.grad if p.grad is None else bits(p.grad) for p in params])
        return small_loss(model, batch)

    params = list(model.parameters())
    brain = make_brain(
        model, spy, local_optimizer=partial(AdamW, lr=0.1), local_steps=2
    )
    domains = [DomainBatch(d, (inputs(5, 3, seed=i),)) for i, d in enumerate("abc")]
    for _ in range(2):
        seen.clear()
        brain.fit_batch(domains)
        assert seen[0] == seen[1] == seen[2] == [None] * 4
        for domain in (1, 2):
            at_theta, *later = seen[3 * domain : 3 * domain + 3]
            assert all(same(at_theta, grads) for grads in later)
        assert not same(seen[3], seen[6])  # the second domain has added its share
        assert all(p.grad is None for p in params)


def test_after_a_fault_a_domains_own_state_begins_afresh():
    solver = LocalSolver(Theta(), partial(AdamW, lr=0.1), state="per_domain")
    grads = [torch.ones_like(p) for p in solver.params]
    for domain in ("a", "b"):
        with solver.solve(domain) as phi:
            phi.step(grads)
    with pytest.raises(ArithmeticError), solver.solve("a") as phi:
        phi.step([torch.full_like(g, torch.nan) for g in grads])
        raise ArithmeticError
    assert solver.states["b"] and not solver.states["a"]
    with solver.solve("a") as phi:
        phi.step(grads)
        assert all(p.isfinite().all() for p in solver.params)
    assert {s["step"].item() for s in solver.states["a"].values()} == {1}

"""What cannot become heterogeneous is refused, with the way out."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hetero_brain import DomainBatch, HeteroBrain

ONE = [DomainBatch("a", (torch.ones(2, 3),))]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss(module, x):
    return module(x).square().mean()


def brain_of(kind):
    return kind({"model": model()}, torch.optim.SGD, {}, {"device": "cpu"})


def test_a_fit_batch_of_ones_own():
    class Gan(HeteroBrain):
        def fit_batch(self, batch):
            self.optimizer.step()

    class Heir(Gan):
        pass

    for kind in (Gan, Heir):
        with pytest.raises(TypeError, match="Gan.fit_batch replaces.*on_fit_batch_end"):
            brain_of(kind)

    class Timed(HeteroBrain):
        def fit_batch(self, batch):
            return super().fit_batch(batch)

    class Named(HeteroBrain):
        def fit_batch(self, batch):
            return HeteroBrain.fit_batch(self, batch)

    for kind in (Timed, Named, HeteroBrain):
        brain_of(kind)


def test_data_parallel_in_one_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    options = {"device": "cpu", "data_parallel_backend": True}
    with pytest.raises(ValueError, match="data_parallel_backend: .* with torchrun"):
        HeteroBrain({"model": model()}, torch.optim.SGD, {}, options)


@pytest.mark.parametrize(
    "several, found",
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: {"ctc": x}, "dict"),
        (lambda x: torch.stack([x, x]), r"shape \(2,\)"),
    ],
)
def test_several_losses(make_brain, several, found):
    brain = make_brain(model(), lambda m, x: several(loss(m, x)))
    with pytest.raises(TypeError, match=f"compute_objectives returned {found}"):
        brain.fit_batch(ONE)


def test_a_loss_of_one_element(make_brain):
    ends = []
    for shape in ((), (1,), (1, 1)):
        brain = make_brain(model(), lambda m, x, shape=shape: loss(m, x).reshape(shape))
        brain.fit_batch(ONE)
        ends.append(brain.modules.model[0].weight.clone())
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("whole", [True, False])
def test_reentrant_checkpoints(make_brain, whole):
    def with_checkpoint(module, x, reentrant=True):
        x = x.clone().requires_grad_()
        inner = module if whole else module[0]
        x = checkpoint(inner, x, use_reentrant=reentrant)
        return (x if whole else module[1:](x)).square().mean()

    with pytest.raises(ValueError, match="use_reentrant=False"):
        make_brain(model(), with_checkpoint).fit_batch(ONE)
    brains = [
        make_brain(model(), lambda m, x: with_checkpoint(m, x, False)),
        make_brain(model(), loss),
    ]
    for brain in brains:
        brain.fit_batch(ONE)
    one, other = (brain.modules.model[0].weight for brain in brains)
    assert torch.allclose(one, other) and not torch.equal(one, model()[0].weight)


def ctc(module, x):
    logits = module(x).unsqueeze(0).expand(3, 2, 1) * torch.arange(2.0)
    targets, lengths = torch.ones(2, 1, dtype=torch.long), torch.tensor([3, 3])
    counts = torch.tensor([1, 1])
    return nn.functional.ctc_loss(logits.log_softmax(-1), targets, lengths, counts)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * 2


def once(module, x):
    return OnceOnly.apply(module(x)).square().mean()


@pytest.mark.parametrize(
    "function, name",
    [(ctc, "ctc_loss"), (once, "autograd.Function")],
)
def test_what_has_no_second_derivative(make_brain, function, name):
    settings = {"local_lr": 0.1, "local_steps": 1}
    brain = make_brain(model(), function, hypergradient="exact", **settings)
    before = [p.clone() for p in brain.modules.parameters()]
    with pytest.raises(ValueError, match=f"exact differentiates twice, but .*{name}"):
        brain.fit_batch(ONE)
    assert all(map(torch.equal, before, brain.modules.parameters()))
    make_brain(model(), function, **settings).fit_batch(ONE)  # to first order it can

"""The cross-entropy in pieces: PyTorch's own in value and gradients, and no logits."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hetero_brain.models.operators import logits_at_once
from hetero_brain.objectives import cross_entropy
from hetero_brain.objectives.cross_entropy import linear_cross_entropy


def inputs(rows=70, groups=2, classes=128, size=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        drawn = torch.randn(*shape, generator=generator, dtype=dtype)
        return drawn.requires_grad_()

    labels = torch.randint(classes, (rows, groups), generator=generator)
    weight, bias = normal(groups * classes, size), normal(groups * classes)
    return normal(rows, size), labels, weight, bias


def reference(x, labels, weight, bias):
    logits = F.linear(x, weight, bias).unflatten(-1, (labels.shape[1], -1))
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
    return loss, logits.argmax(-1) == labels


def with_gradients(function, x, labels, weight, bias):
    loss, hits = function(x, labels, weight, bias)
    return loss.detach(), hits, torch.autograd.grad(3 * loss, (x, weight, bias))


@pytest.mark.parametrize("rows, groups", [(70, 2), (64, 1), (300, 1), (1, 2)])
def test_it_is_the_cross_entropy_of_a_linear_layer(rows, groups, monkeypatch):
    monkeypatch.setattr(
        cross_entropy, "logits_at_once", lambda x: 64 * 256
    )  # 64 rows a piece
    of = inputs(rows, groups, classes=256 // groups)
    found = with_gradients(linear_cross_entropy, *of)
    torch.testing.assert_close(found, with_gradients(reference, *of))
    assert found[1].any() or rows == 1


@pytest.mark.parametrize(
    "device, sizes", [("cpu", [64, 64, 2]), ("meta", [130])], ids=["CPU", "GPU"]
)
def test_pieces_suit_the_device(device, sizes, monkeypatch):
    """Four codebooks of 8192 codes: 64 rows at once on a CPU, 1024 on any GPU."""
    chosen, pieces = logits_at_once(torch.empty(1, device=device)), []

    def piece_by_piece(x, labels, *layer, original=cross_entropy.of_rows):
        pieces.append(len(labels))
        return original(x, labels, *layer)

    monkeypatch.setattr(cross_entropy, "logits_at_once", lambda x: chosen)
    monkeypatch.setattr(cross_entropy, "of_rows", piece_by_piece)
    of = inputs(130, 4, classes=8192, size=2)
    found = with_gradients(linear_cross_entropy, *of)
    assert pieces == sizes
    torch.testing.assert_close(found, with_gradients(reference, *of))


def test_without_rows_the_loss_and_its_gradients_are_zero():
    loss, hits, grads = with_gradients(linear_cross_entropy, *inputs(rows=0))
    assert loss == 0 and hits.shape == (0, 2)
    assert grads[0].shape == (0, 6) and not grads[1].any() and not grads[2].any()


def test_it_can_be_differentiated_twice():
    x, labels, weight, bias = inputs(5, dtype=torch.float64)

    def loss(x, weight, bias):
        return linear_cross_entropy(x, labels, weight, bias)[0]

    assert torch.autograd.gradcheck(loss, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (x, weight, bias), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_autocast(dtype):
    of = inputs(200, 1, 256, size=32)
    exact = with_gradients(reference, *of)
    with torch.autocast("cpu", dtype):
        found = with_gradients(linear_cross_entropy, *of)
        usual = with_gradients(reference, *of)
    assert abs(found[0] - exact[0]) < 2 * abs(usual[0] - exact[0]) + 1e-3
    for grad, there, truth in zip(found[2], usual[2], exact[2]):
        assert grad.dtype == torch.float32
        error = (grad - truth).norm() / truth.norm()
        assert error < 1.5 * (there - truth).norm() / truth.norm() + 1e-4


def test_gradients_do_not_vanish_in_fp16():
    """Of the mean over many rows and classes they would, before the scaler's factor."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 4, generator=generator).mul_(0.01).requires_grad_()
    labels = torch.randint(4096, (4000, 1), generator=generator)
    weight = torch.randn(4096, 4, generator=generator).mul_(0.01).requires_grad_()
    bias = torch.zeros(4096, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        loss, _ = linear_cross_entropy(x, labels, weight, bias)
        (grad,) = torch.autograd.grad(2.0**16 * loss, weight)
    (truth,) = torch.autograd.grad(reference(x, labels, weight, bias)[0], weight)
    torch.testing.assert_close(grad / 2**16, truth, rtol=0.02, atol=truth.std() / 50)


def test_what_is_not_finite_shows():
    x, labels, weight, bias = inputs()
    with torch.no_grad():
        weight[3, 2] = float("inf")
    assert not torch.isfinite(linear_cross_entropy(x, labels, weight, bias)[0])


def test_the_logits_are_never_all_there(monkeypatch):
    monkeypatch.setattr(cross_entropy, "logits_at_once", lambda x: 64 * 256)

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            out = operator(*args, **(kwargs or {}))
            sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
            self.largest = max(self.largest, *sizes, 0)
            return out

    with Sizes() as sizes:
        with_gradients(linear_cross_entropy, *inputs(2000, 1, 256))
    assert 64 * 256 <= sizes.largest < 2000 * 256 / 10

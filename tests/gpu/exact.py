"""The exact hypergradient against central differences, in float64."""

from copy import deepcopy
from functools import partial

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch.func import functional_call

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.models.conformer import Conformer
from hetero_brain.models.layers import Linear

from .mini import flat, iteration, relative_error
from .verdicts import Finding, at_most

STEPS, LOCAL_LR = 2, 0.2
WIDTH = 1e-4  # of the central differences


class Regression(HeteroBrain):
    """Regression of an encoder's outputs; a batch is inputs, lengths and targets."""

    def compute_forward(self, batch, stage):
        """Outputs of the encoder."""
        x, lengths, _ = batch
        return self.modules.encoder(x, lengths)[0]

    def compute_objectives(self, predictions, batch, stage):
        """As of :func:`squared_error`."""
        return squared_error(predictions, batch)


def squared_error(outputs, batch):
    """The mean squared error over the frames of the utterances."""
    _, lengths, targets = batch
    inside = length_to_mask(lengths, outputs.shape[1], torch.bool)
    return (outputs - targets)[inside].square().mean()


def exact_hypergradient(device):
    """Findings about the derivative of ℓ(φ_K) in a random direction."""
    torch.manual_seed(0)
    size = dict(num_layers=1, d_model=16, nhead=2, d_ffn=32, kernel_size=3)
    encoder = Conformer(Linear(6, 16), dropout=0.0, **size).double().to(device)
    shapes, lengths = ((2, 9, 6), (2, 9, 16)), torch.tensor([9, 6], device=device)
    x, targets = (torch.randn(s, dtype=torch.float64).to(device) for s in shapes)
    batch = x, lengths, targets
    theta = {name: p.detach() for name, p in encoder.named_parameters()}
    direction = {name: torch.randn(p.shape).to(p) for name, p in theta.items()}
    length = float(flat(direction.values()).norm())
    direction = {name: v / length for name, v in direction.items()}
    slope = central_difference(encoder, theta, direction, batch)
    errors = {}
    for kind in ("exact", "first_order"):
        gradient = hypergradient(deepcopy(encoder), kind, batch, device)
        errors[kind] = relative_error(gradient @ flat(direction.values()), slope)
    yield at_most("relative error to differences", errors["exact"], 1e-6)
    # Otherwise the agreement above would say nothing about the second derivatives.
    error = errors["first_order"]
    yield Finding("that of first order", "above 0.001", f"{error:.2g}", error > 1e-3)


def hypergradient(encoder, kind, batch, device):
    """What the global optimizer of a Brain is given, as one vector on the CPU."""
    hparams = {
        "local_steps": STEPS,
        "local_optimizer": partial(torch.optim.SGD, lr=LOCAL_LR),
        "hypergradient": kind,
        "max_grad_norm": 1e12,
    }
    optimizer = partial(torch.optim.SGD, lr=0.1)
    brain = Regression({"encoder": encoder}, optimizer, hparams, {"device": device})
    brain.on_fit_start()
    return iteration(brain, [DomainBatch("domain", (batch,))])[1]


def central_difference(encoder, theta, direction, batch):
    """The derivative of ℓ(φ_K) in a direction."""
    ahead, behind = (
        adapted_loss(
            encoder, {n: p + step * direction[n] for n, p in theta.items()}, batch
        )
        for step in (WIDTH, -WIDTH)
    )
    return (ahead - behind) / (2 * WIDTH)


def adapted_loss(encoder, theta, batch):
    """ℓ(φ_K) as a function of θ, by plain gradient steps on copies."""
    phi, (x, lengths, _) = theta, batch
    for k in range(STEPS + 1):
        phi = {name: p.detach().requires_grad_() for name, p in phi.items()}
        loss = squared_error(functional_call(encoder, phi, (x, lengths))[0], batch)
        if k < STEPS:
            grads = torch.autograd.grad(
                loss, [*phi.values()], allow_unused=True, materialize_grads=True
            )
            phi = {name: p - LOCAL_LR * g for (name, p), g in zip(phi.items(), grads)}
    return loss.item()

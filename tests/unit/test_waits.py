"""The host waits for the device once in an iteration, whatever the numbers are."""

from functools import partial

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from hetero_brain import DomainBatch
from hetero_brain.models.conformer import Conformer, make_head
from hetero_brain.models.features import make_features
from hetero_brain.models.front_ends import Conv1dFrontEnd, ConvFrontEnd
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.cpc import CPCBrain, make_predictor
from hetero_brain.objectives.prepared import PreparedOnce
from hetero_brain.objectives.quantizers import make_quantizer
from tests.fake_cuda import fake_cuda, moved

SIZE = dict(num_layers=1, d_model=16, nhead=2, d_ffn=16, kernel_size=3)


def modules_of(objective, front_end):
    """The modules of an objective, all of their tensors on the fake device."""
    kind, stack = {
        "linear": (torch.nn.Linear, 4),
        "conv": (ConvFrontEnd, 4),
        "conv1d": (Conv1dFrontEnd, 2),
    }[front_end]
    features = make_features(front_end, 16000, stack)
    size, causal = features.output_size, objective is CPCBrain
    encoder = Conformer(kind(size, 16), dropout=0.1, causal=causal, **SIZE)
    modules = {"features": features, "encoder": encoder}
    if causal:
        modules["predictor"] = make_predictor(encoder)
    else:
        modules["quantizer"] = make_quantizer("random_projection", size, 64, 2)
        modules["output"] = make_head(encoder, 128)
    moved(torch.nn.ModuleDict(modules))
    return modules


def waits_of(monkeypatch, objective, front_end, steps, domains, precision):
    """What the host waits for in an iteration."""
    figures = [1.0, 0.0, 0.0, 0.0, 1.0]  # all domains were finite
    frames = 40  # of each utterance

    def values(tensor):
        if not tensor.is_floating_point():
            return [frames] * tensor.numel()
        return figures + [1.0] * (tensor.numel() - len(figures))

    with fake_cuda(values) as waits:
        hparams = dict(seed=0, mask_prob=0.1, mask_span=10, noise_std=0.3)
        hparams |= dict(n_negatives=3, local_steps=steps, max_grad_norm=5.0)
        hparams["local_optimizer"] = partial(torch.optim.SGD, lr=0.1)
        brain = objective(
            modules_of(objective, front_end),
            partial(torch.optim.AdamW, lr=0.1, fused=True),
            hparams,
            {"device": "cuda", "precision": precision},
        )
        brain.init_optimizers()
        parts = []
        for d in range(domains):
            signals = [torch.rand(n) for n in (30000, 25000)]
            rows = [{"id": f"{d}-{i}", "sig": x} for i, x in enumerate(signals)]
            parts.append(DomainBatch(f"d{d}", (PaddedBatch(rows),)))
        # Backward passes run in C++, where fake tensors cannot be followed on a machine
        # without a GPU.
        monkeypatch.setattr(
            torch.autograd,
            "grad",
            lambda loss, params, **_: [torch.empty_like(p) for p in params],
        )
        monkeypatch.setattr(PreparedOnce, "device_generator", lambda *_: None)
        waits.clear()
        brain.fit_batch(parts)
        return waits


@pytest.mark.parametrize(
    "objective, front_end, precision, steps, domains",
    [
        (BestRQBrain, "linear", "bf16", 1, 4),
        (BestRQBrain, "linear", "fp32", 3, 2),
        (BestRQBrain, "conv", "fp32", 0, 1),
        (BestRQBrain, "linear", "fp16", 2, 2),
        (BestRQBrain, "linear", "fp16", 0, 3),
        (CPCBrain, "conv1d", "bf16", 1, 3),
    ],
)
def test_one_wait_an_iteration(
    monkeypatch, objective, front_end, precision, steps, domains
):
    waits = waits_of(monkeypatch, objective, front_end, steps, domains, precision)
    assert sum(waits.values()) == 1, waits

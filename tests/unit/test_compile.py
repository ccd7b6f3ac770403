"""``--compile``: θ and φ alike, and one compilation for batches of any length."""

from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from hetero_brain.data.loaders import train_loader
from hetero_brain.training.compilation import mark_sizes
from tests.benchmarks import speech
from tests.benchmarks.compiled import OPTIONS
from tests.benchmarks.data_path import plan_of, repeated
from tests.gpu import mini

# Of a convolution of three frames, PyTorch would compile batches of 16 anew on a CPU.
MINI = dict(num_layers=1, d_model=8, nhead=1, d_ffn=8, kernel_size=5)
N_BATCHES = 50


def domain_batches():
    """Those of a plan of the sample that have several utterances."""
    utterances = repeated(speech.utterances(), 4)
    loader = train_loader(utterances, plan_of(utterances.manifest, 12))
    parts = (part for global_batch in loader for part in global_batch)
    return [part for part in parts if len(part.batches[0].id) > 1][:N_BATCHES]


def test_batches_of_any_length_are_compiled_once_and_keep_the_numbers(monkeypatch):
    """Up to Inductor, which would take most of a minute."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    monkeypatch.setattr(mini, "MINI", MINI)
    torch._dynamo.reset()
    eager, compiled = (
        mini.pretraining_brain(compiler=options) for options in ({}, OPTIONS)
    )
    batches = domain_batches()
    shapes = {part.batches[0].sig.data.shape for part in batches}
    assert len(batches) == N_BATCHES and len({frames for _, frames in shapes}) > 40
    assert len({rows for rows, _ in shapes}) > 3
    for part in batches:
        losses = [brain.fit_batch([part]).item() for brain in (eager, compiled)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    "hparams, options, dynamic, names",
    [
        ({}, {}, None, ["encoder", "output"]),
        ({}, {"compile_module_keys": ["encoder"]}, None, ["encoder"]),
        ({}, {"compile_using_dynamic_shape_tracing": False}, False, None),
        ({"compile_using_dynamic_shape_tracing": True}, {}, True, None),
    ],
)
def test_what_is_compiled_and_how(hparams, options, dynamic, names, monkeypatch):
    calls = []

    def compile(module, mode, fullgraph, dynamic):
        calls.append((module, dynamic))
        return module

    monkeypatch.setattr(torch, "compile", compile)
    brain = mini.pretraining_brain(compiler={"compile": True, **options}, **hparams)
    expected = [brain.modules[name] for name in names or ["encoder", "output"]]
    assert {module for module, _ in calls} == {*expected}
    assert {found for _, found in calls} == {dynamic}
    hooks = [mark_sizes in module._forward_pre_hooks.values() for module in expected]
    assert {*hooks} == {dynamic is None}

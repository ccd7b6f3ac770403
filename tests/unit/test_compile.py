"""SpeechBrain's ``--compile --compile_module_keys`` on our encoder, θ and φ alike."""

import shutil

import pytest
import torch

from hetero_brain.models.conformer import SIZES
from tests.benchmarks.compiled import OPTIONS
from tests.benchmarks.models import ours
from tests.benchmarks.speech import global_batch


@pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile needs a compiler"
)
def test_a_compiled_encoder_keeps_the_numbers(monkeypatch):
    size = dict(num_layers=1, d_model=16, nhead=2, d_ffn=16, kernel_size=3)
    monkeypatch.setitem(SIZES, "mini", size)
    eager, compiled = ours("mini", 1), ours("mini", 1, **OPTIONS)
    assert hasattr(compiled.modules.encoder, "_orig_mod")  # it is compiled
    parts = global_batch(2, 1)[:1] * 2  # one shape, one compilation
    for _ in range(3):
        losses = [brain.fit_batch(parts).item() for brain in (eager, compiled)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for a, b in zip(eager.modules.parameters(), compiled.modules.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)

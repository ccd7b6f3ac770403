"""What a run says of the device that it is on, and asks of it."""

import logging
import os
from types import SimpleNamespace

import pytest
import torch
from speechbrain.dataio.batch import PaddedData
from speechbrain.utils.logger import MultiProcessLoggerAdapter

from hetero_brain import HeteroBrain
from hetero_brain.pipelines.recipe import load_recipe
from hetero_brain.recognition import ctc
from hetero_brain.training import devices
from hetero_brain.training.determinism import any_algorithms, be_deterministic
from tests.fake_cuda import CUDA, fake_cuda


@pytest.fixture
def warnings(caplog):
    """The warnings so far. Each is given once in a process: here, once in a test."""
    caplog.set_level(logging.WARNING)
    MultiProcessLoggerAdapter.warning_once.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "machine, instructions, multiplies",
    [
        ("x86_64", {"_is_avx512_bf16_supported"}, True),
        ("AMD64", {"_is_amx_tile_supported"}, True),
        ("x86_64", {"_is_mkldnn_bf16_supported"}, False),  # AVX-512 alone: emulated
        ("aarch64", {"_is_mkldnn_bf16_supported"}, True),
        ("aarch64", set(), False),
    ],
)
def test_bf16_on_a_cpu_is_warned_of_where_it_is_emulated(
    monkeypatch, warnings, machine, instructions, multiplies
):
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    of_x86 = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
    for place, names in {
        torch.cpu: of_x86,
        torch.ops.mkldnn: ["_is_mkldnn_bf16_supported"],
    }.items():
        for name in names:
            monkeypatch.setattr(place, name, lambda name=name: name in instructions)
    for _ in "ab":  # as in two phases
        HeteroBrain(run_opts={"device": "cpu", "precision": "bf16"})
    HeteroBrain(run_opts={"device": "cpu", "precision": "fp32"})
    told = [text for text in warnings() if text.startswith("precision: bf16")]
    assert len(told) == (not multiplies)
    assert all("Set precision: fp32" in text for text in told)


@pytest.fixture
def switches(monkeypatch):
    """Restores what PyTorch was told of algorithms."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(before)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_recipe_is_deterministic_on_demand(switches, tmp_path, wanted):
    yaml = tmp_path / "recipe.yaml"
    yaml.write_text(f"output_folder: {tmp_path}/out\ndeterministic: {not wanted}\n")
    load_recipe([str(yaml), "--deterministic", str(wanted), "--device", "cpu"])
    assert torch.are_deterministic_algorithms_enabled() == wanted
    assert torch.backends.cudnn.benchmark != wanted
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if wanted else None)


def test_what_is_not_deterministic_is_named(switches):
    def put():
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))

    be_deterministic()
    with any_algorithms():
        put()
    with pytest.raises(RuntimeError, match="^put_ does not have a deterministic"):
        put()


@pytest.mark.parametrize("deterministic, device", [(True, "cpu"), (False, "cuda")])
def test_ctc_has_a_deterministic_gradient(switches, monkeypatch, deterministic, device):
    """PyTorch has none on a GPU, where it would raise an error."""
    devices_of_ctc = set()

    def recorded(*inputs):
        devices_of_ctc.update(x.device.type for x in inputs[:4])
        return torch.zeros((), device=inputs[0].device)

    monkeypatch.setattr(ctc, "ctc_loss", recorded)
    if deterministic:
        be_deterministic()
    with fake_cuda(lambda tensor: [1.0] * tensor.numel()):
        brain = SimpleNamespace(blank=4)
        brain.spellable = lambda *_: torch.ones(2, dtype=torch.bool, device=CUDA)
        tokens = PaddedData(
            torch.ones(2, 3, dtype=torch.long, device=CUDA),
            torch.ones(2, device=CUDA),
        )
        predictions = torch.zeros(2, 9, 5, device=CUDA), torch.ones(2, device=CUDA)
        loss = ctc.CTCBrain.recognition_loss(
            brain, predictions, SimpleNamespace(tokens=tokens)
        )
    assert devices_of_ctc == {device} and loss.device == CUDA

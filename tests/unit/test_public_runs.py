"""Runs on public models: one that was killed, or that two ranks shared, is the same."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hetero_brain.pipelines.phases import Phase
from hetero_brain.pipelines.pretraining import pretrain
from tests.benchmarks.kills import differences
from tests.public_models import save_small
from tests.unit.public_run import HPARAMS, OBJECTIVES, modules_of, trained
from tests.unit.test_distributed import torchrun
from tests.unit.test_resume import Clock, killed


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_small("wav2vec2", tmp_path_factory.mktemp("public"), "ForPreTraining")


@pytest.fixture(scope="module")
def few(sample):
    """A few utterances of two domains."""
    rows = sample("train", ["en", "es"])
    order = rows.duration.argsort()
    parts = [[i for i in order if rows.domain[i] == code][:6] for code in (0, 1)]
    return rows.subset(sum(parts, []))


def run(folder, objective, source, rows, clock):
    """Pre-train with optimizer states kept per domain, a checkpoint every iteration."""

    class Ticking(OBJECTIVES[objective]):
        def compute_forward(self, batch, stage):
            clock.tick()
            return super().compute_forward(batch, stage)

    hparams = {
        "output_folder": str(folder),
        "brain_class": Ticking,
        "modules": modules_of(objective, source),
        "plan": {"global_batch_seconds": 3, "max_utterance_seconds": 1.0},
        "global_batch_seconds": 3,
        "loader": {},
        "sample_rate": 16000,
        "opt_class": torch.optim.AdamW,
        "local_optimizer": torch.optim.AdamW,
        "log_interval": 3,
        "only_phases": None,
        "phases": [Phase("PTLOC.1", None, 1, lr=0.003, local_steps=1, local_lr=0.003)],
    }
    options = {"device": "cpu", "noprogressbar": True, "ckpt_interval_steps": 1}
    pretrain({**HPARAMS, **hparams}, options, rows, rows)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_killed_run_is_that_of_one_life(objective, source, few, tmp_path):
    clock = Clock()
    run(tmp_path / "alone", objective, source, few, clock)
    assert clock.now > 8
    again = partial(run, tmp_path / "killed", objective, source, few)
    killed(again, [clock.now // 3, clock.now // 3])
    assert not differences(tmp_path / "alone", tmp_path / "killed")
    saved = {path.stem for path in (tmp_path / "alone").rglob("CKPT*/*.ckpt")}
    assert "encoder" in saved and "targets" not in saved
    assert any(name.startswith("local_solver.") for name in saved)


def test_two_ranks_train_the_model_of_one(source, tmp_path):
    out = tmp_path / "two.json"
    torchrun(2, Path(__file__).with_name("public_run.py"), source, out)
    two = json.loads(out.read_text())
    for objective in OBJECTIVES:
        one = trained(objective, source, {"device": "cpu"})
        shared = two[objective]
        np.testing.assert_allclose(shared["losses"], one["losses"], rtol=1e-4)
        assert one["figures"].keys() == shared["figures"].keys()
        for name, value in one["figures"].items():
            assert shared["figures"][name] == pytest.approx(value, rel=1e-2, abs=1e-3)
        for name, values in one["state"].items():
            np.testing.assert_allclose(
                shared["state"][name], values, rtol=1e-3, atol=1e-4, err_msg=name
            )

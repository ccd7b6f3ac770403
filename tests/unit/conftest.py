"""Fixtures of the unit tests: a Brain for any model and any loss."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch

from hetero_brain import HeteroBrain
from hetero_brain.data import manifest
from hetero_brain.pipelines.recipe_run import recipe_brain

RECIPE = Path(__file__).parents[2] / "recipes/VoicePrompts"


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """sample(split, domains) → a manifest of the speech that ships in the repository."""
    spec = importlib.util.spec_from_file_location(
        "voice_prompts_prepare", RECIPE / "voice_prompts_prepare.py"
    )
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    folder = tmp_path_factory.mktemp("sample")
    prepare.prepare_voice_prompts(RECIPE / "sample", folder, ["en", "es", "fr"])
    return lambda split, domains: manifest.read(
        folder / f"{split}.csv", RECIPE / "sample", domains
    )


@pytest.fixture
def unplotted(monkeypatch):
    """Runs leave empty plots, which would take longer than the toys that are trained."""
    for plot in ("rounds.plot_phases", "finetuning.plot_finetuning"):
        empty = lambda folder, path: Path(path).touch()  # noqa: E731
        monkeypatch.setattr(f"hetero_brain.pipelines.{plot}", empty)


class LossBrain(HeteroBrain):
    """Trains ``model`` on ``hparams.loss(model, batch)``."""

    def compute_forward(self, batch, stage):
        return self.hparams.loss(self.modules.model, batch)

    def compute_objectives(self, predictions, batch, stage):
        return predictions


@pytest.fixture
def make_brain():
    """make_brain(model, loss, lr=0.1, …hparams) → a Brain ready for ``fit_batch``.

    By default without clipping and with plain SGD at both levels; ``local_lr`` selects
    local SGD with that rate.
    """

    def make(
        model,
        loss,
        lr=0.1,
        opt_class=None,
        local_lr=None,
        run_opts=None,
        kind=LossBrain,
        checkpointer=None,
        **hparams,
    ):
        if local_lr is not None:
            hparams["local_optimizer"] = partial(torch.optim.SGD, lr=local_lr)
        brain = kind(
            {"model": model},
            opt_class or partial(torch.optim.SGD, lr=lr),
            {"loss": loss, "max_grad_norm": 1e12, **hparams},
            {"device": "cpu", **(run_opts or {})},
            checkpointer,
        )
        brain.on_fit_start()
        brain.modules.train()
        return brain

    return make


@pytest.fixture
def make_run(make_brain):
    """As ``make_brain``, but the Brain logs and saves as in the recipes."""
    return partial(make_brain, kind=recipe_brain(LossBrain))

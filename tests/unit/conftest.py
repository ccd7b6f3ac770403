"""Fixtures of the unit tests: a Brain for any model and any loss."""

from functools import partial

import pytest
import torch

from hetero_brain import HeteroBrain


class LossBrain(HeteroBrain):
    """Trains ``model`` on ``hparams.loss(model, batch)``."""

    def compute_forward(self, batch, stage):
        return self.hparams.loss(self.modules.model, batch)

    def compute_objectives(self, predictions, batch, stage):
        return predictions


@pytest.fixture
def make_brain():
    """make_brain(model, loss, lr=0.1, …hparams) → a Brain ready for ``fit_batch``.

    No clipping and plain SGD at both levels, unless told otherwise; ``local_lr`` is a
    short way to a local SGD.
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

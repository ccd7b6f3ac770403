"""Runs that stop and resume, against runs that do not.

> python -m tests.gpu.resumed cuda

does so with ``deterministic: True``, and prints the findings as JSON.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from hetero_brain.training.determinism import be_deterministic

from .mini import ADAMW, largest, parameters, pretraining_brain, speech
from .verdicts import Finding, skipped

ROOT = Path(__file__).parents[2]
HALF = 3  # iterations before the checkpoint, and after it
RUNS = {
    "SGD, fresh": {},
    "AdamW per domain, K = 2": {
        "local_steps": 2,
        "local_optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "local_optimizer_state": "per_domain",
    },
}


def resumptions(device, deterministic):
    """Findings about each of :data:`RUNS`, with dropout.

    Arguments
    ---------
    device : str
        Of the models.
    deterministic : bool
        Whether to demand equal bits, since the process is deterministic.
    """
    if device == "cpu" and not deterministic:
        yield skipped("losses", "all of a CPU's are deterministic")
        return
    for name, settings in RUNS.items():
        loss, theta = differences(device, **settings)
        for figure, difference in {"loss": loss, "parameter": theta}.items():
            demanded = "0" if deterministic else "-"
            holds = difference == 0 if deterministic else None
            figure = f"{name}: largest difference of a {figure}"
            yield Finding(figure, demanded, f"{difference:.2g}", holds)


def differences(device, **settings):
    """Largest differences of a loss and of a parameter that a resumption makes."""
    settings |= {"device": device, "dropout": 0.1, "optimizer": ADAMW}
    with tempfile.TemporaryDirectory() as folder:
        whole = pretraining_brain(**settings)
        expected = losses(whole, 2 * HALF)
        stopped = pretraining_brain(folder=Path(folder), **settings)
        losses(stopped, HALF)
        stopped.checkpointer.save_checkpoint()
        # Other initial weights: what is not in the checkpoint makes a difference.
        resumed = pretraining_brain(folder=Path(folder), seed=1, **settings)
        measured = losses(resumed, HALF)
    pairs = zip(expected[HALF:], measured, strict=True)
    loss = largest([abs(one - other) for one, other in pairs])
    return loss, float((parameters(whole) - parameters(resumed)).abs().max())


def losses(brain, iterations):
    """Train on the same speech; the loss of each iteration."""
    parts = speech()
    return [brain.fit_batch(parts).item() for _ in range(iterations)]


def in_deterministic_process(device):
    """:func:`resumptions` with deterministic algorithms, on a GPU in a new process, as
    cuBLAS has started in this one."""
    if device == "cpu":
        yield from resumptions(device, deterministic=True)
        return
    done = subprocess.run(
        [sys.executable, "-m", __name__, device],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    yield from (
        Finding(*finding) for finding in json.loads(done.stdout.splitlines()[-1])
    )


if __name__ == "__main__":
    be_deterministic()
    print(json.dumps([*resumptions(sys.argv[1], deterministic=True)]))

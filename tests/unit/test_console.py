"""What a run shows on the console, and what only its log files have."""

import logging
import subprocess

import pytest
import torch

from hetero_brain.pipelines import console
from hetero_brain.pipelines.loss_watch import LossWatch
from hetero_brain.pipelines.phases import alternation
from hetero_brain.pipelines.rounds import run_phases
from tests.processes import python
from tests.unit.test_recipe_run import ALPHA, Theta, bowl, dev, unbatched
from tests.unit.test_rounds import CSSL, PTLOC, Toy, loader, make_hparams

NOISY = """
import logging, sys, torch
import speechbrain as sb
import hetero_brain.pipelines.rounds
from hetero_brain.pipelines.console import for_people
with for_people():
    sb.create_experiment_directory(sys.argv[1], save_env_desc=False)
own = logging.getLogger("hetero_brain.pipelines.rounds")
own.info("for people"), own.debug("a detail"), own.warning("take care")
logging.getLogger("speechbrain.core").info("Run option x from hparams is used")
logging.getLogger("speechbrain.core").warning("theirs")
for _ in sb.core.tqdm(range(3)):
    pass
"""


def test_the_console_has_what_people_read_and_the_file_all(tmp_path):
    done = subprocess.run(
        [python(), "-c", NOISY, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "for people\nWARNING: take care\nWARNING: theirs\n"
    assert "it/s" not in done.stderr  # not a terminal
    text = (tmp_path / "run/log.txt").read_text("utf-8")
    for told in ("Beginning experiment", "Run option x", "a detail", "take care"):
        assert told in text


def test_an_exception_has_its_traceback():
    handler = console.Console()
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        found = type(error), error, error.__traceback__
    record = logging.LogRecord("speechbrain.core", 40, "", 0, "Exception:", (), found)
    assert handler.filter(record)
    assert handler.format(record).startswith("ERROR: Exception:\nTraceback")


def lines(caplog):
    return [r.getMessage() for r in caplog.records if ", epoch " in r.getMessage()]


def test_each_interval_and_each_validation_has_a_line(tmp_path, caplog, unplotted):
    caplog.set_level(logging.INFO)
    phases = alternation(1, CSSL, {**PTLOC, "local_steps": 1})
    hparams = make_hparams(tmp_path, phases=phases, log_interval=2)
    options = {"device": "cpu", "noprogressbar": True}

    class Guessing(Toy):
        loss_of_guessing = 0.75

    valid = unbatched(dev("en", torch.ones(4, 3)))
    run_phases(hparams, options, Guessing, loader(), valid)
    told = lines(caplog)
    assert len(told) == len(set(told)), "none twice"
    first = [line for line in told if "(guessing: 0.75)" in line]
    assert [line.split(",")[0] for line in first] == ["CSSL.1", "PTLOC.1"]
    assert first[0] == next(line for line in told if line.startswith("CSSL.1"))
    cssl, ptloc = (
        next(x for x in told if x.startswith(name) and "dev" not in x)
        for name in ("CSSL.1", "PTLOC.1")
    )
    assert "iteration 2: loss " in cssl and cssl.count("lr ") == 1
    assert "local gain " in ptloc and "local lr " in ptloc
    assert all("/en" not in line and "norm" not in line for line in told)
    # The figures of a domain are in the file.
    assert "/en" in (tmp_path / "PTLOC.1/train_log.txt").read_text()
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO]
    assert not any("Phase(" in m or "Saved a checkpoint" in m for m in messages)
    (loaded,) = (m for m in messages if "loaded from" in m)


def test_a_line_of_a_fine_tuning():
    valid = {"loss": 1.25, "loss/es": 1.25, "CER": 45.14, "WER": 90.0, "CER/es": 45.14}
    stages = {"train": {"loss": 2.0}, "valid": valid}
    assert console.in_a_line({"lr": 0.1}, stages) == (
        "training loss 2, dev loss 1.25, CER 45.1%, WER 90.0%"
    )
    assert console.in_a_line({"lr": 0.1}, {"train": {"cosine/en~fr": 0.2}}) == ""


# ------------------------------------------------------------------ losses too high


def test_a_loss_far_above_guessing_is_told_once():
    watch = LossWatch(guess=4.0)
    told = [watch.of_training(loss, 0.5) for loss in (7, 7, 5, 7, 7, 7, 7)]
    assert [*map(bool, told)] == [False] * 5 + [True, False]
    assert "is 7, far above that of guessing, 4: " in told[5]
    assert "learning rate, which is 0.5 now; or" in told[5]
    other = LossWatch(guess=4.0)
    other.restore(watch.state())
    assert not any(other.of_training(9, 0.5) for _ in range(3)), "told already"


def test_without_a_known_guess_the_first_loss_is_the_measure():
    watch = LossWatch()
    told = [watch.of_training(loss, 0.5, 0.03) for loss in (100, 90, 151, 151, 151)]
    assert [*map(bool, told)] == [False] * 4 + [True]
    assert (
        "far above the first, 100" in told[4] and "local_lr, which is 0.03" in told[4]
    )


def test_a_run_that_explodes_says_so(make_run, caplog):
    def uphill(params):
        return torch.optim.SGD(params, lr=0.3, maximize=True)

    brain = make_run(
        Theta(),
        bowl,
        opt_class=uphill,
        local_lr=ALPHA,
        local_steps=1,
        run_opts={"noprogressbar": True},
    )
    brain.fit(range(1, 7), [dev("en", 1.0)], unbatched(dev("en", 1.0)))
    said = [m for m in caplog.messages if "far above the first" in m]
    assert len(said) == 1


def test_objectives_know_the_loss_of_guessing():
    from types import SimpleNamespace

    from hetero_brain.objectives.bestrq import BestRQBrain
    from hetero_brain.objectives.cpc import CPCBrain
    from hetero_brain.objectives.wav2vec2 import Wav2Vec2Brain

    modules = SimpleNamespace(quantizer=SimpleNamespace(codebook_size=256))
    own = SimpleNamespace(modules=modules, hparams=SimpleNamespace(n_negatives=100))
    losses = [
        kind.loss_of_guessing.fget(own)
        for kind in (BestRQBrain, CPCBrain, Wav2Vec2Brain)
    ]
    assert losses == pytest.approx([5.5452, 4.6151, 4.6151], abs=1e-4)

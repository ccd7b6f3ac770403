"""The alternation: each phase starts from the one before, also after an interruption."""

import math
import shutil
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.train_logger import TensorboardLogger, WandBLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.data.audited_loader import AuditedLoader
from hetero_brain.data.loaders import EpochSampler
from hetero_brain.models.transfer import find_checkpoint
from hetero_brain.pipelines.phases import Phase, alternation, continued
from hetero_brain.pipelines.rounds import run_phases
from hetero_brain.training.integrity import FILES, RUN
from hetero_brain.training.loggers import JsonLinesLogger
from hetero_brain.training.saved import STATE

pytestmark = pytest.mark.usefixtures("unplotted")
N_STEPS = 3
CSSL = {"epochs": 2, "lr": 0.02, "warmup_iterations": 3}
PTLOC = {"epochs": 2, "lr": 0.01, "local_steps": 1, "local_lr": 0.05, "hold_epochs": 1}


class Interrupted(Exception):
    pass


class Batches(Dataset):
    """Synthetic global batches of two domains, functions of t."""

    def __getitem__(self, step):
        draw = partial(torch.randn, 4, 3, generator=torch.Generator().manual_seed(step))
        return [DomainBatch(domain, (draw(),)) for domain in ("en", "fr")]


def loader():
    return DataLoader(Batches(), batch_size=None, sampler=EpochSampler(N_STEPS))


class Toy(HeteroBrain):
    """Records passes and weights of each phase; stops at ``stop_at``."""

    passes, first, last = Counter(), {}, {}
    stop_at = None  # (phase, iteration)

    @property
    def phase(self):
        return self.checkpointer.checkpoints_dir.parent.name

    def on_fit_start(self):
        super().on_fit_start()
        self.first[self.phase] = weights(self.modules)

    def compute_forward(self, batch, stage):
        if stage == sb.Stage.TRAIN:
            self.passes[self.phase] += 1
            if (self.phase, self.iteration) == self.stop_at:
                raise Interrupted
        return self.modules.model(batch)

    def compute_objectives(self, predictions, batch, stage):
        return (predictions.squeeze(1) - batch.sum(1)).square().mean()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        super().on_stage_end(stage, stage_loss, epoch)
        self.last[self.phase] = weights(self.modules)


def weights(modules):
    return torch.cat([v.flatten().clone() for v in modules.state_dict().values()])


def make_hparams(folder, seed=0, **changed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
    return {
        "output_folder": str(folder),
        "modules": {"model": model},
        "opt_class": torch.optim.AdamW,
        "local_optimizer": torch.optim.SGD,
        "seed": 5,
        "log_interval": 2,
        "only_phases": None,
        "phases": alternation(2, CSSL, PTLOC, control={"lr": 0.02}),
        **changed,
    }


def run(hparams, stop_at=None, train_loader=None, **options):
    """Run the phases; returns their passes, first and last weights."""

    class Run(Toy):
        passes, first, last = Counter(), {}, {}

    Run.stop_at = stop_at
    options = {"device": "cpu", "noprogressbar": True, **options}
    try:
        run_phases(hparams, options, Run, train_loader or loader())
    except Interrupted:
        assert stop_at is not None
    else:
        assert stop_at is None
    return Run


NAMES = ["CSSL.1", "PTLOC.1", "CSSL-continued.1", "CSSL.2", "PTLOC.2"]


# ------------------------------------------------------------------------- the phases


def test_alternation():
    cssl = {"epochs": 80, "lr": 2e-4, "hold_epochs": 60}
    ptloc = dict(epochs=60, lr=1e-5, local_lr=1e-4, local_steps=3, hold_epochs=40)
    ptloc |= {"lr_decay": 0.5}
    phases = alternation(3, cssl, ptloc, {"lr": 3e-4, "warmup_iterations": 9}, "start")
    inits = {p.name: p.init for p in phases}
    assert inits == {
        "CSSL.1": "start",
        "PTLOC.1": "CSSL.1",
        "CSSL-continued.1": "CSSL.1",
        "CSSL.2": "PTLOC.1",
        "PTLOC.2": "CSSL.2",
        "CSSL.3": "PTLOC.2",
        "PTLOC.3": "CSSL.3",
    }
    assert list(inits) == [p.name for p in phases]
    first, second, control, third, *_ = phases
    assert first == Phase("CSSL.1", "start", **cssl)
    assert second == Phase("PTLOC.1", "CSSL.1", **ptloc)
    assert third == Phase("CSSL.2", "PTLOC.1", **cssl)
    assert (control.local_steps, control.lr, control.warmup_iterations) == (0, 3e-4, 9)
    assert (control.epochs, control.hold_epochs) == (4 * 60, 4 * 40)
    # After as many passes, the rate is the same share of the full one.
    assert control.lr_decay ** (control.epochs - control.hold_epochs) == pytest.approx(
        second.lr_decay ** (second.epochs - second.hold_epochs)
    )


def test_alternation_without_control():
    phases = alternation(1, CSSL, PTLOC)
    assert [(p.name, p.init) for p in phases] == [
        ("CSSL.1", None),
        ("PTLOC.1", "CSSL.1"),
    ]
    assert phases[0].hold_epochs == math.inf
    assert [p.passes_per_epoch for p in phases] == [1, 2]


def test_both_phases_continue_from_where_they_are(tmp_path):
    """Not the control from PTLOC.1; also when a finished run is started again."""
    phases = continued(PTLOC, control={"lr": 0.02})
    assert phases == [
        Phase("PTLOC.1", None, **PTLOC),
        Phase(
            "CSSL-continued.1",
            None,
            4,
            0.02,
            hold_epochs=2,
            lr_decay=(2**-0.5) ** (1 / 2),
        ),
    ]
    whole = run(make_hparams(tmp_path / "whole", phases=phases))
    start = weights(make_hparams(tmp_path)["modules"]["model"])
    assert list(whole.first) == ["PTLOC.1", "CSSL-continued.1"]
    assert all(torch.equal(first, start) for first in whole.first.values())
    assert not torch.equal(whole.last["PTLOC.1"], start)
    run(make_hparams(tmp_path / "two", phases=phases, only_phases=["PTLOC.1"]))
    two = run(make_hparams(tmp_path / "two", phases=phases))
    name = "CSSL-continued.1"
    assert torch.equal(two.first[name], start) and whole.passes[name] > 0
    assert torch.equal(two.last[name], whole.last[name])


def test_a_model_that_others_read_is_written_for_them(tmp_path):
    class Public(nn.Linear):
        def save_pretrained(self, folder):
            folder.mkdir()
            torch.save(self.state_dict(), folder / "model")

    hparams = make_hparams(tmp_path, phases=continued(PTLOC, control={"lr": 0.02}))
    hparams["modules"] = {"model": Public(3, 1)}
    done = run(hparams)
    for name in ("PTLOC.1", "CSSL-continued.1"):
        state = torch.load(tmp_path / name / "huggingface/model")
        saved = torch.cat([tensor.flatten() for tensor in state.values()])
        assert torch.equal(saved, done.last[name])


@pytest.mark.parametrize("which", ["cssl", "ptloc", "control"])
def test_a_wrong_key_is_named(which):
    settings = {"cssl": CSSL, "ptloc": PTLOC, "control": {"lr": 0.1}}
    settings[which] = settings[which] | {"local_stepz": 1}
    with pytest.raises(TypeError, match="local_stepz"):
        alternation(1, **settings)


def test_an_unknown_phase_is_named(tmp_path):
    hparams = make_hparams(tmp_path, only_phases=["PTLOC.1", "PTLOC.7"])
    with pytest.raises(
        ValueError, match=r"only_phases: no phase \['PTLOC.7'\].*CSSL.1"
    ):
        run(hparams)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- the runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(make_hparams(folder)), folder


def test_phases_run_in_turn(undisturbed):
    done, folder = undisturbed
    assert list(done.first) == NAMES
    assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES, "phases.png"])
    for name in NAMES:
        entries = JsonLinesLogger.read(folder / name / "log.jsonl")
        assert entries[0]["iteration"] == 2
        assert ("local_lr" in entries[0]) == name.startswith("PTLOC")
        figures = {key.split("/")[0] for entry in entries for key in entry["train"]}
        gains = {"loss_at_theta", "loss_at_phi", "local_gain", "hypergradient_norm"}
        assert figures & gains == (gains if name.startswith("PTLOC") else set())
        assert "gradient_norm" in figures or name.startswith("PTLOC")
        text = (folder / name / "train_log.txt").read_text()
        # Of each entry: phases that run at once share a log.txt.
        assert all(x.startswith(f"phase: {name}, epoch") for x in text.splitlines())
        assert "lr: 0.0" in text and "e-0" not in text and "e+0" not in text


def test_a_plot_follows_each_phase(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        plotted = "hetero_brain.pipelines.rounds.plot_phases"
        patch.setattr(plotted, lambda *paths: seen.append((NAMES[len(seen)], paths)))
        done = run(make_hparams(tmp_path), stop_at=("PTLOC.1", 1))
    assert list(done.first) == ["CSSL.1", "PTLOC.1"]
    assert seen == [("CSSL.1", (tmp_path, tmp_path / "phases.png"))]


def test_phases_share_a_logger_of_speechbrain(tmp_path):
    """One run of Weights & Biases, whose steps may not go back, and a TensorBoard."""
    made, logged = [], []

    class WandBRun:
        def log(self, figures, step=None):
            logged.append((figures, step))

    def init(project):
        made.append(project)
        return WandBRun()

    shared = [
        partial(WandBLogger, init, project="hetero"),
        partial(TensorboardLogger, str(tmp_path / "board")),
    ]
    changed = {"train_logger": shared, "phases": alternation(1, CSSL, PTLOC)}
    run(make_hparams(tmp_path / "run", **changed))
    assert made == ["hetero"] and {step for _, step in logged} == {None}
    figures = {"loss/en", "loss/fr", "gradient_norm/en", "gradient_norm/fr"}
    assert logged[0][0]["train"].keys() == {f"CSSL.1/{figure}" for figure in figures}
    entries = [
        {"CSSL.1/iteration": e["CSSL.1/iteration"]} | e["train"]
        for e, _ in logged
        if "CSSL.1/iteration" in e
    ]
    lines = JsonLinesLogger.read(tmp_path / "run/CSSL.1/log.jsonl")
    assert entries == [
        {"CSSL.1/iteration": line["iteration"]}
        | {f"CSSL.1/{key}": value for key, value in line["train"].items()}
        for line in lines
    ]
    assert "PTLOC.1/loss_at_phi/en" in logged[-1][0]["train"]
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert len(board.Scalars("PTLOC.1/loss_at_phi/en/train")) == len(lines)
    # Once more: nothing is left to do, and nothing is taken from it.
    before = len(logged)
    run(make_hparams(tmp_path / "run", **{**changed, "train_logger": shared[0]}))
    assert len(logged) == before and made == ["hetero"] * 2


def test_the_control_takes_as_many_passes(undisturbed):
    done, _ = undisturbed
    per_epoch = N_STEPS * 2  # domains
    assert done.passes["CSSL.1"] == 2 * per_epoch
    assert done.passes["PTLOC.1"] == 2 * per_epoch * 2
    assert done.passes["CSSL-continued.1"] == done.passes["PTLOC.1"]


def test_each_phase_starts_where_the_one_before_ended(undisturbed):
    done, folder = undisturbed
    for phase in make_hparams(folder)["phases"]:
        assert not torch.equal(done.first[phase.name], done.last[phase.name])
        if phase.init is not None:
            assert torch.equal(done.first[phase.name], done.last[phase.init])
        saved = torch.load(find_checkpoint(folder / phase.name) / "model.ckpt")
        flat = torch.cat([v.flatten() for v in saved.values()])
        assert torch.equal(flat, done.last[phase.name])


def test_settings_of_a_phase_reach_its_run(undisturbed):
    _, folder = undisturbed
    entries = JsonLinesLogger.read(folder / "PTLOC.1" / "log.jsonl")
    rates = {(entry["epoch"], entry["lr"], entry["local_lr"]) for entry in entries}
    decay = 2**-0.5
    assert rates == {(1, 0.01, 0.05), (2, 0.01 * decay, 0.05 * decay)}
    entries = JsonLinesLogger.read(folder / "CSSL.2" / "log.jsonl")
    rates = sorted({entry["lr"] for entry in entries})
    assert rates == pytest.approx([0.02 * 2 / 3, 0.02])  # warming up, and warm


def test_a_finished_run_is_left_as_it_is(undisturbed):
    _, folder = undisturbed
    again = run(make_hparams(folder, seed=9))
    assert list(again.first) == NAMES and not again.passes


@pytest.mark.parametrize(
    "stop_at",
    [("CSSL.1", 4), ("PTLOC.1", 4), ("CSSL-continued.1", 0), ("PTLOC.2", 4)],
)
def test_an_interrupted_run_ends_with_the_same_weights(undisturbed, tmp_path, stop_at):
    done, _ = undisturbed
    phase, iteration = stop_at
    before = run(make_hparams(tmp_path), stop_at)
    assert list(before.first) == NAMES[: NAMES.index(phase) + 1]
    # Another process: other initial weights and another random state.
    after = run(make_hparams(tmp_path, seed=77))
    for name in NAMES[NAMES.index(phase) :]:
        assert torch.equal(after.last[name], done.last[name])
        kept = iteration // N_STEPS * N_STEPS if name == phase else 0
        per_iteration = 4 if name.startswith("PTLOC") else 2
        assert after.passes[name] == done.passes[name] - kept * per_iteration
    assert set(after.passes) == set(NAMES[NAMES.index(phase) :])


def test_a_checkpoint_within_an_epoch_is_gone_on_from(undisturbed, tmp_path):
    done, _ = undisturbed
    run(make_hparams(tmp_path), ("PTLOC.1", N_STEPS + 2), ckpt_interval_steps=1)
    after = run(make_hparams(tmp_path, seed=77), ckpt_interval_steps=1)
    for name in NAMES[1:]:
        assert torch.equal(after.last[name], done.last[name])
    # Only the steps after the second step of the second epoch.
    assert after.passes["PTLOC.1"] == done.passes["PTLOC.1"] - (N_STEPS + 1 + 1) * 4


def test_a_phase_can_be_run_alone(undisturbed, tmp_path):
    done, folder = undisturbed
    shutil.copytree(folder / "CSSL.1", tmp_path / "CSSL.1")
    alone = run(make_hparams(tmp_path, seed=3, only_phases=["PTLOC.1"]))
    assert list(alone.first) == ["PTLOC.1"]
    assert torch.equal(alone.first["PTLOC.1"], done.last["CSSL.1"])
    assert torch.equal(alone.last["PTLOC.1"], done.last["PTLOC.1"])


def test_a_phase_without_the_one_before_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="CSSL.1: no checkpoint"):
        run(make_hparams(tmp_path, only_phases=["PTLOC.1"]))


def test_an_external_checkpoint_to_start_from(tmp_path):
    torch.manual_seed(8)
    theirs = make_hparams(tmp_path, seed=8)["modules"]["model"]
    Checkpointer(tmp_path / "their" / "save", {"model": theirs}).save_checkpoint()
    phases = alternation(1, CSSL, PTLOC, init=str(tmp_path / "their"))
    done = run(make_hparams(tmp_path / "ours", phases=phases))
    assert torch.equal(done.first["CSSL.1"], weights(nn.ModuleDict({"model": theirs})))
    assert torch.equal(done.first["PTLOC.1"], done.last["CSSL.1"])


class Audited(Batches):
    """Global batches as an ``AuditedLoader`` takes them."""

    utterances = SimpleNamespace(manifest=None)

    def __getitem__(self, step):
        return super().__getitem__(step), [], 8


def test_a_phase_goes_on_from_a_checkpoint_that_an_sb_brain_saved(tmp_path, caplog):
    """It counts no bad recordings, and lacks what SpeechBrain has no place for."""

    def run_epochs(n):
        phases = alternation(1, {**CSSL, "epochs": n}, PTLOC)
        hparams = make_hparams(tmp_path, phases=phases, only_phases=["CSSL.1"])
        sampler = EpochSampler(N_STEPS)
        return run(hparams, train_loader=AuditedLoader(Audited(), sampler=sampler))

    begun = run_epochs(1)
    checkpoint = find_checkpoint(tmp_path / "CSSL.1")
    for name in ("audit.ckpt", FILES, RUN, STATE):
        (checkpoint / name).unlink()
    resumed = run_epochs(2)
    assert resumed.passes == begun.passes == {"CSSL.1": 2 * N_STEPS}
    assert torch.equal(resumed.first["CSSL.1"], begun.last["CSSL.1"])
    assert f"{checkpoint} has no audit.ckpt" in caplog.text

"""A run that is killed and restarted equals a run that was never killed."""

import errno
import os
import random
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.augment.time_domain import SpeedPerturb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import _global_uid as uid
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.data.audited_loader import SinglePartLoader
from hetero_brain.data.augmentation import AddNoise, AddReverb
from hetero_brain.data.loaders import EpochSampler, train_loader
from hetero_brain.models.conformer import Conformer
from hetero_brain.models.decoder import AttentionDecoder
from hetero_brain.models.features import StackedFbank
from hetero_brain.models.readouts import LastLayer
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.masking import MaskDrawer
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.pipelines.phases import Phase
from hetero_brain.pipelines.rounds import run_phases
from hetero_brain.recognition.ctc import CTCBrain
from hetero_brain.recognition.joint import JointBrain
from hetero_brain.training.checkpoints import AtomicCheckpointer
from hetero_brain.training.loggers import (
    IterationTensorboardLogger,
    JsonLinesLogger,
    TextLogger,
)
from hetero_brain.training.recovery import AnotherRun
from hetero_brain.training.saved import STATE
from hetero_brain.training.schedules import HoldThenDecay
from tests.benchmarks.kills import checkpoint, differences, scalars
from tests.processes import python

pytestmark = pytest.mark.usefixtures("unplotted")
ROOT = Path(__file__).resolve().parents[2]
RUN_OPTS = {"device": "cpu", "noprogressbar": True}
N_STEPS = 5


# TensorBoard sorts its files by second, process and number, where .10 is before .9: lives
# of one process that begin in one second need numbers of the same length.
while uid.get() < 1000:
    pass


class Killed(BaseException):
    """An exception that no code handles, in place of SIGKILL."""


class Clock:
    """Counts the ticks of a run, and kills it at a given one."""

    def __init__(self, die_at=None):
        self.now, self.die_at = 0, die_at

    def tick(self, *_):
        self.now += 1
        if self.now == self.die_at:
            raise Killed


def killed(run, moments):
    """Kill a run at each of the moments in turn, restarting it, then run to the end."""
    for moment in moments:
        with pytest.raises(Killed):
            run(Clock(moment))
    run(Clock())


def leftovers(run, folder, moments):
    """What a kill of a run at each of the moments leaves: copies of its folder."""

    class Copying(Clock):
        def tick(self, *_):
            super().tick()
            if self.now in moments:
                copies.append(folder / str(self.now))
                shutil.copytree(folder / "run", copies[-1])

    copies = []
    run(folder / "run", clock=Copying())
    assert len(copies) == len(moments)
    return copies


# ------------------------------------------------------------------------- pre-training


class Batches(Dataset):
    """Synthetic global batches of two domains, functions of t; one is NaN twice."""

    def __getitem__(self, step):
        draw = partial(torch.randn, 4, 3, generator=torch.Generator().manual_seed(step))
        parts = [DomainBatch(domain, (draw(),)) for domain in ("en", "fr")]
        if step in (1, 7):
            parts[0].batches[0].fill_(torch.nan)
        return parts


class DevBatches(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return [DomainBatch("en", (torch.full((2, 3), index + 1.0),))], [], 2


class Toy(HeteroBrain):
    """Regression with dropout; ticks at every pass, also of the dev set."""

    clock = Clock()

    def compute_forward(self, batch, stage):
        self.clock.tick()
        return self.modules.model(batch)

    def compute_objectives(self, predictions, batch, stage):
        return (predictions.squeeze(1) - batch.sum(1)).square().mean()

    def observe(self, domain_batch, outputs):
        self.monitor.add(domain_batch.domain, mean=outputs.detach().mean())  # a tensor


class TickingLog(JsonLinesLogger):
    """Ticks before and after an entry."""

    clock = Clock()

    def write(self, meta, stages):
        self.clock.tick()
        super().write(meta, stages)
        self.clock.tick()


PHASES = [
    Phase("CSSL.1", None, epochs=2, lr=0.02, warmup_iterations=3),
    Phase(
        "PTLOC.1",
        "CSSL.1",
        epochs=2,
        lr=0.01,
        hold_epochs=1,
        local_steps=2,
        local_lr=0.05,
    ),
]


class Scaled(Toy):
    """Scales losses as fp16 does, which SpeechBrain does not offer on a CPU."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scaler = torch.GradScaler("cpu", init_scale=2.0**8, growth_interval=4)
        self.checkpointer.add_recoverable("scaler", self.scaler, optional_load=True)


def pretrain(folder, clock, every=1, seed=5, phases=PHASES, kind=Toy, **changed):
    """Run the phases of a toy; a process has other random numbers each time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
    model.append(nn.Linear(8, 1))
    torch.manual_seed(random.randrange(10**6))
    hparams = {
        "output_folder": str(folder),
        "modules": {"model": model},
        "opt_class": torch.optim.AdamW,
        "local_optimizer": torch.optim.AdamW,
        "local_optimizer_state": "per_domain",
        "seed": seed,
        "log_interval": 3,
        "cosine_interval": 4,
        "only_phases": None,
        "phases": phases,
        **changed,
    }
    kind = type("Toy", (kind,), {"clock": clock})
    options = {**RUN_OPTS, "ckpt_interval_steps": every}
    train = DataLoader(Batches(), batch_size=None, sampler=EpochSampler(N_STEPS))
    with pytest.MonkeyPatch.context() as patch:
        log = type("TickingLog", (TickingLog,), {"clock": clock})
        patch.setattr("hetero_brain.training.loggers.JsonLinesLogger", log)
        run_phases(hparams, options, kind, train, SinglePartLoader(DevBatches()))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """An undisturbed run: its folder, and its number of ticks."""
    folder, clock = tmp_path_factory.mktemp("alone"), Clock()
    pretrain(folder, clock, every=2)
    return folder, clock.now


def test_checkpoints_do_not_change_a_run(alone, tmp_path):
    pretrain(tmp_path, Clock(), every=0)
    assert not differences(alone[0], tmp_path)


def test_the_comparison_sees_a_difference(alone, tmp_path):
    pretrain(tmp_path, Clock(), seed=6)
    found = "\n".join(differences(alone[0], tmp_path))
    for words in ("model.ckpt", "optimizer.ckpt", STATE, "local_solver."):
        assert f"PTLOC.1: {words}" in found
    for words in ("log.jsonl", "train_log.txt", "TensorBoard"):
        assert f"CSSL.1: {words}" in found


@pytest.fixture(scope="module")
def remains(alone, tmp_path_factory):
    """What a kill leaves behind, with a checkpoint after each iteration: the folder of an
    undisturbed run as it was at each moment, without copies of the one before."""
    folder, length = tmp_path_factory.mktemp("remains"), alone[1]
    files, copies = None, []

    class Copying(Clock):
        def tick(self, *_):
            nonlocal files
            super().tick()
            before, files = files, contents(folder / "run")
            if files != before:
                copies.append(folder / str(self.now))
                shutil.copytree(folder / "run", copies[-1])

    (folder / "run").mkdir()
    clock = Copying()
    pretrain(folder / "run", clock)
    assert clock.now == length
    return copies


def contents(folder):
    """Path → bytes of each file."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", range(8))
def test_killed_once_at_each_moment(alone, remains, part):
    """Every eighth of them in each part."""
    assert len(remains) > 40
    for copy in remains[part::8]:
        pretrain(copy, Clock(), every=0)
        assert not differences(alone[0], copy), copy.name


@pytest.mark.parametrize("part, every", [*enumerate([2, 0] * 4)])
def test_killed_once_with_fewer_checkpoints(alone, tmp_path, part, every):
    """At a seeded moment of each eighth of a run."""
    folder, length = alone
    rng = random.Random(10 * part + every)
    moment = rng.randint(length * part // 8 + 1, length * (part + 1) // 8)
    killed(partial(pretrain, tmp_path, every=every), [moment])
    assert not differences(folder, tmp_path)


def test_killed_many_times(alone, tmp_path):
    moments = random.Random(1).choices(range(8, 30), k=20)
    killed(partial(pretrain, tmp_path, every=1), moments[:7])
    assert not differences(alone[0], tmp_path)


def test_killed_with_a_loss_scale_that_grows(alone, tmp_path):
    run = partial(pretrain, kind=Scaled)
    run(tmp_path / "alone", Clock())
    for moment in (alone[1] // 3, 4 * alone[1] // 5):
        killed(partial(run, tmp_path / str(moment)), [moment])
        assert not differences(tmp_path / "alone", tmp_path / str(moment))
    held = checkpoint(tmp_path / "alone/PTLOC.1")
    assert held["scaler.ckpt"]["scale"] > 2.0**8
    assert "scaler.ckpt" not in checkpoint(alone[0] / "PTLOC.1")


def test_a_checkpoint_at_the_last_iteration_of_an_epoch(alone, tmp_path):
    """After a kill in the validation, no iteration of that epoch is repeated."""
    folder, _ = alone
    clock, passes = Clock(), 2 * N_STEPS + 4  # with the entries of the log
    with pytest.raises(Killed):
        clock.die_at = passes + 1
        pretrain(tmp_path, clock, every=N_STEPS)
    state = yaml.safe_load((newest(tmp_path / "CSSL.1") / "brain.ckpt").read_text())
    assert (state["step"], state["optimizer_step"]) == (N_STEPS, N_STEPS)
    pretrain(tmp_path, Clock(), every=N_STEPS)
    assert not differences(folder, tmp_path)


def test_checkpoints_by_minutes(alone, tmp_path):
    run = partial(pretrain, tmp_path, every=0, ckpt_interval_minutes=1e-9)
    with pytest.raises(Killed):
        run(Clock(8))
    found = AtomicCheckpointer(tmp_path / "CSSL.1/save").find_checkpoint()
    assert not found.meta["end-of-epoch"]
    run(Clock())
    assert not differences(alone[0], tmp_path)


def newest(phase):
    return AtomicCheckpointer(phase / "save").find_checkpoint().path


def test_no_iteration_is_logged_twice(alone, tmp_path):
    killed(partial(pretrain, tmp_path, every=0), [15, 25])  # with entries lost
    entries = JsonLinesLogger.read(tmp_path / "CSSL.1/log.jsonl")
    kinds = [(e["iteration"], "valid" in e, len(e["train"])) for e in entries]
    assert len(set(kinds)) == len(kinds)
    assert [i for i, _, _ in kinds] == sorted(i for i, _, _ in kinds)
    for name, values in scalars(tmp_path / "CSSL.1").items():
        if "/" in name and "loss/train" not in name:
            assert len(values) == 1, name
    assert not differences(alone[0], tmp_path)


def test_the_average_loss_of_an_epoch_is_of_all_of_it(alone, tmp_path):
    folder, _ = alone
    killed(partial(pretrain, tmp_path, every=1), [N_STEPS * 2 + 15])
    losses = [
        [e["train"]["loss"] for e in JsonLinesLogger.read(f) if "valid" in e]
        for f in (folder / "CSSL.1/log.jsonl", tmp_path / "CSSL.1/log.jsonl")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_a_faulty_domain_counts_against_patience_across_a_kill(tmp_path):
    """NaN at iterations 1 and 7 of an epoch of 10, with a patience of one."""

    class Stop(Toy):
        pass

    def run(clock, patience):
        model = nn.Linear(3, 1)
        torch.manual_seed(1)
        kind = type("Toy", (Stop,), {"clock": clock})
        hparams = {
            "output_folder": str(tmp_path / str(patience)),
            "modules": {"model": model},
            "opt_class": torch.optim.SGD,
            "local_optimizer": torch.optim.SGD,
            "seed": 1,
            "only_phases": None,
            "phases": [Phase("CSSL.1", None, epochs=1, lr=0.01)],
        }
        options = {**RUN_OPTS, "nonfinite_patience": patience, "ckpt_interval_steps": 1}
        train = DataLoader(Batches(), batch_size=None, sampler=EpochSampler(10))
        run_phases(hparams, options, kind, train)

    for patience in (1, 2):
        with pytest.raises(Killed):
            run(Clock(9), patience)
    with pytest.raises(ValueError, match="patience is exhausted"):
        run(Clock(), 1)
    run(Clock(), 2)


def test_a_damaged_checkpoint_costs_what_came_after_the_one_before(alone, tmp_path):
    with pytest.raises(Killed):
        pretrain(tmp_path, Clock(alone[1] * 3 // 4))
    (model,) = newest(tmp_path / "PTLOC.1").glob("model.ckpt")
    os.truncate(model, 100)
    pretrain(tmp_path, Clock())
    assert not differences(alone[0], tmp_path)
    assert list((tmp_path / "PTLOC.1/save").glob("damaged.CKPT+*"))


def test_a_full_disk_and_room_again(alone, tmp_path):
    clock = Clock()
    saves, save = [], torch.save

    def full(obj, path):
        saves.append(path)
        if len(saves) == 75:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(obj, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"PTLOC.1.*disk is full"):
            pretrain(tmp_path, clock)
    assert not list(tmp_path.rglob("unfinished.*"))
    pretrain(tmp_path, Clock())
    assert not differences(alone[0], tmp_path)


def test_more_epochs(alone, tmp_path):
    """A run can be extended: finished epochs are not repeated."""
    shutil.copytree(alone[0] / "CSSL.1", tmp_path / "CSSL.1")
    clock = Clock()
    longer = [Phase("CSSL.1", None, epochs=3, lr=0.02, warmup_iterations=3)]
    pretrain(tmp_path, clock, phases=longer)
    entries = JsonLinesLogger.read(tmp_path / "CSSL.1/log.jsonl")
    before = JsonLinesLogger.read(alone[0] / "CSSL.1/log.jsonl")
    assert entries[: len(before)] == before
    assert entries[-1]["epoch"] == 3 and clock.now < 25


def test_another_rate_is_refused(alone, tmp_path):
    shutil.copytree(alone[0] / "CSSL.1", tmp_path / "CSSL.1")
    other = [Phase("CSSL.1", None, epochs=2, lr=0.03, warmup_iterations=3)]
    with pytest.raises(AnotherRun, match=r"phase.lr: 0.02 there, 0.03 here"):
        pretrain(tmp_path, Clock(), phases=other)
    pretrain(tmp_path, Clock())  # the phases that come after it do not matter
    assert not differences(alone[0], tmp_path)


# -------------------------------------------------------- the real objective, real audio


@pytest.fixture(scope="module")
def few(sample):
    rows = sample("train", ["en", "fr"])
    order = sorted(range(len(rows)), key=lambda i: rows.duration[i])
    labelled = [i for i in order if " " in rows[i]["wrd"]]
    parts = [[i for i in labelled if rows.domain[i] == code][:6] for code in (0, 1)]
    return rows.subset(sum(parts, []))


def conformer():
    return Conformer(
        nn.Linear(160, 16), 1, d_model=16, nhead=2, d_ffn=16, kernel_size=3, dropout=0.2
    )


def bestrq(folder, rows, clock, every, dropout=0.2):
    from hetero_brain.objectives.quantizers import RandomProjectionQuantizer
    from hetero_brain.pipelines.pretraining import pretrain as pretrain_on

    class Ticking(BestRQBrain):
        def compute_forward(self, batch, stage):
            clock.tick()
            return super().compute_forward(batch, stage)

    torch.manual_seed(0)
    hparams = {
        "output_folder": str(folder),
        "brain_class": Ticking,
        "modules": {
            "features": StackedFbank(8000, n_mels=40, stack=4),
            "encoder": conformer(),
            "quantizer": RandomProjectionQuantizer(160, codebook_size=32),
            "output": nn.Linear(16, 32),
        },
        "plan": {"global_batch_seconds": 4, "max_utterance_seconds": 1.0},
        "global_batch_seconds": 4,
        "loader": {},
        "sample_rate": 8000,
        "mask_prob": 0.2,
        "mask_span": 3,
        "noise_std": 0.3,
        "opt_class": torch.optim.AdamW,
        "local_optimizer": torch.optim.AdamW,
        "local_optimizer_state": "per_domain",
        "seed": 3,
        "log_interval": 3,
        "only_phases": None,
        "phases": [Phase("PTLOC.1", None, 2, lr=0.01, local_steps=1, local_lr=0.01)],
    }
    options = {**RUN_OPTS, "ckpt_interval_steps": every}
    pretrain_on(hparams, options, rows, rows)


def test_bestrq_with_the_codes_seen_since_the_last_entry(few, tmp_path):
    clock = Clock()
    bestrq(tmp_path / "alone", few, clock, every=0)
    use = [
        entry["train"].get("codebook_use/en")
        for entry in JsonLinesLogger.read(tmp_path / "alone/PTLOC.1/log.jsonl")
    ]
    assert any(share and share < 1 for share in use)
    run = partial(bestrq, rows=few, every=1)
    moments = [int(clock.now * share) for share in (0.15, 0.4, 0.7, 0.9)]
    for folder in leftovers(run, tmp_path, moments):
        run(folder, clock=Clock())
        assert not differences(tmp_path / "alone", folder)


def tune(folder, rows, clock, every=0, **changed):
    """Fine-tune with dropout and SpecAugment."""

    def tick(x):
        clock.tick()
        return x

    class Ticking(nn.Module):
        def forward(self, x):
            return tick(x)

    torch.manual_seed(0)
    drop = partial(SpectrogramDrop, drop_length_low=1, drop_length_high=8)
    hparams = {
        "output_folder": str(folder),
        "unit": "char",
        "vocab_size": 1000,
        "modules": {
            "features": StackedFbank(8000, n_mels=40, stack=4),
            "encoder": conformer(),
            "readout": LastLayer(),
        },
        "pretrained": None,
        "beam_size": None,
        "epochs": 5,
        "opt_class": partial(torch.optim.AdamW, lr=4e-3),
        "lr_schedule": HoldThenDecay(2, 0.5, 3),
        "sample_rate": 8000,
        "seed": 1,
        "loader": {},
        "eval_batch_seconds": 30,
        "eval_splits": ["dev"],
        "plan": {"global_batch_seconds": 8},
        "freeze_encoder_iterations": 4,
        "augment": nn.Sequential(drop(dim=1), drop(dim=2), Ticking()),
        "valid_interval": 2,
        "log_interval": 2,
        **changed,
    }
    with pytest.MonkeyPatch.context() as patch:
        for kind in (CTCBrain, JointBrain):
            decode = vars(kind)["decode"]
            patch.setattr(kind, "decode", lambda *args, f=decode: f(*tick(args)))
        options = {**RUN_OPTS, "ckpt_interval_steps": every}
        finetune(hparams, options, {"train": rows, "dev": rows})


def test_finetuning_killed_at_many_moments(few, tmp_path):
    clock = Clock()
    tune(tmp_path / "alone", few, clock)
    for every, n in ((0, 4), (1, 4), (3, 2)):
        run = partial(tune, rows=few, every=every)
        moments = random.Random(every).sample(range(1, clock.now + 1), n)
        for folder in leftovers(run, tmp_path / str(every), moments):
            run(folder, clock=Clock())
            assert not differences(tmp_path / "alone", folder), folder
            for name in ("dev.json", "tokenizer.model"):
                texts = [(d / name).read_bytes() for d in (tmp_path / "alone", folder)]
                assert texts[0] == texts[1]
    # SpecAugment and dropout did something.
    for name, changed in (("plain", {"augment": None}), ("seed", {"seed": 2})):
        tune(tmp_path / name, few, Clock(), **changed)
        assert differences(tmp_path / "alone", tmp_path / name)


def test_finetuning_with_augmentation_and_two_rates_killed_at_many_moments(
    few, tmp_path
):
    """Speeds, noise, reverberation; an optimizer of the encoder, which rests first."""
    settings = lambda: {"wav_augment": waveforms(tmp_path), "encoder_lr": 1e-3}  # noqa: E731

    def run(folder, clock):
        tune(folder, few, clock, every=1, **settings())

    clock = Clock()
    run(tmp_path / "alone", clock)
    kept = checkpoint(tmp_path / "alone")
    assert {"optimizer.ckpt", "encoder_optimizer.ckpt"} <= {*kept}
    moments = random.Random(0).sample(range(1, clock.now + 1), 5)
    for folder in leftovers(run, tmp_path / "killed", moments):
        run(folder, clock=Clock())
        assert not differences(tmp_path / "alone", folder), folder
    # Each of them did something.
    for key, other in (("wav_augment", None), ("encoder_lr", 2e-3)):
        tune(tmp_path / key, few, Clock(), every=1, **settings() | {key: other})
        assert differences(tmp_path / "alone", tmp_path / key)


def waveforms(folder):
    """An augmenter with files of noise and of impulse responses."""
    for name, samples in (("noise", 12000), ("rir", 80)):
        lines = ["ID,duration,wav,wav_format,wav_opts"]
        for i in range(3):
            path = folder / f"{name}{i}.wav"
            draw = torch.Generator().manual_seed(i)
            wav = torch.rand(samples, generator=draw) - 0.5
            soundfile.write(path, wav.numpy(), 8000)
            lines.append(f"{i},1,{path},wav,")
        (folder / f"{name}.csv").write_text("\n".join(lines))
    rates = {"clean_sample_rate": 8000}
    noise = AddNoise(folder / "noise.csv", snr_high=9, noise_sample_rate=8000, **rates)
    reverb = AddReverb(folder / "rir.csv", reverb_sample_rate=8000, **rates)
    speeds = SpeedPerturb(8000, [90, 100, 110])
    return Augmenter(min_augmentations=1, augmentations=[speeds, noise, reverb])


ATTENTION = {
    "decoder": partial(AttentionDecoder, num_layers=1, nhead=2, d_ffn=32, dropout=0.2),
    "ctc_weight": 0.3,
    "label_smoothing": 0.1,
    "beam_size": 2,
    "max_decode_ratio": 0.3,
    "search_ctc_weight": 0.3,
}


def test_finetuning_with_attention_killed_at_many_moments(few, tmp_path):
    run, clock = partial(tune, rows=few, **ATTENTION), Clock()
    run(tmp_path / "alone", clock=clock)
    assert "decoder.ckpt" in checkpoint(tmp_path / "alone")
    for every, n in ((0, 2), (1, 3)):
        saving = partial(run, every=every)
        moments = random.Random(every).sample(range(1, clock.now + 1), n)
        for folder in leftovers(saving, tmp_path / str(every), moments):
            saving(folder, clock=Clock())
            assert not differences(tmp_path / "alone", folder)


def test_finetuning_keeps_the_best_and_the_newest(few, tmp_path):
    tune(tmp_path, few, Clock(), every=1)
    rates = {
        checkpoint.meta.get("epoch"): checkpoint.meta.get("CER")
        for checkpoint in AtomicCheckpointer(tmp_path / "save").list_checkpoints()
    }
    entries = JsonLinesLogger.read(tmp_path / "log.jsonl")
    all_rates = {e["epoch"]: e["valid"]["CER"] for e in entries if "valid" in e}
    assert min(all_rates.values()) in rates.values() and 5 in rates


def test_finetuning_from_another_encoder_is_refused(few, tmp_path):
    for name in ("a", "b"):
        encoder = conformer()
        folder = tmp_path / name / "save"
        AtomicCheckpointer(folder, {"encoder": encoder}).save_checkpoint()
    run = partial(tune, tmp_path / "run", few, epochs=1)
    run(Clock(), pretrained=str(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "moved")
    # The same weights in another folder:
    run(Clock(), pretrained=str(tmp_path / "moved"))
    message = r"pretrained: \S+/a \(.*\) there, \S+/b \(.*\) here"
    with pytest.raises(AnotherRun, match=message):
        run(Clock(), pretrained=str(tmp_path / "b"))


# ------------------------------------------------------------------------------- loaders


def test_an_iteration_without_any_audio_is_one(tmp_path):
    """The number of an iteration stays its place in the plan."""
    brain = Toy(
        {"model": nn.Linear(3, 1)}, partial(torch.optim.SGD, lr=0.1), {}, RUN_OPTS
    )
    batches = [Batches()[0], [], Batches()[2]]
    brain.fit([1], DataLoader(batches, batch_size=None), progressbar=False)
    assert brain.iteration == 3


def test_a_resumed_run_is_as_lenient_with_bad_audio(few, tmp_path):
    """One bad recording of the last few that are read would be too many of them."""
    from hetero_brain.data.datasets import Utterances
    from hetero_brain.data.loaders import make_plan

    utterances = Utterances(few, 8000)
    plan = make_plan(few, 1, global_batch_seconds=4)
    first = train_loader(utterances, plan)
    first.bad, first.rows, first.problems = 1, 300, {"a problem"}
    AtomicCheckpointer(tmp_path, {"audit": first}).save_checkpoint()
    second = train_loader(utterances, plan)
    AtomicCheckpointer(tmp_path, {"audit": second}).recover_if_possible()
    assert (second.bad, second.rows, second.problems) == (1, 300, {"a problem"})
    second.sampler.start_at(plan.steps_per_epoch - 1)
    assert len(list(second)) == 1


def test_to_resume_reads_nothing_of_what_came_before(few, tmp_path, monkeypatch):
    clock = Clock()
    bestrq(tmp_path / "alone", few, clock, every=0)
    with pytest.raises(Killed):
        bestrq(tmp_path / "killed", few, Clock(clock.now * 9 // 20), every=1)
    from hetero_brain.data import datasets

    read = []
    real = datasets.GlobalBatches.__getitem__
    monkeypatch.setattr(
        datasets.GlobalBatches,
        "__getitem__",
        lambda self, step: read.append(step) or real(self, step),
    )
    draws, draw = [], MaskDrawer.__call__
    monkeypatch.setattr(
        MaskDrawer,
        "__call__",
        lambda self, batch, t: draws.append((t, *batch.id)) or draw(self, batch, t),
    )
    state = (newest(tmp_path / "killed/PTLOC.1") / "brain.ckpt").read_text()
    at = yaml.safe_load(state)["optimizer_step"]
    assert at > 1
    bestrq(tmp_path / "killed", few, Clock(), every=1)
    assert read[0] == at and read == sorted(set(read))
    # Each batch is drawn for once, by the loader: the Brain counts iterations alike.
    trained = [drawn for drawn in draws if drawn[0] >= 0]
    assert sorted({t for t, *_ in trained}) == read
    assert len(trained) == len(set(trained)) and len(draws) > len(trained)


# ---------------------------------------------------------------------------------- logs


@pytest.mark.parametrize("kind", [TextLogger, JsonLinesLogger])
def test_a_log_is_cut_where_the_checkpoint_was(tmp_path, kind):
    log = kind(tmp_path / "log")
    assert log.position() == 0
    log.log_stats({"iteration": 1}, {"loss": 1.0})
    position, text = log.position(), (tmp_path / "log").read_text()
    log.log_stats({"iteration": 2}, {"loss": 1.0})
    with open(tmp_path / "log", "a") as file:
        file.write("half a li")
    kind(tmp_path / "log").resume(position, 1)
    assert (tmp_path / "log").read_text() == text
    kind(tmp_path / "log").resume(None, 0)
    assert (tmp_path / "log").read_text() == ""


def test_a_log_that_is_too_short_is_told(tmp_path, caplog):
    (tmp_path / "log").write_text("a")
    TextLogger(tmp_path / "log").resume(5, 1)
    assert (tmp_path / "log").read_text() == "a"
    assert "has 1 bytes but had 5 at the checkpoint" in caplog.text


def test_tensorboard_forgets_what_was_cut(tmp_path):
    def log(*iterations):
        writer = IterationTensorboardLogger(tmp_path / "tensorboard")
        if iterations[0] > 1:
            writer.resume(position, iterations[0] - 1)
        for iteration in iterations:
            writer.log_stats({"iteration": iteration}, {"loss": float(iteration)})
            if iteration == 3:
                positions.append(writer.position())
        writer.writer.close()

    def seen():
        board.Reload()
        return [event.step for event in board.Scalars("loss/train")]

    positions, position = [], None
    log(1, 2, 3, 4, 5)
    board = EventAccumulator(str(tmp_path / "tensorboard"))  # one that stays open
    assert seen() == [1, 2, 3, 4, 5]
    position = positions[0]
    log(4, 5, 6)
    log(4, 5, 6)  # killed again before the next checkpoint
    assert seen() == [1, 2, 3, 4, 5, 6]
    found = scalars(tmp_path)
    assert [found[f"loss/train, step {i}"] for i in range(1, 7)] == [
        [float(i)] for i in range(1, 7)
    ]
    events = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert events.count(b"loss/train") == 6


# ----------------------------------------------------------------------------- processes


KILLS = ["-m", "tests.benchmarks.kills"]


def test_kills_of_processes(tmp_path):
    """Three kills, one half-way through a file of a checkpoint; see the benchmark."""
    done = subprocess.run(
        [python(), *KILLS, "--kills", "3", "--workers", "2"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "3 kills in" in done.stdout
    assert "writing or deleting a checkpoint" in done.stdout

"""Checkpoints: complete or absent, checked when loaded, refused by another run."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.utils.checkpoints import METAFNAME, Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from torch import nn

from hetero_brain import HeteroBrain
from hetero_brain.data import manifest
from hetero_brain.models.transfer import find_checkpoint, load_module
from hetero_brain.training import checkpoints
from hetero_brain.training.checkpoints import AtomicCheckpointer
from hetero_brain.training.files import write_atomically
from hetero_brain.training.fingerprint import fingerprint
from hetero_brain.training.integrity import FILES, RUN, damage
from hetero_brain.training.recovery import AnotherRun, DamagedCheckpoint
from tests.processes import python


class Killed(BaseException):
    """An exception that no code handles, in place of SIGKILL."""


class Saved:
    """A linear layer with an optimizer and a checkpointer; value() is its state."""

    def __init__(self, folder, kind=AtomicCheckpointer, **options):
        self.model = nn.Linear(2, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.counter = EpochCounter(100)
        recoverables = {
            "model": self.model,
            "optimizer": self.optimizer,
            "counter": self.counter,
        }
        self.checkpointer = kind(folder, recoverables, **options)

    def step(self):
        next(self.counter)
        self.optimizer.zero_grad()
        self.model(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        return self.value()

    def save(self, **meta):
        self.checkpointer.save_and_keep_only(meta)

    def value(self):
        return self.model.weight.detach().clone()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def newest(folder):
    return AtomicCheckpointer(folder).find_checkpoint().path


# ------------------------------------------------------------------------------- writing


def test_it_comes_back(tmp_path):
    saved = Saved(tmp_path)
    saved.step()
    value = saved.step()
    saved.save(epoch=2)
    found = Saved(tmp_path)
    assert found.checkpointer.recover_if_possible().meta["epoch"] == 2
    assert torch.equal(found.value(), value) and found.counter.current == 2
    assert torch.equal(found.step(), saved.step())  # with the optimizer's moments
    assert damage(newest(tmp_path)) is None


def test_a_folder_without_any_is_a_beginning(tmp_path):
    assert Saved(tmp_path).checkpointer.recover_if_possible() is None


@pytest.mark.parametrize("moment", ["hook", "sync", "rename", "delete"])
def test_a_kill_leaves_the_checkpoint_before(tmp_path, monkeypatch, moment):
    saved = Saved(tmp_path)
    values = []
    for _ in range(2):
        values.append(saved.step())
        saved.save()
    before = names(tmp_path)
    saved.step()

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        # After a kill no cleanup runs.
        patch.setattr(AtomicCheckpointer, "_remove_leftovers", lambda self: None)
        if moment == "hook":
            saved.checkpointer.custom_save_hooks["optimizer"] = kill
        elif moment == "delete":
            patch.setattr(shutil, "rmtree", kill)
        else:
            name = {"sync": "fsync", "rename": "rename"}[moment]
            patch.setattr(os, name, kill)
        with pytest.raises(Killed):
            saved.save()
    assert any(name.startswith("unfinished.") for name in names(tmp_path))
    found = Saved(tmp_path)
    found.checkpointer.recover_if_possible()
    if moment == "delete":  # the new one was complete
        assert torch.equal(found.value(), saved.value())
    else:
        assert names(tmp_path) == before
        assert torch.equal(found.value(), values[-1])


def test_nobody_takes_an_unfinished_one_for_a_checkpoint(tmp_path, monkeypatch):
    saved = Saved(tmp_path / "save")
    saved.save()
    good = newest(tmp_path / "save")
    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointer, "_publish", lambda *_: None)
        saved.save()
    assert len(names(tmp_path / "save")) == 2
    assert Checkpointer(tmp_path / "save").find_checkpoint().path == good
    assert find_checkpoint(tmp_path) == good


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_folders_that_cannot_be_synced(kind, number, tmp_path, monkeypatch):
    """As on CIFS; but a file that cannot be synced, or a failing disk, is an error."""
    real = os.fsync

    def fsync(handle):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        if is_folder == (kind == "folder"):
            raise OSError(number, os.strerror(number))
        real(handle)

    saved = Saved(tmp_path)
    value = saved.step()
    monkeypatch.setattr(os, "fsync", fsync)
    if kind == "folder" and number != errno.EIO:
        saved.save()
        write_atomically(tmp_path / "text", b"whole")
        assert (tmp_path / "text").read_bytes() == b"whole"
        again = Saved(tmp_path)
        again.checkpointer.recover_if_possible()
        assert torch.equal(again.value(), value)
    else:
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            saved.save()
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            write_atomically(tmp_path / "text", b"whole")


def test_all_is_synced_before_the_name_is_given(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(handle):
        calls.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        real_fsync(handle)

    def rename(old, new):
        calls.append("rename")
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    Saved(tmp_path).save()
    at = calls.index("rename")
    path = newest(tmp_path)
    assert {p.name for p in calls[: at - 1]} == set(names(path))
    assert calls[at - 1].name == f"unfinished.{path.name}"
    assert calls[at + 1 :] == [tmp_path]


def test_the_clock_is_set_back(tmp_path, monkeypatch):
    saved = Saved(tmp_path)
    for now in (1000.0, 500.0, 400.0):
        monkeypatch.setattr(checkpoints.time, "time", lambda now=now: now)
        value = saved.step()
        saved.save()
    found = Saved(tmp_path)
    found.checkpointer.recover_if_possible()
    assert torch.equal(found.value(), value)


# ------------------------------------------------------------------------- what is kept


def kept(folder):
    found = Checkpointer(folder).list_checkpoints()
    return sorted(checkpoint.meta["epoch"] for checkpoint in found)


def test_the_last_two_are_kept(tmp_path):
    saved = Saved(tmp_path)
    for epoch in range(1, 5):
        saved.save(epoch=epoch)
        assert kept(tmp_path) == [*range(max(1, epoch - 1), epoch + 1)]
    assert len(names(tmp_path)) == 2


def test_the_best_is_kept(tmp_path):
    """As SpeechBrain's recipes ask for it, and not lost to checkpoints within epochs."""
    saved = Saved(tmp_path)
    for epoch, rate in enumerate([9.0, 3.0, 5.0, 4.0, 6.0], start=1):
        meta = {"epoch": epoch, "CER": rate, "accuracy": -rate}
        keys = {"min_keys": ["CER"], "max_keys": ["accuracy"]}
        saved.checkpointer.save_and_keep_only(meta, **keys)
        for _ in range(3):
            saved.checkpointer.save_and_keep_only(
                {"epoch": epoch, "within": True},
                end_of_epoch=False,
                ckpt_predicate=lambda c: "within" in c.meta,
            )
        found = Checkpointer(tmp_path).list_checkpoints()
        assert sum("within" in c.meta for c in found) == 2
    for key in ({"min_key": "CER"}, {"max_key": "accuracy"}):
        assert saved.checkpointer.recover_if_possible(**key).meta["epoch"] == 2


METAS = [
    {"epoch": epoch, "CER": rate, "accuracy": (7 * rate) % 4}
    for epoch, rate in enumerate([9.0, 3.0, 5.0, 4.0, 6.0, 2.0, 8.0, 7.0], start=1)
]
WISHES = [
    {"min_keys": ["CER"]},
    {"min_keys": ["CER"], "num_to_keep": 2},
    {"min_keys": ["CER"], "max_keys": ["accuracy"], "num_to_keep": 3},
    {"min_keys": ["CER"], "keep_recent": False},
    {"importance_keys": [lambda c: c.meta["epoch"] % 3]},
    {"ckpt_predicate": lambda c: c.meta["epoch"] % 2},
    {"num_to_keep": 4},
    {"num_to_keep": 0},
]


@pytest.mark.parametrize("wish", WISHES)
def test_what_a_caller_wants_to_keep_is_kept(tmp_path, wish):
    """What SpeechBrain's checkpointer keeps, and the last two."""
    ours, theirs = (
        Saved(tmp_path / kind.__name__, kind)
        for kind in (AtomicCheckpointer, Checkpointer)
    )
    for epoch, meta in enumerate(METAS, start=1):
        for saved in (ours, theirs):
            importance = [
                *wish.get("importance_keys", [])
            ]  # SpeechBrain's appends to it
            wishes = {**wish, "importance_keys": importance}
            saved.checkpointer.save_and_keep_only(meta, **wishes)
        expected = {*kept(tmp_path / "Checkpointer"), epoch, max(1, epoch - 1)}
        assert kept(tmp_path / "AtomicCheckpointer") == sorted(expected)


def test_a_loss_that_is_not_a_number_deletes_nothing_else(tmp_path):
    saved = Saved(tmp_path)
    for epoch in (1, 2, 3):
        saved.save(epoch=epoch, loss=float("nan"))
    assert kept(tmp_path) == [2, 3]


def test_milestones_are_kept(tmp_path):
    saved = Saved(tmp_path, keep_last=3, milestone_interval=4)
    for epoch in range(1, 12):
        saved.save(epoch=epoch)
        saved.checkpointer.save_and_keep_only({}, end_of_epoch=False)
        assert len(kept_within(tmp_path)) <= 2
    assert {4, 8, 11} <= set(filter(None, kept_or_none(tmp_path)))


def test_a_checkpoint_that_names_no_epoch_is_no_milestone(tmp_path):
    saved = Saved(tmp_path, milestone_interval=1)
    for _ in range(3):
        saved.save()
    assert len(names(tmp_path)) == 2


def kept_or_none(folder):
    return [c.meta.get("epoch") for c in Checkpointer(folder).list_checkpoints()]


def kept_within(folder):
    return [epoch for epoch in kept_or_none(folder) if epoch is None]


def test_fewer_than_two_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_last.*1"):
        AtomicCheckpointer(tmp_path, keep_last=1)


# ----------------------------------------------------------------------------- metadata


def test_metadata_of_torch_and_numpy_are_read_back(tmp_path):
    given = {
        "loss": torch.tensor(0.1, dtype=torch.float64, requires_grad=True),
        "WER": np.float32(0.5),
        "epoch": np.int64(3),
        "best": np.bool_(True),
        "zero": np.array(0.25),
        "rates": (0.1, 1e-5),
        "name": "3",
        "nothing": None,
    }
    Saved(tmp_path).save(**given)
    found = Saved(tmp_path).checkpointer.recover_if_possible().meta
    assert {key: found[key] for key in given} == {
        "loss": 0.1,
        "WER": 0.5,
        "epoch": 3,
        "best": True,
        "zero": 0.25,
        "rates": [0.1, 1e-5],
        "name": "3",
        "nothing": None,
    }
    assert found["best"] is True and type(found["epoch"]) is int


@pytest.mark.parametrize(
    "value", [torch.zeros(2), np.zeros(1), [np.float64(1)], Path("a"), 1j]
)
def test_metadata_that_cannot_be_read_back_are_refused(tmp_path, value):
    saved = Saved(tmp_path)
    with pytest.raises(TypeError, match="the metadata figure"):
        saved.save(epoch=1, figure=value)
    assert names(tmp_path) == []


# ------------------------------------------------------- SpeechBrain's own checkpointer


@pytest.mark.parametrize("with_fingerprint", [False, True])
def test_a_checkpoint_of_speechbrains_own_is_taken(tmp_path, caplog, with_fingerprint):
    theirs = Saved(tmp_path, Checkpointer)
    theirs.step()
    value = theirs.step()
    theirs.save(epoch=2)
    before = names(tmp_path)
    ours = Saved(tmp_path, fingerprint=of() if with_fingerprint else None)
    assert ours.checkpointer.recover_if_possible().meta["epoch"] == 2
    assert torch.equal(ours.value(), value) and ours.counter.current == 2
    assert torch.equal(ours.step(), theirs.step())
    assert names(tmp_path) == before
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == with_fingerprint and all(before[0] in w for w in warnings)
    ours.save(epoch=3)
    assert kept(tmp_path) == [2, 3]
    again = Saved(tmp_path, Checkpointer)
    assert again.checkpointer.recover_if_possible().meta["epoch"] == 3
    assert torch.equal(again.value(), ours.value())


@pytest.mark.parametrize(
    "name, torn, words",
    [
        ("model.ckpt", os.unlink, "missing"),
        ("counter.ckpt", os.unlink, "missing"),
        ("counter.ckpt", lambda path: os.truncate(path, 0), "is empty"),
        ("optimizer.ckpt", lambda path: os.truncate(path, 900), "is cut off"),
        (METAFNAME, lambda path: os.truncate(path, 30), "is corrupt"),
    ],
)
def test_a_torn_checkpoint_of_speechbrains_own_is_refused(
    tmp_path, caplog, name, torn, words
):
    theirs = Saved(tmp_path, Checkpointer)
    value = theirs.step()
    theirs.checkpointer.save_checkpoint({"epoch": 1})
    theirs.step()
    path = theirs.checkpointer.save_checkpoint({"epoch": 2}).path
    torn(path / name)
    ours = Saved(tmp_path)
    assert ours.checkpointer.recover_if_possible().meta["epoch"] == 1
    assert torch.equal(ours.value(), value)
    assert re.search(f"{re.escape(str(path))}: {name}:? {words}", caplog.text)
    assert f"damaged.{path.name}" in names(tmp_path)


def test_a_checkpoint_of_another_recipe_is_named_as_such(tmp_path):
    """SpeechBrain's own checkpointer saved there, of a Brain with fewer recoverables."""
    theirs = Saved(tmp_path, Checkpointer)
    del theirs.checkpointer.recoverables["optimizer"]
    del theirs.checkpointer.recoverables["counter"]
    theirs.save()
    before = names(tmp_path)
    with pytest.raises(DamagedCheckpoint) as error:
        Saved(tmp_path).checkpointer.recover_if_possible()
    message = str(error.value)
    assert "optimizer.ckpt, counter.ckpt: missing" in message
    assert "another recipe" in message and "give another output_folder" in message
    assert f"--pretrained {tmp_path / before[0]}" in message
    assert names(tmp_path) == before


def with_audit(saved):
    """Some object that a checkpoint may lack."""
    saved.audit = EpochCounter(100)
    saved.checkpointer.add_recoverable("audit", saved.audit, optional_load=True)
    return saved


@pytest.mark.parametrize("kind", [Checkpointer, AtomicCheckpointer])
def test_what_is_optional_may_be_absent(tmp_path, caplog, recwarn, kind):
    theirs = Saved(tmp_path, kind)
    value = theirs.step()
    theirs.save()
    path = theirs.checkpointer.find_checkpoint().path
    ours = with_audit(Saved(tmp_path))
    ours.checkpointer.recover_if_possible()
    assert torch.equal(ours.value(), value) and ours.counter.current == 1
    assert ours.audit.current == 0
    assert (
        f"{path} has no audit.ckpt: it starts afresh" in caplog.text
        and not recwarn.list
    )
    next(ours.audit)
    ours.save()
    caplog.clear()
    again = with_audit(Saved(tmp_path))
    again.checkpointer.recover_if_possible()
    assert again.audit.current == 1 and "audit" not in caplog.text
    # What one of ours did save must be there, optional or not.
    (newest(tmp_path) / "audit.ckpt").unlink()
    assert with_audit(Saved(tmp_path)).checkpointer.recover_if_possible().path == path
    assert "audit.ckpt is missing" in caplog.text


# ------------------------------------------------------------------------------- damage


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


FILENAMES = ["model.ckpt", "optimizer.ckpt", "counter.ckpt", METAFNAME, FILES, RUN]


@pytest.mark.parametrize("harm", [flip, halve, empty, Path.unlink])
@pytest.mark.parametrize("name", FILENAMES)
def test_the_one_before_a_damaged_one_is_used(tmp_path, caplog, name, harm):
    saved = Saved(tmp_path)
    value = saved.step()
    saved.save(epoch=1)
    saved.step()
    saved.save(epoch=2)
    broken = newest(tmp_path)
    harm(broken / name)
    found = Saved(tmp_path)
    assert found.checkpointer.recover_if_possible().meta["epoch"] == 1
    assert torch.equal(found.value(), value)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert str(broken) in warning
    assert name in warning or (name, harm) == (FILES, flip)  # a file is named
    # The next checkpoint is kept together with the undamaged one.
    saved = found
    saved.save(epoch=3)
    assert kept(tmp_path) == [1, 3]


def test_none_is_whole(tmp_path):
    saved = Saved(tmp_path)
    for harm, name in ((flip, "model.ckpt"), (halve, METAFNAME)):
        saved.save()
        harm(newest(tmp_path) / name)
    for _ in range(2):  # nor the second time
        with pytest.raises(DamagedCheckpoint) as error:
            Saved(tmp_path).checkpointer.recover_if_possible()
        for words in ("model.ckpt does not match", METAFNAME, str(tmp_path)):
            assert words in str(error.value)


def test_an_encoder_is_not_taken_from_a_damaged_one(tmp_path, caplog):
    saved = Saved(tmp_path / "save")
    value = saved.step()
    saved.save()
    saved.step()
    saved.save()
    flip(newest(tmp_path / "save") / "model.ckpt")
    other = nn.Linear(2, 2)
    load_module(other, "model", tmp_path)
    assert torch.equal(other.weight, value)
    assert "model.ckpt does not match its digest" in caplog.text


def test_code_is_not_loaded(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    saved = Saved(tmp_path / "save")
    hooks = saved.checkpointer.custom_save_hooks
    for name in ("model", "optimizer"):
        hooks[name] = lambda obj, path: torch.save({"weight": Payload()}, path)
        saved.save()
        found = Saved(tmp_path / "save")
        with pytest.raises(Exception, match="[Ww]eights"):
            found.checkpointer.recover_if_possible()
        assert not (tmp_path / "ran").exists()
        del hooks[name]


def test_torch_is_told_to_load_weights_only(tmp_path, monkeypatch):
    saved = Saved(tmp_path)
    saved.save()
    told, load = [], torch.load

    def spy(*args, **kwargs):
        told.append(kwargs.get("weights_only"))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    Saved(tmp_path).checkpointer.recover_if_possible()
    assert told == [True, True]  # model and optimizer


# ---------------------------------------------------------------------------- full disks


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["hook", "sync", "list"])
def test_a_full_disk_stops_the_run(tmp_path, monkeypatch, moment):
    saved = Saved(tmp_path)
    value = saved.step()
    saved.save()
    before = names(tmp_path)
    saved.step()
    with monkeypatch.context() as patch:
        if moment == "hook":
            saved.checkpointer.custom_save_hooks["optimizer"] = no_room
        else:
            target = {"sync": (os, "fsync"), "list": (Path, "write_text")}[moment]
            patch.setattr(*target, no_room)
        with pytest.raises(OSError, match="disk is full") as error:
            saved.save()
    assert error.value.errno == errno.ENOSPC
    assert before[-1] in str(error.value) and str(tmp_path) in str(error.value)
    assert names(tmp_path) == before
    found = Saved(tmp_path)
    found.checkpointer.recover_if_possible()
    assert torch.equal(found.value(), value)


def test_another_fault_is_told_as_it_is(tmp_path):
    saved = Saved(tmp_path)

    def broken(*_):
        raise RuntimeError("no room for doubt")

    saved.checkpointer.custom_save_hooks["model"] = broken
    with pytest.raises(RuntimeError, match="no room for doubt"):
        saved.save()
    assert not names(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root, and leave to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk):
    saved = Saved(small_disk / "save")
    value = saved.step()
    saved.save()
    before = names(small_disk / "save")
    saved.step()
    saved.checkpointer.add_recoverable("large", nn.Linear(800, 800))  # 2.6 MB
    with pytest.raises(OSError, match=f"disk is full.*{re.escape(before[0])}"):
        saved.save()
    assert names(small_disk / "save") == before
    found = Saved(small_disk / "save")
    found.checkpointer.recover_if_possible()
    assert torch.equal(found.value(), value)


# ------------------------------------------------------------------------- other runs


class Schedule:
    def __init__(self, decay):
        self.decay, self.cache = decay, [1]

    def __call__(self, epoch, iteration):
        return 1.0


def brain_of(hparams, width=3, precision="fp32"):
    modules = {"model": nn.Linear(width, 1)}
    options = {"device": "cpu", "precision": precision}
    return HeteroBrain(modules, partial(torch.optim.SGD, lr=0.1), hparams, options)


HPARAMS = {
    "seed": 1,
    "plan": {"global_batch_seconds": 9, "domain_sampling": "equal"},
    "opt_class": partial(torch.optim.AdamW, weight_decay=0.01),
    "lr_schedule": Schedule(0.5),
    "augment": nn.Sequential(nn.Dropout(0.1)),
    "mask_prob": 0.1,
    "output_folder": "a",
    "data_folder": "b",
    "epochs": 3,
    "log_interval": 5,
    "loader": {"num_workers": 0},
}


def speeds(*percent):
    return Augmenter(augmentations=[SpeedPerturb(8000, [*percent])])


def of(changed=None, rows=None, **options):
    hparams = {**HPARAMS, "wav_augment": speeds(90, 110), **(changed or {})}
    return fingerprint(brain_of(hparams, **options), hparams, rows, phase={"lr": 0.1})


SAME = [
    {"output_folder": "elsewhere", "data_folder": "elsewhere"},
    {"epochs": 30},
    {"log_interval": 7, "ckpt_interval_minutes": 3},
    {"loader": {"num_workers": 8}, "num_workers": 8},
    {"recomputed": "blocks"},
    {"lr_schedule": Schedule(0.5), "augment": nn.Sequential(nn.Dropout(0.1))},
]
OTHER = [
    ({"seed": 2}, "seed: 1 there, 2 here"),
    ({"plan": {**HPARAMS["plan"], "global_batch_seconds": 8}}, "plan.global_batch_sec"),
    ({"opt_class": partial(torch.optim.AdamW, weight_decay=0.02)}, "opt_class.weight_"),
    ({"opt_class": partial(torch.optim.SGD, weight_decay=0.01)}, "opt_class: .*AdamW"),
    ({"lr_schedule": Schedule(0.6)}, "lr_schedule.decay: 0.5 there, 0.6 here"),
    ({"augment": nn.Sequential(nn.Dropout(0.2))}, "augment.0.p: 0.1 there, 0.2 here"),
    ({"augment": None}, "augment.0.p: 0.1 there, absent here"),
    ({"mask_prob": 0.2}, "mask_prob"),
    ({"wav_augment": speeds(90, 105)}, "SpeedPerturb0.speeds.1: 110 there, 105 here"),
]


@pytest.mark.parametrize("changed", SAME)
def test_what_does_not_change_the_numbers_may_change(tmp_path, changed):
    Saved(tmp_path, fingerprint=of()).save()
    assert Saved(tmp_path, fingerprint=of(changed)).checkpointer.recover_if_possible()


@pytest.mark.parametrize("changed, words", OTHER)
def test_another_run_is_refused(tmp_path, changed, words):
    saved = Saved(tmp_path, fingerprint=of())
    saved.save()
    before = names(tmp_path)
    other = Saved(tmp_path, fingerprint=of(changed))
    value = other.value()
    with pytest.raises(AnotherRun, match=words):
        other.checkpointer.recover_if_possible()
    assert torch.equal(other.value(), value) and names(tmp_path) == before


def test_another_architecture_or_precision_is_refused(tmp_path):
    Saved(tmp_path, fingerprint=of()).save()
    other = Saved(tmp_path, fingerprint=of(width=4, precision="bf16"))
    with pytest.raises(AnotherRun) as error:
        other.checkpointer.recover_if_possible()
    message = str(error.value)
    assert "model.weight: (1, 3) float32 there, (1, 4) float32 here" in message
    assert "precision: fp32 there, bf16 here" in message and "model.bias" not in message


def rows_of(folder, durations):
    folder.mkdir()
    rows = []
    for i, seconds in enumerate(durations):
        (folder / f"{i}.wav").touch()
        row = {"ID": f"u{i}", "duration": seconds, "domain": "en"}
        rows.append({**row, "wav": f"{{data_root}}/{i}.wav"})
    manifest.write(folder / "train.csv", rows)
    return manifest.read(folder / "train.csv", data_root=folder)


def test_other_data_are_refused(tmp_path):
    first, same, longer, more = (
        of(rows=rows_of(tmp_path / name, durations))
        for name, durations in {
            "a": [1.0, 2.0],
            "somewhere else": [1.0, 2.0],
            "c": [1.0, 2.5],
            "d": [1.0, 2.0, 3.0],
        }.items()
    )
    Saved(tmp_path / "save", fingerprint=first).save()
    Saved(tmp_path / "save", fingerprint=same).checkpointer.recover_if_possible()
    for other, words in (
        (longer, "train_manifest: 2 rows, .*2 rows"),
        (more, "3 rows"),
    ):
        with pytest.raises(AnotherRun, match=words):
            Saved(
                tmp_path / "save", fingerprint=other
            ).checkpointer.recover_if_possible()


def test_a_fingerprint_is_the_same_in_another_process():
    code = "import json; from tests.unit.test_checkpoints import of as f"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [python(), "-c", f"{code}; print(json.dumps(f()))"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    for both in (theirs, ours := json.loads(json.dumps(of()))):
        both["lr_schedule"] = both["lr_schedule"].rpartition(".")[2]
    assert theirs == ours


# ---------------------------------------------------------------------------- other files


def test_a_file_is_replaced_or_left(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.model"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["tokenizer.model"]

"""Checkpoints that a kill at any moment leaves whole, and that know their run.

A checkpoint is a folder. It is written under another name, synced, and renamed when all
of it is there; beside SpeechBrain's files it holds the sizes and digests of all files,
and what the run was made of.
"""

import errno
import json
import logging
import os
import shutil
import time

import torch
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    DEFAULT_LOAD_HOOKS,
    Checkpointer,
    get_default_hook,
    torch_recovery,
)
from speechbrain.utils.distributed import (
    ddp_broadcast,
    if_main_process,
    main_process_only,
)
from speechbrain.utils.logger import get_logger

from .files import UNFINISHED, sync
from .fingerprint import differences
from .integrity import FILES, damage, file_digest, metadata_damage

logger = get_logger(__name__)

DAMAGED = "damaged."  # before the name of a checkpoint
RUN = "run.json"  # its fingerprint
FULL = (errno.ENOSPC, errno.EDQUOT)


class DamagedCheckpoint(RuntimeError):
    """There are checkpoints, and none is whole."""


class AnotherRun(ValueError):
    """A checkpoint of other settings, another architecture or other data."""


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer for runs that are killed, and disks that fill up.

    Used as SpeechBrain's. What is kept is set here once, whatever the calls of
    ``save_and_keep_only`` say.

    Arguments
    ---------
    checkpoints_dir : str or Path
        Where they are.
    recoverables : dict
        Name → what is saved.
    keep_last : int
        Newest checkpoints to keep, 2 or more: when one is damaged there is another.
    keep_best : str
        Key of the metadata; the checkpoint where it is lowest is kept, too.
    milestone_interval : int
        Epochs between checkpoints that are kept for ever; 0 for none.
    fingerprint : dict
        As :func:`fingerprint` makes it. A checkpoint with another one is refused.

    Raises
    ------
    ValueError
        ``keep_last`` below 2.
    """

    def __init__(
        self,
        checkpoints_dir,
        recoverables=None,
        keep_last=2,
        keep_best=None,
        milestone_interval=0,
        fingerprint=None,
    ):
        if keep_last < 2:
            raise ValueError(f"keep_last: must be 2 or more, got {keep_last}")
        super().__init__(checkpoints_dir, recoverables)
        self.keep_last, self.keep_best = keep_last, keep_best
        self.milestone_interval = milestone_interval
        self.fingerprint = fingerprint

    def add_recoverables(self, recoverables):
        """Register what is saved; SpeechBrain's leaves out that it must be there."""
        for name, obj in recoverables.items():
            self.add_recoverable(name, obj)

    # ------------------------------------------------------------------------ save

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """Write a checkpoint beside the others, and rename it when it is whole.

        Returns
        -------
        Checkpoint
            None but on the main process.

        Raises
        ------
        OSError
            The disk is full; the checkpoints before this one are as they were.
        """
        meta = {**(meta or {}), "unixtime": self._now()}
        try:
            draft = super().save_checkpoint(meta, end_of_epoch, name, logging.DEBUG)
            return self._publish(draft, verbosity) if if_main_process() else None
        except Exception as fault:
            full = self._is_full(fault)
            self._remove_leftovers()
            if not full:
                raise
            found = self.find_checkpoint()
            raise OSError(
                errno.ENOSPC,
                f"{self.checkpoints_dir}: the disk is full, no checkpoint was written. "
                "Make room and start the same command again: it goes on from "
                f"{found.path.name if found else 'the beginning'}",
            ) from fault
        except BaseException:
            self._remove_leftovers()
            raise

    def save_and_keep_only(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO, **_
    ):
        """Save, then delete what was not to be kept."""
        self.save_checkpoint(meta, end_of_epoch, name, verbosity)
        self.thin()

    @main_process_only
    def thin(self):
        """Delete all but the last, the best and the milestones."""
        kept = self.find_checkpoints(max_num_checkpoints=self.keep_last)
        if self.keep_best is not None:
            kept += self.find_checkpoints(min_key=self.keep_best, max_num_checkpoints=1)
        for checkpoint in self.list_checkpoints():
            epoch = checkpoint.meta.get("epoch", 0)
            milestone = (
                self.milestone_interval
                and checkpoint.meta["end-of-epoch"]
                and epoch % self.milestone_interval == 0
            )
            if not milestone and checkpoint not in kept:
                doomed = _prefixed(checkpoint.path, UNFINISHED)
                os.rename(checkpoint.path, doomed)  # never half a checkpoint
                shutil.rmtree(doomed)

    def _new_checkpoint_dirpath(self):
        return _prefixed(super()._new_checkpoint_dirpath(), UNFINISHED)

    def _custom_checkpoint_dirpath(self, name):
        return _prefixed(super()._custom_checkpoint_dirpath(name), UNFINISHED)

    def _now(self):
        """The time, but later than the newest checkpoint: clocks are set back."""
        newest = self.find_checkpoint() if if_main_process() else None
        return max(time.time(), newest.meta["unixtime"] + 1e-3 if newest else 0)

    def _publish(self, draft, verbosity):
        folder = draft.path
        (folder / RUN).write_text(json.dumps(self.fingerprint), encoding="utf-8")
        listed = {p.name: [p.stat().st_size, file_digest(p)] for p in folder.iterdir()}
        (folder / FILES).write_text(json.dumps(listed), encoding="utf-8")
        for path in (*folder.iterdir(), folder):
            sync(path)
        final = folder.with_name(folder.name.removeprefix(UNFINISHED))
        if final.exists():  # of this name: one that a caller chose
            shutil.rmtree(final)
        os.rename(folder, final)
        sync(self.checkpoints_dir)
        logger.log(verbosity, f"Saved a checkpoint in {final}")
        files = {name: final / path.name for name, path in draft.paramfiles.items()}
        return draft._replace(path=final, paramfiles=files)

    def _is_full(self, fault):
        """Whether a write failed for want of room. What torch raises does not say."""
        if isinstance(fault, OSError):
            return fault.errno in FULL
        if not isinstance(fault, RuntimeError) or not if_main_process():
            return False
        probe = self.checkpoints_dir / f"{UNFINISHED}probe"
        try:
            with open(probe, "wb") as file:
                file.write(bytes(2**20))
                os.fsync(file.fileno())
        except OSError as second:
            return second.errno in FULL
        finally:
            probe.unlink(missing_ok=True)
        return False

    def _remove_leftovers(self):
        """Delete what a killed process has begun to write, or to delete.

        No collective call: behind a fault the other ranks are elsewhere.
        """
        if not if_main_process():
            return
        for path in self.checkpoints_dir.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # --------------------------------------------------------------------- recover

    def recover_if_possible(
        self, importance_key=None, max_key=None, min_key=None, ckpt_predicate=None
    ):
        """Load the newest checkpoint (or the best by a key) that is whole.

        Damaged ones are named in a warning, and renamed.

        Returns
        -------
        Checkpoint
            None if there is none at all.

        Raises
        ------
        DamagedCheckpoint
            There are some, and none is whole; each with what is wrong with it.
        AnotherRun
            It has another fingerprint; what differs, with both values.
        """
        keys = (importance_key, max_key, min_key, ckpt_predicate)
        chosen = ddp_broadcast(self._choose(*keys) if if_main_process() else None)
        if chosen is None:
            logger.info(f"{self.checkpoints_dir}: no checkpoint yet")
            return None
        self._refuse_another_run(chosen.path)
        self.load_checkpoint(chosen)
        return chosen

    def list_checkpoints(self):
        """All checkpoints whose metadata can be read."""
        folders = [path for path in self._folders() if metadata_damage(path) is None]
        return self._construct_checkpoint_objects(folders)

    def load_checkpoint(self, checkpoint):
        """As SpeechBrain's, tensors and plain values only."""
        for name, obj in self.recoverables.items():
            if get_default_hook(obj, DEFAULT_LOAD_HOOKS) is torch_recovery:
                self.custom_load_hooks.setdefault(name, _load_state)
        super().load_checkpoint(checkpoint)

    def _folders(self):
        return [p for p in self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*") if p.is_dir()]

    def _choose(self, *keys):
        self._remove_leftovers()
        faults = {path: metadata_damage(path) for path in self._folders()}
        faults = {path: fault for path, fault in faults.items() if fault}
        for found in self.find_checkpoints(*keys):
            fault = damage(found.path)
            if fault is None:
                break
            faults[found.path] = fault
        else:
            found = None
        lines = [f"{path}: {fault}" for path, fault in sorted(faults.items())]
        if faults and found is None:
            raise DamagedCheckpoint(
                "No checkpoint is whole; remove them to begin anew:\n  "
                + "\n  ".join(lines)
            )
        for path, line in zip(sorted(faults), lines):
            logger.warning(f"damaged: {line}; {found.path.name} is used.")
            os.rename(path, _prefixed(path, DAMAGED))
        return found

    def _refuse_another_run(self, folder):
        if self.fingerprint is None:
            return
        theirs = json.loads((folder / RUN).read_text(encoding="utf-8"))
        if differing := differences(theirs or {}, self.fingerprint):
            raise AnotherRun(
                f"{folder} is of another run; give another output_folder, or the "
                "settings it was started with:\n  " + "\n  ".join(differing)
            )


def _load_state(obj, path, end_of_epoch):
    """Load hook for everything with a ``load_state_dict``."""
    obj.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def _prefixed(path, prefix):
    return path.with_name(f"{prefix}{path.name}")

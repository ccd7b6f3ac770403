"""Checkpoints that survive a kill at any moment, and that record which run wrote them.

A checkpoint is a folder. It is written under a temporary name, synced to disk, and
renamed once it is complete. Besides SpeechBrain's files it holds the size and digest of
every file, and the fingerprint of the run.
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

DAMAGED = "damaged."  # prefix of the name of a damaged checkpoint
RUN = "run.json"  # file with the fingerprint of the run
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DamagedCheckpoint(RuntimeError):
    """There are checkpoints, but every one of them is damaged."""


class AnotherRun(ValueError):
    """The checkpoint was written with other settings, architecture or data."""


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer for runs that may be killed and disks that may fill up.

    Used like SpeechBrain's, but which checkpoints are kept is set here once; what the
    calls of ``save_and_keep_only`` ask for is ignored.

    Arguments
    ---------
    checkpoints_dir : str or Path
        Folder of the checkpoints.
    recoverables : dict
        Name → object to save.
    keep_last : int
        How many of the newest checkpoints to keep; at least 2, so that there is another
        one if the newest is damaged.
    keep_best : str
        Metadata key; the checkpoint with its lowest value is kept as well.
    milestone_interval : int
        Epochs between checkpoints that are kept forever; 0 for none.
    fingerprint : dict
        From :func:`fingerprint`. A checkpoint with a different one is refused.

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
        """Register objects to save; unlike SpeechBrain's, it records them as required."""
        for name, obj in recoverables.items():
            self.add_recoverable(name, obj)

    # ------------------------------------------------------------------------ save

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """Write a checkpoint under a temporary name, and rename it once it is complete.

        Returns
        -------
        Checkpoint
            None on all ranks but the main process.

        Raises
        ------
        OSError
            The disk is full; earlier checkpoints are untouched.
        """
        meta = {**(meta or {}), "unixtime": self._now()}
        try:
            draft = super().save_checkpoint(meta, end_of_epoch, name, logging.DEBUG)
            return self._publish(draft, verbosity) if if_main_process() else None
        except Exception as error:
            disk_is_full = self._is_disk_full(error)
            self._remove_leftovers()
            if not disk_is_full:
                raise
            found = self.find_checkpoint()
            raise OSError(
                errno.ENOSPC,
                f"{self.checkpoints_dir}: the disk is full, no checkpoint was written. "
                "Free some space and run the same command again: it will continue from "
                f"{found.path.name if found else 'the beginning'}",
            ) from error
        except BaseException:
            self._remove_leftovers()
            raise

    def save_and_keep_only(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO, **_
    ):
        """Save, then delete the checkpoints that are not to be kept."""
        self.save_checkpoint(meta, end_of_epoch, name, verbosity)
        self.thin()

    @main_process_only
    def thin(self):
        """Delete all checkpoints but the newest, the best and the milestones."""
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
                # Renamed first: a kill must not leave half a checkpoint.
                renamed = _prefixed(checkpoint.path, UNFINISHED)
                os.rename(checkpoint.path, renamed)
                shutil.rmtree(renamed)

    def _new_checkpoint_dirpath(self):
        return _prefixed(super()._new_checkpoint_dirpath(), UNFINISHED)

    def _custom_checkpoint_dirpath(self, name):
        return _prefixed(super()._custom_checkpoint_dirpath(name), UNFINISHED)

    def _now(self):
        """The time; later than the newest checkpoint even if the clock was set back."""
        newest = self.find_checkpoint() if if_main_process() else None
        return max(time.time(), newest.meta["unixtime"] + 1e-3 if newest else 0)

    def _publish(self, draft, verbosity):
        folder = draft.path
        (folder / RUN).write_text(json.dumps(self.fingerprint), encoding="utf-8")
        files = {p.name: [p.stat().st_size, file_digest(p)] for p in folder.iterdir()}
        (folder / FILES).write_text(json.dumps(files), encoding="utf-8")
        for path in (*folder.iterdir(), folder):
            sync(path)
        final = folder.with_name(folder.name.removeprefix(UNFINISHED))
        if final.exists():  # the caller chose a name that is in use
            shutil.rmtree(final)
        os.rename(folder, final)
        sync(self.checkpoints_dir)
        logger.log(verbosity, f"Saved a checkpoint in {final}")
        files = {name: final / path.name for name, path in draft.paramfiles.items()}
        return draft._replace(path=final, paramfiles=files)

    def _is_disk_full(self, error):
        """Whether a write failed because the disk is full, which torch does not say."""
        if isinstance(error, OSError):
            return error.errno in DISK_FULL
        if not isinstance(error, RuntimeError) or not if_main_process():
            return False
        probe = self.checkpoints_dir / f"{UNFINISHED}probe"
        try:
            with open(probe, "wb") as file:
                file.write(bytes(2**20))
                os.fsync(file.fileno())
        except OSError as probe_error:
            return probe_error.errno in DISK_FULL
        finally:
            probe.unlink(missing_ok=True)
        return False

    def _remove_leftovers(self):
        """Delete what a killed process was writing or deleting.

        Not a collective call: after an error the other ranks are elsewhere.
        """
        if not if_main_process():
            return
        for path in self.checkpoints_dir.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # --------------------------------------------------------------------- recover

    def recover_if_possible(
        self, importance_key=None, max_key=None, min_key=None, ckpt_predicate=None
    ):
        """Load the newest undamaged checkpoint, or the best one by a key.

        Damaged ones are named in a warning, and renamed.

        Returns
        -------
        Checkpoint
            None if there is no checkpoint at all.

        Raises
        ------
        DamagedCheckpoint
            All checkpoints are damaged; lists what is wrong with each.
        AnotherRun
            The checkpoint has another fingerprint; lists what differs, with both values.
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
        """As SpeechBrain's, but unpickles only tensors and plain values."""
        for name, obj in self.recoverables.items():
            if get_default_hook(obj, DEFAULT_LOAD_HOOKS) is torch_recovery:
                self.custom_load_hooks.setdefault(name, _load_state)
        super().load_checkpoint(checkpoint)

    def _folders(self):
        return [p for p in self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*") if p.is_dir()]

    def _choose(self, *keys):
        self._remove_leftovers()
        problems = {path: metadata_damage(path) for path in self._folders()}
        problems = {path: problem for path, problem in problems.items() if problem}
        for found in self.find_checkpoints(*keys):
            problem = damage(found.path)
            if problem is None:
                break
            problems[found.path] = problem
        else:
            found = None
        lines = [f"{path}: {problem}" for path, problem in sorted(problems.items())]
        if problems and found is None:
            raise DamagedCheckpoint(
                "All checkpoints are damaged; remove them to start from scratch:\n  "
                + "\n  ".join(lines)
            )
        for path, line in zip(sorted(problems), lines):
            logger.warning(f"Damaged checkpoint {line}; {found.path.name} is used.")
            os.rename(path, _prefixed(path, DAMAGED))
        return found

    def _refuse_another_run(self, folder):
        if self.fingerprint is None:
            return
        theirs = json.loads((folder / RUN).read_text(encoding="utf-8"))
        if differing := differences(theirs or {}, self.fingerprint):
            raise AnotherRun(
                f"{folder} belongs to another run; give another output_folder, or the "
                "settings that run was started with:\n  " + "\n  ".join(differing)
            )


def _load_state(obj, path, end_of_epoch):
    """Load hook for any object with a ``load_state_dict``."""
    obj.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def _prefixed(path, prefix):
    return path.with_name(f"{prefix}{path.name}")

"""Checkpoints that survive a kill at any moment, and that record which run wrote them.

A checkpoint is a folder. It is written under a temporary name, synced to disk, and
renamed once it is complete. Besides SpeechBrain's files it holds the size and digest of
every file, and the fingerprint of the run. A checkpoint that SpeechBrain's own
checkpointer wrote is loaded like any other.
"""

import errno
import json
import logging
import os
import shutil
import time
import warnings

import torch
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    DEFAULT_LOAD_HOOKS,
    Checkpointer,
    ckpt_recency,
    get_default_hook,
    hook_on_loading_state_dict_checkpoint,
    torch_recovery,
)
from speechbrain.utils.distributed import (
    ddp_broadcast,
    if_main_process,
    main_process_only,
)
from speechbrain.utils.logger import get_logger

from ..errors import InputError
from .files import UNFINISHED, disk_is_full, prefixed, sync
from .integrity import FILES, RUN, file_digest, metadata_damage, plain_metadata
from .recovery import first_undamaged, refuse_another_run
from .retention import delete, superfluous

logger = get_logger(__name__)


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer for runs that may be killed and disks that may fill up.

    Used like SpeechBrain's. What a call of ``save_and_keep_only`` asks to keep is kept,
    and the newest and the milestones besides.

    Arguments
    ---------
    checkpoints_dir : str or Path
        Folder of the checkpoints.
    recoverables : dict
        Name → object to save.
    keep_last : int
        How many of the newest checkpoints to keep; at least 2, so that there is another
        one if the newest is damaged. During an epoch there may be as many more, since
        SpeechBrain lets an intra-epoch checkpoint take the place of such ones only.
    milestone_interval : int
        Epochs between checkpoints that are kept forever; 0 for none.
    fingerprint : dict
        From :func:`fingerprint`. A checkpoint with a different one is refused.

    Raises
    ------
    InputError
        ``keep_last`` below 2.
    """

    def __init__(
        self,
        checkpoints_dir,
        recoverables=None,
        keep_last=2,
        milestone_interval=0,
        fingerprint=None,
    ):
        if keep_last < 2:
            raise InputError(f"keep_last: must be 2 or more, got {keep_last}")
        super().__init__(checkpoints_dir, recoverables)
        self.keep_last, self.milestone_interval = keep_last, milestone_interval
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
        TypeError
            Metadata that could not be read back; names the key.
        """
        meta = {**plain_metadata(meta or {}), "unixtime": self._now()}
        try:
            draft = super().save_checkpoint(meta, end_of_epoch, name, logging.DEBUG)
            return self._publish(draft, verbosity) if if_main_process() else None
        except Exception as error:
            is_full = if_main_process() and disk_is_full(error, self.checkpoints_dir)
            self._remove_leftovers()
            if not is_full:
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
        self,
        meta=None,
        end_of_epoch=True,
        name=None,
        num_to_keep=1,
        keep_recent=True,
        importance_keys=(),
        max_keys=(),
        min_keys=(),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Save, then delete the checkpoints that are not to be kept.

        The arguments are SpeechBrain's; see also :meth:`delete_checkpoints`.
        """
        self.save_checkpoint(meta, end_of_epoch, name, verbosity)
        self.delete_checkpoints(
            num_to_keep=num_to_keep,
            min_keys=min_keys,
            max_keys=max_keys,
            importance_keys=[*importance_keys, *[ckpt_recency] * keep_recent],
            ckpt_predicate=ckpt_predicate,
            verbosity=verbosity,
        )

    @main_process_only
    def delete_checkpoints(
        self,
        *,
        num_to_keep=1,
        min_keys=None,
        max_keys=None,
        importance_keys=(ckpt_recency,),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """As SpeechBrain's, but the newest checkpoints and the milestones are kept, too.

        Raises
        ------
        ValueError
            A negative ``num_to_keep``.
        """
        if num_to_keep < 0:
            raise ValueError(f"num_to_keep: must be 0 or more, got {num_to_keep}")
        orders = [{"min_key": key} for key in min_keys or ()]
        orders += [{"max_key": key} for key in max_keys or ()]
        orders += [{"importance_key": key} for key in importance_keys]
        for folder in superfluous(self, orders, num_to_keep, ckpt_predicate):
            delete(folder)
            logger.log(verbosity, f"Deleted checkpoint in {folder}")

    def _new_checkpoint_dirpath(self):
        return prefixed(super()._new_checkpoint_dirpath(), UNFINISHED)

    def _custom_checkpoint_dirpath(self, name):
        return prefixed(super()._custom_checkpoint_dirpath(name), UNFINISHED)

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
            No checkpoint is whole; lists what is wrong with each.
        AnotherRun
            The checkpoint has another fingerprint; lists what differs, with both values.
        """
        keys = (importance_key, max_key, min_key, ckpt_predicate)
        chosen = ddp_broadcast(self._choose(*keys) if if_main_process() else None)
        if chosen is None:
            logger.debug(f"{self.checkpoints_dir}: no checkpoint yet")
            return None
        refuse_another_run(chosen.path, self.fingerprint)
        self.load_checkpoint(chosen)
        return chosen

    def list_checkpoints(self):
        """All checkpoints whose metadata can be read."""
        folders = [path for path in self._folders() if metadata_damage(path) is None]
        return self._construct_checkpoint_objects(folders)

    def load_checkpoint(self, checkpoint):
        """As SpeechBrain's, but unpickles only tensors and plain values, and logs which
        optional recoverables have no file and stay as they are."""
        for name, obj in self.recoverables.items():
            if get_default_hook(obj, DEFAULT_LOAD_HOOKS) is torch_recovery:
                self.custom_load_hooks.setdefault(name, _load_state)
        for name in sorted(self.recoverables.keys() - checkpoint.paramfiles.keys()):
            if self.optional_recoverables.get(name):
                logger.warning(
                    f"{checkpoint.path} has no {name}.ckpt: it starts afresh"
                )
        with warnings.catch_warnings():  # SpeechBrain's says the same, less clearly
            warnings.filterwarnings("ignore", "Trying to load")
            super().load_checkpoint(checkpoint)

    def _folders(self):
        return [p for p in self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*") if p.is_dir()]

    def _choose(self, *keys):
        self._remove_leftovers()
        return first_undamaged(
            self.find_checkpoints(*keys), self._folders(), self._required()
        )

    def _required(self):
        """The recoverables without which SpeechBrain would not load a checkpoint."""
        return [
            name
            for name in self.recoverables
            if not self.optional_recoverables.get(name) and "dataloader" not in name
        ]


def _load_state(obj, path, end_of_epoch):
    """Load hook for any object with a ``load_state_dict``."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    obj.load_state_dict(hook_on_loading_state_dict_checkpoint(state))

"""Which checkpoints of a folder are kept."""

import os
import shutil

from .files import UNFINISHED, prefixed


def superfluous(checkpointer, orders, num_to_keep, ckpt_predicate=None):
    """The checkpoints that neither their checkpointer nor a caller of it wants to keep.

    Arguments
    ---------
    checkpointer : AtomicCheckpointer
        Keeps its ``keep_last`` newest checkpoints, and the milestones.
    orders : list of dict
        Each is an argument of ``find_checkpoints``: ``min_key``, ``max_key`` or
        ``importance_key``. The first ``num_to_keep`` in each order are kept, and so is
        a checkpoint that is in none of them.
    num_to_keep : int
        0 or more.
    ckpt_predicate : callable
        Checkpoint → whether it may be deleted at all.

    Returns
    -------
    list of Path
        Their folders.
    """
    newest = checkpointer.find_checkpoints(max_num_checkpoints=checkpointer.keep_last)
    kept, ranked = _folders(newest), set()
    for order in orders:
        found = checkpointer.find_checkpoints(**order, ckpt_predicate=ckpt_predicate)
        kept |= _folders(found[:num_to_keep])
        ranked |= _folders(found)
    if interval := checkpointer.milestone_interval:
        existing = checkpointer.list_checkpoints()
        kept |= _folders(c for c in existing if _is_milestone(c.meta, interval))
    return sorted(ranked - kept)


def _folders(checkpoints):
    # Not the checkpoints: with a NaN in its metadata, one does not equal itself.
    return {checkpoint.path for checkpoint in checkpoints}


def _is_milestone(meta, interval):
    return meta["end-of-epoch"] and "epoch" in meta and meta["epoch"] % interval == 0


def delete(folder):
    """Delete a checkpoint; a kill must not leave half of one, so it is renamed first."""
    renamed = prefixed(folder, UNFINISHED)
    os.rename(folder, renamed)
    shutil.rmtree(renamed)

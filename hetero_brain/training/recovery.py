"""Which checkpoint a run goes on from, and which ones it refuses."""

import json
import os

from speechbrain.utils.logger import get_logger

from ..errors import InputError
from .files import prefixed
from .fingerprint import differences
from .integrity import RUN, damage, metadata_damage, written_by_speechbrain

logger = get_logger(__name__)

DAMAGED = "damaged."  # prefix of the name of a damaged checkpoint


class DamagedCheckpoint(InputError, RuntimeError):
    """There are checkpoints, but every one of them is damaged, or another recipe's."""


class AnotherRun(InputError):
    """The checkpoint was written with other settings, architecture or data."""


def first_undamaged(candidates, folders, names):
    """The first of some checkpoints that is whole.

    Damaged ones that were found on the way are named in a warning, and renamed.

    Arguments
    ---------
    candidates : list of Checkpoint
        In the order of preference.
    folders : list of Path
        Of all checkpoints, those included whose metadata cannot be read.
    names : list of str
        What a checkpoint must hold, as for :func:`damage`.

    Returns
    -------
    Checkpoint
        None if there is no checkpoint at all.

    Raises
    ------
    DamagedCheckpoint
        None is whole; lists what is wrong with each.
    """
    problems = {path: metadata_damage(path) for path in folders}
    problems = {path: problem for path, problem in problems.items() if problem}
    for found in candidates:
        problem = damage(found.path, names)
        if problem is None:
            break
        problems[found.path] = problem
    else:
        found = None
    lines = [f"{path}: {problem}" for path, problem in sorted(problems.items())]
    if problems and found is None:
        raise DamagedCheckpoint(
            "No checkpoint here can be loaded; remove them, or give another "
            "output_folder, to start from scratch:\n  " + "\n  ".join(lines)
        )
    for path, line in zip(sorted(problems), lines):
        logger.warning(f"Damaged checkpoint {line}; {found.path.name} is used.")
        os.rename(path, prefixed(path, DAMAGED))
    return found


def refuse_another_run(folder, fingerprint, whole=True):
    """Compare the fingerprint of a checkpoint with that of this run, if it has any.

    Arguments
    ---------
    folder : Path
        The checkpoint.
    fingerprint : dict
        Of this run; None if it has none.
    whole : bool
        False: only the keys of ``fingerprint`` are known yet.

    Raises
    ------
    AnotherRun
        They differ; lists what differs, with both values.
    """
    if fingerprint is None:
        return
    if written_by_speechbrain(folder):
        logger.warning(
            f"{folder} does not record the settings that it was written with"
        )
        return
    theirs = json.loads((folder / RUN).read_text(encoding="utf-8")) or {}
    if not whole:
        theirs = {key: value for key, value in theirs.items() if key in fingerprint}
    if differing := differences(theirs, fingerprint):
        raise AnotherRun(
            f"{folder} belongs to another run; give another output_folder, or the "
            "settings that run was started with:\n  " + "\n  ".join(differing)
        )

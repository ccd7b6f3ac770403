"""What a phase or a fine-tuning run leaves for model folders."""

import json
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from speechbrain.utils.logger import get_logger

from ..errors import InputError, MissingData
from ..training.checkpoints import AtomicCheckpointer
from ..training.files import write_atomically
from ..training.integrity import damage

logger = get_logger(__name__)

RUN_MODEL = "model.json"  # written at the start of a run, beside its save folder
NONE = type(None)
TRIES = 5  # to read checkpoints before a run deletes them


def settled(read):
    """Decorate a function that reads checkpoints: it is called again if the run that
    writes them, and goes on, has just deleted one of them.

    Arguments
    ---------
    read : callable
        Raises FileNotFoundError then.
    """

    @wraps(read)
    def settled_read(*args, **kwargs):
        for _ in range(TRIES - 1):
            try:
                return read(*args, **kwargs)
            except MissingData:  # which says what there is not
                raise
            except FileNotFoundError:
                continue
        return read(*args, **kwargs)

    return settled_read


@contextmanager
def unless_deleted(folder):
    """Within this block a folder is read. If an error is due to its having been deleted
    meanwhile, that is a plain FileNotFoundError, for :func:`settled`."""
    try:
        yield
    except InputError as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(f"{folder} was deleted while it was read") from error


def write_run(folder, hyperparams, epochs, score, facts):
    """Describe the model that a run trains.

    Arguments
    ---------
    folder : Path
        Of the phase or fine-tuning run.
    hyperparams : str
        The ``hyperparams.yaml`` of its model folders.
    epochs : int
        How many it will train.
    score : str
        Metadata key of its checkpoints of which the lowest is the best, or None.
    facts : dict
        What its model card says; see ``pipelines/model_card.py``.
    """
    record = dict(hyperparams=hyperparams, epochs=epochs, score=score, facts=facts)
    text = json.dumps(record, ensure_ascii=False, indent=1)
    write_atomically(folder / RUN_MODEL, text.encode())


def read_run(folder):
    """What :func:`write_run` has written, as a dict; InputError if it is damaged."""
    path = folder / RUN_MODEL
    try:
        record = json.loads(path.read_text("utf-8"))
        kinds = dict(hyperparams=(str, NONE), epochs=int, score=(str, NONE), facts=dict)
        for key, kind in kinds.items():
            if not isinstance(record[key], kind):
                raise ValueError(f"{key}: {record[key]!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged ({error}); run once more the command that made it"
        ) from error
    return record


def checkpoints(folder, **keys):
    """The undamaged checkpoints of a run, newest first, or best first.

    Arguments
    ---------
    folder : str or Path
        Of the run, or its ``save`` folder.
    **keys
        ``min_key`` of SpeechBrain's ``find_checkpoints``, which leaves out those without
        the key.

    Yields
    ------
    Checkpoint
    """
    for candidate in (Path(folder, "save"), Path(folder)):
        if candidate.is_dir():
            for found in AtomicCheckpointer(candidate).find_checkpoints(**keys):
                fault = damage(found.path)
                if fault is None:
                    yield found
                else:
                    logger.warning(
                        f"damaged: {found.path}: {fault}; the one before is used."
                    )


def choose_checkpoint(folder, score=None):
    """The folder of a run's newest checkpoint, or of the best one by a score.

    Raises
    ------
    InputError
        There is no checkpoint.
    """
    if score is not None:
        for found in checkpoints(folder, min_key=score):
            return found.path
    for found in checkpoints(folder):
        return found.path
    raise InputError(f"{folder}: no checkpoint yet: its training has only begun")


def progress(folder):
    """Epochs that a run has begun or finished, all of them, and whether that is all.

    Returns
    -------
    epoch, epochs : int
    finished : bool

    Raises
    ------
    InputError
        The newest checkpoint does not say its epoch.
    """
    epochs = read_run(folder)["epochs"]
    for found in checkpoints(folder):
        epoch = epoch_of(found)
        is_last = epoch >= epochs or found.meta.get("stopped", False)
        return epoch, epochs, found.meta["end-of-epoch"] and is_last
    return 0, epochs, False


def epoch_of(checkpoint):
    """The epoch that a checkpoint is of; InputError if it does not say it."""
    try:
        return int((checkpoint.path / "counter.ckpt").read_text())
    except (OSError, ValueError) as error:
        if not checkpoint.path.is_dir():
            raise  # see settled
        raise InputError(
            f"{checkpoint.path}: damaged: counter.ckpt: {error}"
        ) from error


def newest(folder):
    """The newest checkpoint of a run whose metadata can be read, or None: faster than
    :func:`checkpoints`, which reads all files."""
    save = Path(folder, "save")
    return AtomicCheckpointer(save).find_checkpoint() if save.is_dir() else None


def warn_of_unfinished(folder):
    """Log a warning if a run is still running or was left unfinished."""
    epoch, epochs, finished = progress(folder)
    if not finished:
        logger.warning(
            f"{folder} is unfinished: epoch {epoch} of {epochs}. It is used as it is now."
        )

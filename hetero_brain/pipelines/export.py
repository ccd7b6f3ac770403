"""Model folders from runs: at their end, and on demand from any of their checkpoints."""

from pathlib import Path

from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.distributed import run_on_main

from ..errors import InputError
from ..models.model_folder import TOKENIZER, find_model
from ..models.model_writing import write_model
from ..models.run_folder import (
    RUN_MODEL,
    checkpoints,
    choose_checkpoint,
    progress,
    read_run,
    settled,
    warn_of_unfinished,
)
from .model_card import model_card

CHOICES = ("last", "best", "average")


def export(run, folder, checkpoint=None, n=5):
    """Write a model folder from a phase or a fine-tuning run, at any time.

    A run that is still running, or was left unfinished, is exported with a warning.

    Arguments
    ---------
    run : str or Path
        The folder of a phase or of a fine-tuning run.
    folder : str or Path
        The model folder to write. It may exist if it is one, which is replaced.
    checkpoint : str
        ``last``; ``best``, of a fine-tuning run: that with the lowest CER on dev; or
        ``average``: the mean of the n best or, of a phase, the n newest. Default: what
        the run itself uses, the last of a phase and the best of a fine-tuning run.
    n : int
        Checkpoints to average at most; a run keeps its ``keep_last`` newest ones.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        ``run`` is not the folder of a run, has no checkpoint yet, or is a phase, which
        has no best one; or ``folder`` exists and is not a model folder.
    """
    if checkpoint not in (None, *CHOICES):
        raise InputError(
            f"checkpoint: {checkpoint}; choose one of {', '.join(CHOICES)}"
        )
    return export_now(Path(run), Path(folder), checkpoint, n)


@settled
def export_now(run, folder, checkpoint, n):
    """As :func:`export`, of the checkpoints that there are."""
    if phases := [path.parent.name for path in sorted(run.glob(f"*/{RUN_MODEL}"))]:
        raise InputError(f"{run}: give one of its phases: {', '.join(phases)}")
    if not (run / RUN_MODEL).exists():
        raise InputError(
            f"{run}: no {RUN_MODEL}: not the folder of a phase or of a fine-tuning run, "
            "or one of a version that did not describe its models: run its command again"
        )
    record, values = read_run(run), find_model(run).values
    score = record["score"]
    if checkpoint == "best" and score is None:
        raise InputError(f"{run}: a phase has no best checkpoint; take last or average")
    warn_of_unfinished(run)
    names = list(values["pretrainer"].arguments["loadables"])
    if checkpoint == "average":
        weights, source = averaged(run, score, n, names)
    else:
        path = choose_checkpoint(run, None if checkpoint == "last" else score)
        weights = {f"{name}.ckpt": path / f"{name}.ckpt" for name in names}
        source = path.name
    if "tokenizer" in names:
        weights[TOKENIZER] = run / "tokenizer.model"
    evaluated = score is not None and checkpoint in (None, "best")
    rates = sorted(run.glob("*.json")) if evaluated else []
    rates = [path for path in rates if path.name != RUN_MODEL]
    epoch, epochs, finished = progress(run)
    state = "" if finished else f" It is unfinished: epoch {epoch} of {epochs}."
    try:
        card = model_card(record["facts"], f"{source}.{state}", rates, folder.name)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{run / RUN_MODEL}: facts: no model card: {error!r}"
        ) from error
    write_model(folder, record["hyperparams"], weights, card)
    return folder


def averaged(run, score, n, names):
    """The mean state of each module over some checkpoints, and which they are."""
    found = [*checkpoints(run, **({"min_key": score} if score else {}))][:n]
    if not found:
        choose_checkpoint(run)  # raises an error if there is none at all
        raise InputError(f"{run}: no checkpoint has a {score} yet; take last")
    states = {
        f"{name}.ckpt": average_checkpoints(found, name)
        for name in names
        if name != "tokenizer"
    }
    return states, f"the mean of {', '.join(sorted(c.path.name for c in found))}"


def export_at_end(folder):
    """Write ``<folder>/model`` of a run that has ended, if it can be described."""

    def write():
        if read_run(folder)["hyperparams"] is not None:
            export(folder, folder / "model")

    run_on_main(write)

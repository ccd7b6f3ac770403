"""Model folders from runs: at their end, and on demand from any of their checkpoints."""

from pathlib import Path


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
    raise NotImplementedError(Path(run), Path(folder), checkpoint, n)

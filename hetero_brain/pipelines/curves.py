"""Learning curves of runs, from their logs, as PNGs."""

import io
import logging
from collections import defaultdict
from pathlib import Path

from ..training.loggers import JsonLinesLogger

# Label of a panel → the stage of an entry, and the names that its figures have.
LOSSES = {
    "training loss at θ (nats)": ("train", "loss", "loss_at_theta"),
    "dev loss at θ (nats)": ("valid", "loss"),
}
PHASES = LOSSES | {
    "local gain (nats)": ("train", "local_gain"),
    "update angle (degrees)": ("train", "update_angle"),
    "‖φ − θ‖ / ‖Δθ‖": ("train", "step_ratio"),
}
FINETUNING = {
    "training loss (nats)": ("train", "loss"),
    "dev loss (nats)": ("valid", "loss"),
    "dev CER (%)": ("valid", "CER"),
    "dev WER (%)": ("valid", "WER"),
}


def plot_phases(folder, path):
    """Plot the figures of every phase in a folder, per domain: losses, and in PTLOC
    phases local gains, update angles and lengths of the local solves.

    Arguments
    ---------
    folder : str or Path
        Output folder of pre-training, with ``<phase>/log.jsonl``.
    path : str or Path
        The PNG to write.

    Returns
    -------
    matplotlib.figure.Figure or None
        A column for each phase, in the order of their last entries; None, and no PNG, if
        no phase has an entry yet.
    """
    logs = sorted(Path(folder).glob("*/log.jsonl"), key=lambda p: p.stat().st_mtime)
    if not logs:
        return None
    return plot(
        {log.parent.name: JsonLinesLogger.read(log) for log in logs}, PHASES, path
    )


def plot_finetuning(folder, path):
    """Plot losses and error rates of a fine-tuning run, per domain.

    Arguments
    ---------
    folder : str or Path
        Its output folder, with ``log.jsonl``.
    path : str or Path
        The PNG to write.

    Returns
    -------
    matplotlib.figure.Figure
    """
    folder = Path(folder)
    entries = JsonLinesLogger.read(folder / "log.jsonl")
    return plot({folder.name: entries}, FINETUNING, path)


def plot(logs, panels, path):
    """Plot figures of logs over the iterations, with a curve for each domain.

    Arguments
    ---------
    logs : dict
        Title of a column → entries of a log, from :meth:`JsonLinesLogger.read`.
    panels : dict
        Label of a row → stage of its figures, and the names they may have. The panels of
        a row have the same limits; one without any curve is left out.
    path : str or Path
        The PNG to write.

    Returns
    -------
    matplotlib.figure.Figure
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # else it logs each font
    from matplotlib.figure import Figure  # needs no display, unlike pyplot

    size = 4 * len(logs), 2.8 * len(panels)
    figure = Figure(figsize=size, layout="tight")
    axes = figure.subplots(len(panels), len(logs), squeeze=False)
    for column, (title, entries) in zip(axes.T, logs.items()):
        column[0].set_title(title)
        for axis, (label, (stage, *names)) in zip(column, panels.items()):
            for domain, points in sorted(curves(entries, stage, names).items()):
                axis.plot(*zip(*points), label=domain, marker="." * (len(points) == 1))
            axis.set_visible(bool(axis.lines) or axis is column[0])
            axis.set_xlabel("iteration")
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
    for row in axes:
        drawn = [axis for axis in row if axis.lines]
        limits = [axis.get_ylim() for axis in drawn]
        for axis in drawn:
            axis.set_ylim(min(limits)[0], max(high for _, high in limits))
    if axes[0, 0].lines:
        axes[0, 0].legend()
    image = io.BytesIO()
    figure.savefig(image, dpi=110)
    Path(path).write_bytes(image.getvalue())  # at once: phases may run in parallel
    return figure


def curves(entries, stage, names):
    """Domain → its (iteration, value) pairs of a figure, which has one of some names, in
    the entries of a log."""
    found = defaultdict(list)
    for entry in entries:
        for key, value in entry.get(stage, {}).items():
            name, _, domain = key.partition("/")
            if name in names and domain:
                found[domain].append((entry["iteration"], value))
    return found

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
        a row have the same limits. What has no curve is left out.
    path : str or Path
        The PNG to write.

    Returns
    -------
    matplotlib.figure.Figure
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # else it logs each font
    from matplotlib.figure import Figure  # needs no display, unlike pyplot

    found = {
        label: [curves(entries, stage, names) for entries in logs.values()]
        for label, (stage, *names) in panels.items()
    }
    rows = {label: row for label, row in found.items() if any(row)} or found
    first = next(iter(rows))  # its panels carry the titles
    # Fixed margins, since a layout that measures all texts takes as long as drawing them.
    width, height = 4 * len(logs) + 0.8, 2.8 * len(rows) + 0.8
    margins = {"left": 0.9 / width, "right": 1 - 0.1 / width, "wspace": 0.08}
    margins |= {"bottom": 0.5 / height, "top": 1 - 0.3 / height, "hspace": 0.15}
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(
        len(rows), len(logs), squeeze=False, sharey="row", gridspec_kw=margins
    )
    for axis, title in zip(axes[0], logs):
        axis.set_title(title)
    for row, (label, columns) in zip(axes, rows.items()):
        shown = [a for a, drawn in zip(row, columns) if drawn or label == first]
        for axis, drawn in zip(row, columns):
            axis.set_visible(axis in shown)
            for domain, points in sorted(drawn.items()):
                axis.plot(*zip(*points), label=domain, marker="." * (len(points) == 1))
            axis.locator_params(nbins=4)
            axis.grid(alpha=0.3)
        shown[0].set_ylabel(label)
        shown[0].tick_params(labelleft=True)
    for column in axes.T:
        [axis for axis in column if axis.get_visible()][-1].set_xlabel("iteration")
    if drawn := [axis for axis in axes.flat if axis.lines]:
        drawn[0].legend()
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

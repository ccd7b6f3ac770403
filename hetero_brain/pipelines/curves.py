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
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # needs no display, unlike pyplot

    found = {
        label: [curves(entries, stage, names) for entries in logs.values()]
        for label, (stage, *names) in panels.items()
    }
    rows = {label: row for label, row in found.items() if any(row)} or found
    # Fixed margins, since a layout that measures all texts takes as long as drawing them.
    width, height = 4 * len(logs) + 0.8, 2.8 * len(rows) + 0.8
    margins = {"left": 0.9 / width, "right": 1 - 0.1 / width, "wspace": 0.08}
    margins |= {"bottom": 0.5 / height, "top": 1 - 0.3 / height, "hspace": 0.15}
    figure = Figure(figsize=(width, height))
    places = figure.add_gridspec(len(rows), len(logs), **margins)
    lowest = [None] * len(logs)  # panel of each column
    with rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        for i, (label, columns) in enumerate(rows.items()):
            left = None  # panel of this row
            for j, (title, drawn) in enumerate(zip(logs, columns)):
                if i and not drawn:  # the first row has all panels, for their titles
                    continue
                axis = lowest[j] = figure.add_subplot(places[i, j], sharey=left)
                axis.set_title(title if i == 0 else "")
                for domain, points in sorted(drawn.items()):
                    marker = "." * (len(points) == 1)
                    axis.plot(*zip(*points), label=domain, marker=marker)
                axis.locator_params(nbins=4)
                axis.tick_params(labelleft=left is None)
                left = left or axis
            left.set_ylabel(label)
    for axis in lowest:
        axis.set_xlabel("iteration")
    if drawn := [axis for axis in figure.axes if axis.lines]:
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

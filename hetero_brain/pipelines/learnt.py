"""What pre-training has learnt, in plain figures from its logs."""

import json
import math
import textwrap
from pathlib import Path
from statistics import fmean

from ..models.run_folder import RUN_MODEL
from ..training.loggers import JsonLinesLogger
from .curves import curves
from .tables import ABSENT, MAX_COLUMNS, aligned

CODES = "codebook size"  # the setting of a phase, in the facts of its model
COLUMNS = {  # of the table, and how their values are written
    "phase": str,
    "domain": str,
    "dev loss: first": "{:.2f}".format,
    "last": "{:.2f}".format,
    "accuracy": "{:.1%}".format,
    "local gain": "{:.3f}".format,
}


def chance(record):
    """The loss of guessing at masked labels, ln(codebook size), in nats.

    Arguments
    ---------
    record : dict
        What ``model.json`` of a phase holds.

    Returns
    -------
    float or None
        None of objectives without a codebook.
    """
    codes = record.get("facts", {}).get("settings", {}).get(CODES)
    return math.log(codes) if codes else None


def learnt(folder):
    """What each phase has learnt of each domain, as a table and a line that explains it.

    Arguments
    ---------
    folder : str or Path
        Output folder of pre-training, with ``<phase>/log.jsonl``.

    Returns
    -------
    str
        Empty if no phase has been validated yet. A phase of many domains has one row,
        their means.
    """
    logs = sorted(Path(folder).glob("*/log.jsonl"), key=lambda p: p.stat().st_mtime)
    rows, guess = [], None
    for log in logs:
        found = figures(JsonLinesLogger.read(log))
        if len(found) > MAX_COLUMNS:
            found = {f"mean of {len(found)}": means(found.values())}
        rows += [[log.parent.name, domain, *values] for domain, values in found.items()]
        guess = chance(json.loads((log.parent / RUN_MODEL).read_text("utf-8"))) or guess
    if not rows:
        return ""
    lines = [
        [ABSENT if v is None else form(v) for form, v in zip(COLUMNS.values(), row)]
        for row in rows
    ]
    kept = [i for i in range(len(COLUMNS)) if any(row[i] is not None for row in rows)]
    table = aligned([[line[i] for i in kept] for line in ([*COLUMNS], *lines)])
    names = [[*COLUMNS][i] for i in kept]
    return f"{table}\n\n{textwrap.fill(explanation(names, guess), 88)}"


def explanation(columns, guess):
    """The line below the table.

    Arguments
    ---------
    columns : list of str
        Those of :data:`COLUMNS` that the table has.
    guess : float or None
        The loss of guessing, if that is known.
    """
    texts = ["Dev losses are in nats, at a phase's first validation and at its last"]
    if guess:
        codes, accuracy = f"{math.exp(guess):.0f} codes", f"{math.exp(-guess):.1%}"
        texts[0] += f" (guessing among {codes}: loss {guess:.2f}, accuracy {accuracy})"
    if "accuracy" in columns:
        texts.append("Accuracies are those of training in the last epoch")
        if "local gain" in columns:
            texts[-1] += ", in PTLOC after the local steps"
    if "local gain" in columns:
        texts.append(
            "The local gain is what the local steps take off the loss of their own "
            "batch, in the last epoch"
        )
    return ". ".join([*texts, ""]).rstrip()


def figures(entries):
    """Domain → dev loss at the first validation and at the last, and the means over the
    last epoch of accuracy and local gain (None where not logged), from a log."""
    losses = curves(entries, "valid", ["loss"])
    last = [e for e in entries if e["epoch"] == entries[-1]["epoch"]]
    accuracies, gains = (
        {
            domain: fmean(value for _, value in points)
            for domain, points in curves(last, "train", [name]).items()
        }
        for name in ("accuracy", "local_gain")
    )
    return {
        domain: (points[0][1], points[-1][1], accuracies.get(domain), gains.get(domain))
        for domain, points in sorted(losses.items())
    }


def means(rows):
    """The mean of each column, without what is None."""
    columns = ([v for v in column if v is not None] for column in zip(*rows))
    return [fmean(column) if column else None for column in columns]

"""A look ahead: what a run will be like on its data, logged before it trains.

Where a setting does not suit the data, a warning names the key to change. How long a
phase takes is logged once, after :data:`PACED` of its iterations.
"""

import time
from typing import NamedTuple

from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from .doubts import count, doubts, equally_long, long_recordings
from .sampled_headers import (
    refuse_impossible,
    resampling,
    sampled_headers,
    sampled_rates,
)
from .tables import aligned

logger = get_logger(__name__)

PACED, FIRST = 20, 5  # iterations that are timed, but for the first, which are slow


class Length(NamedTuple):
    """How long a run is: its name, epochs, and iterations of warm-up."""

    name: str
    epochs: int
    warmup_iterations: int


def look_ahead(plan, manifest, sample_rate, phases, run_opts=None):
    """Log what an epoch takes, how long phases are, and what resampling costs.

    Arguments
    ---------
    plan : Plan
        The plan of the run.
    manifest : Manifest
        What it trains on.
    sample_rate : int
        That of the model, in Hz.
    phases : sequence of Phase or Length
        What will be run.
    run_opts : RunOptions or dict, optional
        SpeechBrain's run options.

    Raises
    ------
    InputError
        The durations of the manifest are not those of its files; or as for
        :func:`~hetero_brain.pipelines.doubts.doubts`.
    """
    if not if_main_process():
        return
    headers = sampled_headers(manifest)
    refuse_impossible(headers, manifest)
    summary, steps = plan.summary(), plan.steps_per_epoch
    hours = sum(figures["hours"] for figures in summary.values())
    padded = sum(f["hours"] / (1 - f["padding"]) for f in summary.values())
    logger.info(
        f"{manifest.path}: {count(steps, 'iteration')} an epoch, over {hours:.3g} h "
        f"with {1 - hours / padded:.0%} padding\n{table(summary)}"
    )
    for names, epochs, warmup in equally_long(phases):
        logger.info(
            f"{names}: {count(epochs, 'epoch')}, {count(epochs * steps, 'iteration')}, "
            f"{min(warmup, epochs * steps)} of them of warm-up"
        )
    if run_opts and run_opts.get("debug"):
        limits = (run_opts[f"debug_{key}"] for key in ("batches", "epochs"))
        logger.info(shortened(*limits, steps))
    for line in resampling(sampled_rates(headers, manifest), sample_rate):
        logger.info(line)
    for line in long_recordings(manifest.duration, plan.max_utterance_seconds):
        logger.warning(line)
    for line in doubts(plan, phases):
        logger.warning(line)


COLUMNS = {  # of the table: figure of a domain → its heading, and how it is written
    "hours": ("hours", "{:.3g}"),
    "batches": ("batches", "{:.0f}"),
    "batch_seconds": ("seconds a batch", "{:.3g}"),
    "skipped": ("skipped", "{:.0%}"),
    "padding": ("padding", "{:.0%}"),
}


def table(summary):
    """The figures of each domain, from the plan, as columns.

    Example
    -------
    >>> print(table({"en": dict(hours=0.028, batches=3, batch_seconds=33.6, skipped=0,
    ...     padding=0.242)}))
    domain  hours  batches  seconds a batch  skipped  padding
    en      0.028  3        33.6             0%       24%
    """
    lines = [["domain", *(heading for heading, _ in COLUMNS.values())]]
    for domain, figures in summary.items():
        written = (form.format(figures[key]) for key, (_, form) in COLUMNS.items())
        lines.append([domain, *written])
    return aligned(lines)


def shortened(debug_batches, debug_epochs, steps):
    """What a run in debug mode has instead of its phases; ``steps`` are the iterations
    of an epoch."""
    batches = min(debug_batches, steps)
    epochs = count(debug_epochs, "epoch") if debug_epochs > 0 else "all epochs"
    return (
        f"--debug: instead, each has {epochs} of {count(batches, 'iteration')}, and "
        f"validates on no more than {count(debug_batches, 'batch')}"
    )


# -------------------------------------------------------------------------------- time


class Pace:
    """Logs, once, how long the rest of a phase takes.

    Arguments
    ---------
    name : str
        Name of the phase.
    total : int
        Its iterations.
    """

    def __init__(self, name, total):
        self.name, self.total = name, total
        self.count, self.begin = 0, None

    def tick(self, iteration):
        """To be called after each iteration; ``iteration`` is how many are done."""
        self.count += 1
        if self.count == FIRST:
            self.begin = time.monotonic()
        elif self.count == PACED and iteration < self.total:
            each = (time.monotonic() - self.begin) / (PACED - FIRST)
            left = self.total - iteration
            logger.info(
                f"about {in_words(left * each)} left for {self.name}: "
                f"{left} more {'iterations' if left != 1 else 'iteration'} of "
                f"{each:.2g} s each, not counting validations"
            )


def in_words(seconds):
    """A duration as one says it.

    Example
    -------
    >>> in_words(42), in_words(754), in_words(11400)
    ('42 s', '13 min', '3 h 10 min')
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

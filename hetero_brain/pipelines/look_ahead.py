"""A look ahead: what a run will be like on its data, logged before it trains.

Where a setting does not suit the data, a warning names the key to change. How long a
phase takes is logged once, after :data:`PACED` of its iterations.
"""

import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from .sampled_headers import (
    refuse_impossible,
    resampling,
    sampled_headers,
    sampled_rates,
)
from .tables import aligned, plain

logger = get_logger(__name__)

LONG = 4  # times max_utterance_seconds: most of a recording is not read in an epoch
MOST_PADDING = 0.2  # of the batches of a domain
ENOUGH_BATCHES = 25  # of a domain in an epoch: padding then stays below 10 %
PACED, FIRST = 20, 5  # iterations that are timed, but for the first, which are slow


class Length(NamedTuple):
    """How long a run is: its name, epochs, and iterations of warm-up."""

    name: str
    epochs: int
    warmup_iterations: int


def look_ahead(plan, manifest, sample_rate, phases):
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

    Raises
    ------
    InputError
        The durations of the manifest are not those of its files.
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
            f"{warmup} of them of warm-up"
        )
    for line in resampling(sampled_rates(headers, manifest), sample_rate):
        logger.info(line)
    for line in long_recordings(manifest.duration, plan.max_utterance_seconds):
        logger.warning(line)
    for line in doubts(summary, steps, phases):
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


def count(number, noun):
    """``1 epoch``, ``2 epochs``."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def equally_long(phases):
    """For phases of the same length: their names, epochs and iterations of warm-up, in
    the order of the phases."""
    alike = defaultdict(list)
    for phase in phases:
        alike[phase.epochs, phase.warmup_iterations].append(phase.name)
    for (epochs, warmup), names in alike.items():
        yield ", ".join(names), epochs, warmup


def doubts(summary, steps, phases):
    """What in the settings does not suit the data, with the keys to change.

    Arguments
    ---------
    summary : dict
        That of the plan.
    steps : int
        Iterations in an epoch.
    phases : sequence of Phase or Length
        What will be run.

    Yields
    ------
    str
    """
    seconds = 3600 * sum(figures["hours"] for figures in summary.values())
    remedy = (
        f"lower global_batch_seconds to {plain(seconds / ENOUGH_BATCHES)} or less, for "
        f"{ENOUGH_BATCHES} or more batches an epoch"
    )
    if len(summary) == 1 and any(getattr(p, "local_steps", 0) for p in phases):
        yield "PTLOC on a single domain has nothing to balance: give several domains"
    if steps == 1:
        yield f"An epoch is a single iteration: {remedy}"
    for domain, figures in summary.items():
        if figures["padding"] > MOST_PADDING:
            yield (
                f"{domain}: {figures['padding']:.0%} of its {figures['batches']} batches "
                f"is padding, since each has short and long utterances: {remedy}; where "
                "there is a max_utterance_seconds, lowering it helps as well"
            )
    for names, epochs, warmup in equally_long(phases):
        length = epochs * steps
        if 2 * warmup > length:
            reached = "more than half of" if warmup <= length else "longer than all of"
            yield (
                f"{names}: warmup_iterations is {warmup}, {reached} the "
                f"{count(length, 'iteration')} of {count(epochs, 'epoch')}: lower it, "
                f"to {length // 10} for a tenth of them, or train for more epochs"
            )


def long_recordings(durations, longest):
    """A sentence on the recordings of which an epoch reads only a small part.

    Arguments
    ---------
    durations : np.ndarray
        Of the recordings, in seconds.
    longest : float
        ``max_utterance_seconds``; infinite if there is none.

    Yields
    ------
    str
    """
    long = durations[durations > LONG * longest]
    if n := len(long):
        hours = long.sum(dtype=np.float64) / 3600
        each, them = ("of each", "them") if n > 1 else ("of it", "it")
        yield (
            f"{count(n, 'recording')}, {plain(hours)} h, {'are' if n > 1 else 'is'} more "
            f"than {LONG} times as long as max_utterance_seconds: an epoch reads "
            f"{longest:g} s {each}; to train on all, split {them} by start and stop"
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

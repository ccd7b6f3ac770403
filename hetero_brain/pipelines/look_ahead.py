"""A look ahead: what a run will be like on its data, logged before it trains.

Where a setting does not suit the data, a warning names the key to change. How long a
phase takes is logged once, after :data:`PACED` of its iterations.
"""

import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import soundfile
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from ..training.rng import generator

logger = get_logger(__name__)

FILES = 50  # of each domain whose headers are read
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
    """
    if not if_main_process():
        return
    summary, steps = plan.summary(), plan.steps_per_epoch
    for domain, figures in summary.items():
        figures = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
        logger.info(f"{manifest.path}, {domain}: {figures}")
    hours = sum(figures["hours"] for figures in summary.values())
    padded = sum(f["hours"] / (1 - f["padding"]) for f in summary.values())
    logger.info(
        f"{manifest.path}: {count(steps, 'iteration')} an epoch, over {hours:.3g} h "
        f"with {1 - hours / padded:.0%} padding"
    )
    for names, epochs, warmup in equally_long(phases):
        logger.info(
            f"{names}: {count(epochs, 'epoch')}, {count(epochs * steps, 'iteration')}, "
            f"{warmup} of them of warm-up"
        )
    for line in resampling(sampled_rates(manifest), sample_rate):
        logger.info(line)
    for line in doubts(summary, steps, phases):
        logger.warning(line)


def plain(number):
    """A number with its first two digits, and zeros rather than an exponent.

    Example
    -------
    >>> plain(0.0512), plain(352.7), plain(12345)
    ('0.051', '350', '12000')
    """
    return f"{float(f'{number:.2g}'):g}"


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


# ------------------------------------------------------------------------ sample rates


def sampled_rates(manifest):
    """The sample rates of a manifest's audio, by the headers of some files a domain.

    Files whose headers libsndfile cannot read do not count.

    Arguments
    ---------
    manifest : Manifest
        The rows.

    Returns
    -------
    dict
        Domain → sample rate in Hz → hours, scaled up to all of the domain's.
    """
    rates = {}
    for i, domain in enumerate(manifest.domains):
        rows = np.flatnonzero(manifest.domain == i)
        drawn = generator(0, "look ahead", domain).permutation(rows)[:FILES]
        seconds = defaultdict(float)
        for row in drawn:
            try:
                rate = soundfile.info(manifest[int(row)]["wav"]).samplerate
            except (OSError, soundfile.LibsndfileError):
                continue
            seconds[rate] += float(manifest.duration[row])
        hours = manifest.duration[rows].sum(dtype=np.float64) / 3600
        known = sum(seconds.values())
        rates[domain] = {rate: hours * s / known for rate, s in seconds.items()}
    return rates


def resampling(rates, sample_rate):
    """Sentences on the hours whose sample rate is not the model's.

    Arguments
    ---------
    rates : dict
        From :func:`sampled_rates`.
    sample_rate : int
        That of the model, in Hz.

    Yields
    ------
    str
    """
    hours = [(d, rate, h) for d, own in rates.items() for rate, h in own.items()]
    model = f"the model's sample_rate of {sample_rate / 1000:g} kHz"
    lost = f"what they hold above {sample_rate / 2000:g} kHz is thrown away"
    empty = "the upper part of its spectrum is empty for them"
    for side, found, consequence in (
        ("above", [each for each in hours if each[1] > sample_rate], lost),
        ("below", [each for each in hours if each[1] < sample_rate], empty),
    ):
        if found:
            about = f"About {plain(sum(h for _, _, h in found))} h are sampled {side}"
            where = ", ".join(f"{d} {rate / 1000:g} kHz" for d, rate, _ in found)
            yield f"{about} {model} ({where}): {consequence}"


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
                f"about {in_words(left * each)} for {self.name}: "
                f"{count(left, 'iteration')} more, of {each:.2g} s each; "
                "validations come on top"
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

"""What in the settings of a run does not suit its data, with the keys to change."""

import difflib
from collections import defaultdict

from ..errors import InputError
from .tables import plain

LONG = 4  # times max_utterance_seconds: most of a recording is not read in an epoch
MOST_PADDING = 0.2  # of the batches of a domain
MOST_SKIPPED = 0.5  # of the other domains' audio, when a domain ends an epoch
ENOUGH_BATCHES = 25  # of a domain in an epoch: padding then stays below 10 %
ALIKE = 0.75  # difflib's ratio of two names, one of which may be a misspelling


def count(number, noun):
    """``1 epoch``, ``2 epochs``, ``3 batches``."""
    plural = noun + ("es" if noun.endswith("tch") else "s")
    return f"{number} {noun if number == 1 else plural}"


def doubts(plan, phases):
    """What in the settings does not suit the data, with the keys to change.

    Arguments
    ---------
    plan : Plan
        The plan of the run.
    phases : sequence of Phase or Length
        What will be run.

    Yields
    ------
    str

    Raises
    ------
    InputError
        See :func:`refuse_alike`.
    """
    summary, steps = plan.summary(), plan.steps_per_epoch
    refuse_alike({d: count(f["rows"], "row") for d, f in summary.items()})
    if len(summary) == 1 and any(getattr(p, "local_steps", 0) for p in phases):
        yield "PTLOC on a single domain has nothing to balance: give several domains"
    yield from ending_domains(plan, summary)
    if steps == 1:
        single = ", ".join(d for d, f in summary.items() if f["rows"] == 1)
        advice = smaller_batches(plan, summary, summary)
        advice = f": {advice}" if advice else f", since {single} has a single row"
        yield f"An epoch is a single iteration{advice}"
    padded = {d: f for d, f in summary.items() if f["padding"] > MOST_PADDING}
    if padded:
        shares = ", ".join(
            f"{f['padding']:.0%} of the {f['batches']} batches of {domain}"
            for domain, f in padded.items()
        )
        advice = smaller_batches(plan, summary, padded)
        yield (
            f"{shares} is padding, since each batch has short and long utterances: "
            f"{advice}{advice and '; '}where there is a max_utterance_seconds, lowering "
            "it helps"
        )
    yield from long_warmups(steps, phases)


def smaller_batches(plan, summary, domains):
    """The advice to lower ``global_batch_seconds``, with a value, so that each of some
    domains has enough batches; empty where that gives none of them more."""
    wanted = min(ENOUGH_BATCHES, *(summary[domain]["rows"] for domain in domains))
    possible = dict(zip(plan.domains, plan.possible_batches))  # given enough rows
    lower = plan.global_batch_seconds * min(possible[d] for d in domains) / wanted
    if wanted <= min(summary[domain]["batches"] for domain in domains):
        return ""
    return (
        f"lower global_batch_seconds to {plain(lower)} or less, for {wanted} or more "
        "batches an epoch"
    )


# --------------------------------------------------------------------------- domains


def ending_domains(plan, summary):
    """A sentence for each domain that ends an epoch, or would do so without those named
    before, when more than :data:`MOST_SKIPPED` of the other domains' audio is left.

    Arguments
    ---------
    plan : Plan
        The plan of the run.
    summary : dict
        What its ``summary`` returns.

    Yields
    ------
    str
    """
    others = dict(summary)
    while len(others) > 1:
        domain = min(others, key=lambda name: others[name]["batches"])
        figures = others.pop(domain)
        n_batches, n_rows = figures["batches"], figures["rows"]
        hours = sum(f["hours"] for f in others.values())
        used = sum(f["hours"] * n_batches / f["batches"] for f in others.values())
        if 1 - used / hours <= MOST_SKIPPED:
            return
        has = (
            f"{domain} has only {count(n_rows, 'row')}, {length(figures['hours'])}, in "
            f"{count(n_batches, 'batch')}, and an epoch ends with the last of them: "
            f"{1 - used / hours:.0%} of the {length(hours)} of all other domains is "
            "left out of every epoch."
        )
        if n_batches < n_rows:
            yield (
                f"{has} What is left out is drawn anew in each epoch; domain_sampling: "
                "proportional would leave out nothing"
            )
            continue
        if n_rows >= ENOUGH_BATCHES:
            possible = plan.possible_batches[plan.domains.index(domain)]
            larger = plan.global_batch_seconds * possible / n_rows
            yield (
                f"{has} With global_batch_seconds of {plain(larger)}, none has more "
                "batches than that"
            )
            continue
        near = near_name(domain, others)
        yield (
            f"{has} {f'Is it a misspelling of {near}? ' if near else ''}No "
            "global_batch_seconds helps: correct its name, merge it with another domain, "
            "leave it out, or give it more rows"
        )


def length(hours):
    """Hours in words, or seconds if they are few.

    Example
    -------
    >>> length(12.345), length(0.001)
    ('12 h', '3.6 s')
    """
    return f"{plain(hours)} h" if hours >= 0.1 else f"{plain(3600 * hours)} s"


def refuse_alike(domains):
    """Raise an InputError if names of domains differ only in case, spaces, hyphens, dots
    and underscores.

    Arguments
    ---------
    domains : dict
        Name → what is said of it in brackets, such as its number of rows.
    """
    alike = defaultdict(list)
    for name, said in domains.items():
        alike[plain_name(name)].append(f"{name} ({said})")
    if found := [" and ".join(names) for names in alike.values() if len(names) > 1]:
        raise InputError(
            f"domains {'; '.join(found)} are spelt in another way: correct the names if "
            "they are one domain, or rename one if they are two"
        )


def plain_name(domain):
    """A domain's name without case, spaces, hyphens, dots and underscores."""
    return domain.casefold().translate(dict.fromkeys(map(ord, " -._")))


def near_name(domain, others):
    """Which of some names is nearly that of a domain; None if none is.

    Example
    -------
    >>> near_name("De", ["de", "en"]), near_name("ofice", ["office", "street"])
    ('de', 'office')
    >>> near_name("en", ["es", "fr"])
    """
    names = {plain_name(name): name for name in others}
    near = difflib.get_close_matches(plain_name(domain), names, n=1, cutoff=ALIKE)
    return names[near[0]] if near else None


# ---------------------------------------------------------------------------- lengths


def equally_long(phases):
    """For phases of the same length: their names, epochs and iterations of warm-up, in
    the order of the phases."""
    alike = defaultdict(list)
    for phase in phases:
        alike[phase.epochs, phase.warmup_iterations].append(phase.name)
    for (epochs, warmup), names in alike.items():
        yield ", ".join(names), epochs, warmup


def long_warmups(steps, phases):
    """A sentence for each length of the warm-up that is long for some phases.

    Arguments
    ---------
    steps : int
        Iterations in an epoch.
    phases : sequence of Phase or Length
        What will be run.

    Yields
    ------
    str
    """
    too_short = defaultdict(list)  # warm-up → names and iterations of phases
    for names, epochs, warmup in equally_long(phases):
        if 2 * warmup > epochs * steps:
            too_short[warmup].append((names, epochs * steps))
    for warmup, found in too_short.items():
        kinds = {
            "longer than all of": [each for each in found if each[1] < warmup],
            "more than half of": [each for each in found if each[1] >= warmup],
        }
        shares = " and ".join(
            f"{kind} {', '.join(f'{names} ({n} iterations)' for names, n in some)}"
            for kind, some in kinds.items()
            if some
        )
        tenth = max(1, min(n for _, n in found) // 10)
        yield (
            f"warmup_iterations is {warmup}, {shares}: lower it, to "
            f"{tenth} for a tenth of the shortest, or train for more epochs"
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
        hours = long.sum(dtype=float) / 3600
        each, them = ("of each", "them") if n > 1 else ("of it", "it")
        yield (
            f"{count(n, 'recording')}, {plain(hours)} h, {'are' if n > 1 else 'is'} more "
            f"than {LONG} times as long as max_utterance_seconds: an epoch reads "
            f"{longest:g} s {each}; to train on all, split {them} by start and stop"
        )

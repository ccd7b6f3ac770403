"""Word and character error rates, and their confidence intervals."""

import math

import numpy as np
from speechbrain.utils.edit_distance import wer_details_for_batch

from ..training.rng import generator

N_RESAMPLES = 2000
UNITS = {"CER": "char", "WER": "word"}


def tokens(text, unit, domain, character_domains=()):
    """What of a text is counted: its words (``unit`` is ``word``) or its characters. In
    ``character_domains``, whose languages have no spaces, a character is a word."""
    if unit == "word" and domain not in character_domains:
        return text.split()
    return list(text)


def utterance_errors(ids, domains, references, hypotheses, character_domains=()):
    """Word and character errors of each utterance; repeated spaces count as one.

    Arguments
    ---------
    ids, domains, references, hypotheses : list of str
        Of the utterances.
    character_domains : sequence of str
        As for :func:`tokens`.

    Returns
    -------
    list of dict
        ``id``, ``domain``, ``reference``, ``hypothesis``; the number of errors,
        ``word_errors`` and ``char_errors``, and of what is in the reference, ``words``
        and ``chars``.
    """
    references, hypotheses = (
        [" ".join(text.split()) for text in texts] for texts in (references, hypotheses)
    )
    found = [
        {"id": key, "domain": domain, "reference": reference, "hypothesis": hypothesis}
        for key, domain, reference, hypothesis in zip(
            ids, domains, references, hypotheses
        )
    ]
    for unit in UNITS.values():
        split = [
            [
                tokens(text, unit, domain, character_domains)
                for text, domain in zip(texts, domains)
            ]
            for texts in (references, hypotheses)
        ]
        for utterance, details in zip(found, wer_details_for_batch(ids, *split)):
            utterance[f"{unit}_errors"] = details["num_edits"]
            utterance[f"{unit}s"] = details["num_ref_tokens"]
    return found


def error_rates(utterances):
    """CER and WER in percent, overall and per domain; NaN without references.

    Arguments
    ---------
    utterances : list of dict
        From :func:`utterance_errors`.

    Returns
    -------
    dict
        ``CER``, ``WER``, and ``CER/domain``, ``WER/domain`` for each domain.
    """
    groups = {"": utterances}
    for utterance in utterances:
        groups.setdefault(f"/{utterance['domain']}", []).append(utterance)
    rates = {}
    for suffix, group in groups.items():
        for rate, unit in UNITS.items():
            total = sum(utterance[f"{unit}s"] for utterance in group)
            errors = sum(utterance[f"{unit}_errors"] for utterance in group)
            rates[rate + suffix] = 100 * errors / total if total else math.nan
    return rates


def bootstrap_interval(errors, totals):
    """An error rate and its 95 % interval, by percentile bootstrap over utterances.

    The resamples depend on the number of utterances only, so that a run has the same
    interval wherever it is shown.

    Arguments
    ---------
    errors, totals : array_like of float, shape (utterances,)
        Number of errors, and of reference words or characters, in each utterance.

    Returns
    -------
    rate, low, high : float
        In percent.

    Example
    -------
    >>> rate, low, high = bootstrap_interval([1, 0, 2, 1], [5, 5, 5, 5])
    >>> rate, low <= rate <= high
    (20.0, True)
    """
    errors, totals = np.asarray(errors, float), np.asarray(totals, float)
    draws = generator("bootstrap").integers(
        len(errors), size=(N_RESAMPLES, len(errors))
    )
    errors_drawn, totals_drawn = errors[draws].sum(1), totals[draws].sum(1)
    # Totals may be a baseline's errors, of which a resample may hold none.
    drawn = totals_drawn > 0
    rates = 100 * errors_drawn[drawn] / totals_drawn[drawn]
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(100 * errors.sum() / totals.sum()), float(low), float(high)


def describe(utterances):
    """Error rates of one run as text, for its log.

    Arguments
    ---------
    utterances : list of dict
        As for :func:`error_rates`.

    Returns
    -------
    str
        One line per domain: CER and WER in percent with their 95 % intervals.
    """
    lines = []
    for domain in sorted({utterance["domain"] for utterance in utterances}):
        run = [u for u in utterances if u["domain"] == domain]
        texts = []
        for rate, unit in UNITS.items():
            errors, totals = error_counts([run], unit)
            interval = bootstrap_interval(errors[0], totals[0])
            texts.append(f"{rate} {with_interval(*interval)} %")
        lines.append(f"{domain}: {', '.join(texts)} ({len(run)} utterances)")
    return "\n".join(lines)


def with_interval(rate, low, high):
    """A rate and its interval as text, e.g. for the cell of a table."""
    return f"{rate:.1f} [{low:.1f}, {high:.1f}]"


def error_counts(seeds, unit):
    """Errors and reference lengths, both of shape (seeds, utterances), in the order of
    the utterances' IDs: resamples are of positions."""
    seeds = [sorted(run, key=lambda utterance: utterance["id"]) for run in seeds]
    errors = np.array([[u[f"{unit}_errors"] for u in run] for run in seeds])
    return errors, np.array([[u[f"{unit}s"] for u in run] for run in seeds])

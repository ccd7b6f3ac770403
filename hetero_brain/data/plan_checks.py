"""Checks of the arguments of a plan; one InputError reports everything that is wrong."""

import numpy as np

from ..errors import InputError
from .domain_sampling import SAMPLINGS


def settings_errors(
    n_domains,
    *,
    global_batch_seconds,
    domain_sampling,
    temperature,
    domains_per_iteration,
    batches_per_iteration,
    replicas_per_domain,
    max_utterance_seconds,
):
    """Errors in the settings of a plan.

    Returns
    -------
    list of str
        Each begins with the name of the setting.
    """
    is_wrong = {
        f"global_batch_seconds: must be positive, got {global_batch_seconds}": (
            not global_batch_seconds > 0
        ),
        f"domain_sampling: must be one of {', '.join(SAMPLINGS)}, "
        f"got {domain_sampling!r}": domain_sampling not in SAMPLINGS,
        f"temperature: must be positive, got {temperature}": not temperature > 0,
        f"temperature: must be 1.0 unless domain_sampling is 'temperature', "
        f"got {temperature}": (
            temperature > 0 and temperature != 1 and domain_sampling != "temperature"
        ),
        f"domains_per_iteration: must be from 1 to {n_domains}, the number of "
        f"domains, got {domains_per_iteration}": (
            domains_per_iteration not in range(1, n_domains + 1)
        ),
        f"batches_per_iteration: must be 1 or more, got {batches_per_iteration}": (
            not batches_per_iteration >= 1
        ),
        f"replicas_per_domain: must be 1 or more, got {replicas_per_domain}": (
            not replicas_per_domain >= 1
        ),
        f"max_utterance_seconds: must be positive, got {max_utterance_seconds}": (
            not max_utterance_seconds > 0
        ),
    }
    return [message for message, wrong in is_wrong.items() if wrong]


def utterance_errors(durations, domain_of, domains):
    """Errors in the utterances of a plan.

    Returns
    -------
    list of str
        Each begins with the name of the argument.
    """
    errors = []
    if len(set(domains)) < len(domains):
        errors.append(f"domains: names must be unique, got {list(domains)}")
    if not np.all((durations > 0) & (durations < np.inf)):
        errors.append("durations: must be positive and finite")
    if domain_of.shape != durations.shape or durations.ndim != 1:
        errors.append(
            f"domain_of: must have one index for each duration, got shapes "
            f"{domain_of.shape} and {durations.shape}"
        )
    elif not np.all((domain_of >= 0) & (domain_of < len(domains))):
        errors.append(f"domain_of: indices must be from 0 to {len(domains) - 1}")
    elif missing := set(range(len(domains))) - set(np.unique(domain_of).tolist()):
        names = ", ".join(domains[i] for i in sorted(missing))
        errors.append(f"domains: no utterances in {names}")
    return errors


def raise_if_any(errors):
    """Raise one InputError that lists all of the errors, if there are any."""
    errors = list(errors)
    if errors:
        raise InputError("\n".join(errors))

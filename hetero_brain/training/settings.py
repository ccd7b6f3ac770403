"""Checks of the settings that a Brain reads from hparams: all problems in one error."""

import difflib
import inspect
import math
import numbers
from collections.abc import Mapping

import torch

from ..errors import InputError


def check_settings(hparams, settings):
    """Read settings with defaults, and refuse wrong and misspelt ones.

    Arguments
    ---------
    hparams : dict
        All hyperparameters of a run.
    settings : dict
        Key → (default, test of a value, description of valid values).

    Returns
    -------
    dict
        Key → value, the default where ``hparams`` has none.

    Raises
    ------
    InputError
        Lists every key with a wrong value, and every key that looks like a misspelling
        of a setting, which would otherwise silently keep its default.

    Example
    -------
    >>> check_settings({"n": 2}, {"n": (1, lambda v: v > 0, "positive")})
    {'n': 2}
    """
    values = {k: hparams.get(k, default) for k, (default, _, _) in settings.items()}
    problems = wrong_values(hparams, settings)
    for key in hparams:
        meant = difflib.get_close_matches(key, settings, n=1, cutoff=0.88)
        if key not in settings and key != "lr_scheduler" and meant:  # SpeechBrain's key
            problems.append(f"{key}: no such setting; did you mean {meant[0]}?")
    if problems:
        raise InputError(in_words(problems))
    return values


def wrong_values(hparams, settings):
    """A sentence for each setting that has a wrong value; see :func:`check_settings`."""
    return [
        f"{key}: {hparams[key]!r} is not {wanted}"
        for key, (_, test, wanted) in settings.items()
        if key in hparams and not test(hparams[key])
    ]


def in_words(problems):
    """The message of an error about hyperparameters."""
    return "\n  ".join(["Wrong hyperparameters:", *problems])


def is_count(value, least=0):
    """Whether ``value`` is an integer of at least ``least`` (and not a bool)."""
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return integral and value >= least


def is_number(value, least=-math.inf):
    """Whether ``value`` is a number of at least ``least`` (not a bool, nor NaN)."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and value >= least


def is_positive(value):
    """Whether ``value`` is a number above 0, but not infinite."""
    return is_number(value) and 0 < value < math.inf


def is_weights(value):
    """Whether ``value`` maps names to positive numbers, or is None."""
    return value is None or (
        isinstance(value, Mapping) and all(map(is_positive, value.values()))
    )


def one_of(*names):
    """Default, test and description of a choice; the first name is the default."""
    return names[0], lambda value: value in names, f"one of {', '.join(names)}"


def are_loggers(value):
    """Whether ``value`` is None, a train logger or its factory, or a list of those."""
    given = value if isinstance(value, (list, tuple)) else [value]
    return value is None or all(callable(v) or hasattr(v, "log_stats") for v in given)


def optional(kind):
    """Default, test and description of an optional callable."""
    return None, lambda value: value is None or callable(value), kind


def is_share(value):
    """Whether ``value`` is a number from 0 to 1."""
    return is_number(value, 0) and value <= 1


SHARE = (None, is_share, "a number from 0 to 1")
COUNT = (None, lambda v: is_count(v, 1), "an integer ≥ 1")
BEAM_SIZE = (
    None,
    lambda v: v is None or is_count(v, 1),
    "an integer ≥ 1, or null",
)
BRAIN_SETTINGS = {
    "local_steps": (0, is_count, "an integer ≥ 0 (K; 0 is CSSL)"),
    "local_optimizer": optional("a factory such as !name:torch.optim.SGD"),
    "local_optimizer_state": one_of("fresh", "per_domain"),
    "hypergradient": one_of("first_order", "exact"),
    "domain_weights": (None, is_weights, "a mapping of domains to positive weights"),
    "lr_schedule": optional("a callable (epoch, iteration) → factor"),
    "cosine_interval": (0, is_count, "an integer ≥ 0 (iterations; 0: never)"),
    "angle_interval": (10, is_count, "an integer ≥ 0 (iterations; 0: never)"),
    "solve_seed": (None, lambda v: v is None or is_count(v), "an integer ≥ 0"),
    "cuda_graphs": (False, lambda v: isinstance(v, bool), "True or False"),
}
RUN_SETTINGS = {
    "seed": (None, lambda v: v is None or is_count(v), "an integer ≥ 0"),
    "loggers": ((), lambda v: isinstance(v, (list, tuple)), "a list of loggers"),
    "log_interval": (100, lambda v: is_count(v, 1), "an integer ≥ 1 (iterations)"),
    "valid_interval": (1, lambda v: is_count(v, 1), "an integer ≥ 1 (epochs)"),
}
PHASE_SETTINGS = {
    "epochs": (None, lambda v: is_count(v, 1), "an integer ≥ 1"),
    "hold_epochs": (math.inf, lambda v: is_number(v, 0), "a number ≥ 0 (epochs)"),
    "local_lr": (None, lambda v: is_number(v, 0), "a number ≥ 0 (learning rate)"),
    "local_steps": BRAIN_SETTINGS["local_steps"],
    "lr": (None, lambda v: is_number(v, 0), "a number ≥ 0 (learning rate)"),
    "lr_decay": (None, lambda v: is_positive(v) and v <= 1, "above 0, at most 1"),
    "warmup_iterations": (0, is_count, "an integer ≥ 0"),
}
PIPELINE_SETTINGS = {
    "patience": (
        None,
        lambda v: v is None or is_count(v, 1),
        "an integer ≥ 1 (epochs)",
    ),
    "train_logger": (
        None,
        are_loggers,
        "a train logger, such as !name:speechbrain.utils.train_logger.WandBLogger, or a "
        "list of them",
    ),
}


def brain_settings(hparams):
    """The settings of a :class:`HeteroBrain`, from :func:`check_settings`.

    Raises
    ------
    InputError
        See :func:`check_settings`; or there are local steps but no local optimizer, or
        one without a learning rate.
    """
    settings = check_settings(hparams, BRAIN_SETTINGS)
    if settings["local_steps"] > 0 and settings["local_optimizer"] is None:
        raise InputError(
            f"local_optimizer: needed with local_steps: {settings['local_steps']}; set "
            "it to a factory, e.g. !name:torch.optim.SGD with its lr"
        )
    if settings["local_steps"] > 0 and lacks_rate(settings["local_optimizer"]):
        raise InputError(
            "local_optimizer: give it lr, the local learning rate α, for which the "
            "optimizer has a default of its own"
        )
    return settings


def lacks_rate(factory):
    """Whether an optimizer's factory could have a learning rate, and has none."""
    given, made = getattr(factory, "keywords", {}), getattr(factory, "func", factory)
    if not (isinstance(made, type) and issubclass(made, torch.optim.Optimizer)):
        return False
    return "lr" in inspect.signature(made).parameters and "lr" not in given

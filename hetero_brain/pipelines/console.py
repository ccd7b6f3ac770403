"""What a recipe shows on the console: what people read. All else is in its log files."""

import logging
import sys
from contextlib import contextmanager
from unittest.mock import patch

import speechbrain as sb
from speechbrain.utils.logger import TqdmCompatibleStreamHandler
from tqdm import tqdm

OWN = "hetero_brain."
DETAILED = ("speechbrain.", "httpx")  # loggers whose INFO is for log.txt


class Console(TqdmCompatibleStreamHandler):
    """Of SpeechBrain and of libraries, the console has warnings and errors only; names of
    loggers and levels are left out, but for those of warnings and errors."""

    def filter(self, record):
        """See ``logging.Handler``."""
        is_detail = (
            record.name.startswith(DETAILED) and record.levelno < logging.WARNING
        )
        return not is_detail and super().filter(record)

    def handleError(self, record):  # noqa: N802
        """See ``logging.Handler``; a run goes on if nobody reads what it shows."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)

    def format(self, record):
        """See ``logging.Handler``."""
        text = record.getMessage()
        if record.exc_info or record.stack_info:
            text = super().format(record)
        return (
            text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"
        )


@contextmanager
def for_people():
    """Have SpeechBrain set up its logs, in this block, with a :class:`Console`.

    ``log.txt`` has all, with what hetero_brain logs as DEBUG. Bars are drawn in a
    terminal only, and vanish.
    """
    with patch("speechbrain.utils.logger.TqdmCompatibleStreamHandler", Console):
        yield
    for name in logging.getLogger().manager.loggerDict:
        if name.startswith(OWN):  # imported before the logs were set up
            logging.getLogger(name).setLevel(logging.DEBUG)
    sb.core.tqdm = bar


def bar(*args, disable=False, **options):
    """SpeechBrain's bars: in a terminal, where they vanish at their end."""
    disable = disable or not sys.stderr.isatty()
    return tqdm(*args, **options, disable=disable, leave=False)


# ---------------------------------------------------------------- an entry of the log


def in_a_line(meta, stages, guess=None):
    """The figures of a log entry that say how training goes, over all domains.

    Arguments
    ---------
    meta, stages : dict
        As of :meth:`~hetero_brain.training.loggers.EntryLogger.write`.
    guess : float
        The loss of guessing, to stand beside the training loss.

    Returns
    -------
    str
        Empty if it has no loss.

    Example
    -------
    >>> losses = {"loss_at_theta/en": 5.0, "loss_at_theta/fr": 6.0, "local_gain/fr": 0.1}
    >>> in_a_line({"lr": 0.001, "local_lr": 0.03}, {"train": losses}, guess=5.545)
    'loss 5.5 (guessing: 5.545), local gain 0.1, lr 0.001, local lr 0.03'
    """
    train, valid = stages.get("train", {}), stages.get("valid", {})
    if (loss := training_loss(train)) is None:
        return ""
    told = [f"{'training ' * bool(valid)}loss {loss:.4g}"]
    told[0] += f" (guessing: {guess:.4g})" if guess else ""
    for name, form in (("accuracy", "{:.1%}"), ("local_gain", "{:.3g}")):
        if (value := mean(train, name)) is not None:
            told.append(f"{name.replace('_', ' ')} {form.format(value)}")
    if (loss := mean(valid, "loss")) is not None:
        told.append(f"dev loss {loss:.4g}")
        if (behind := mean(valid, "loss_at_phi")) is not None:
            told[-1] += f" ({behind:.4g} after local steps)"
        told += [
            f"{rate} {valid[rate]:.1f}%" for rate in ("CER", "WER") if rate in valid
        ]
    else:
        told += [
            f"{key.replace('_', ' ')} {meta[key]:.3g}"
            for key in ("lr", "encoder_lr", "local_lr")
            if key in meta
        ]
    return ", ".join(told)


def training_loss(figures):
    """The training loss of an entry, at θ in a PTLOC phase; None if it has none."""
    losses = (mean(figures, name) for name in ("loss", "loss_at_theta"))
    return next((loss for loss in losses if loss is not None), None)


def mean(figures, name):
    """A figure of all domains together, or else the mean of the domains'; None if it is
    not among the figures."""
    if name in figures:
        return figures[name]
    found = [value for key, value in figures.items() if key.partition("/")[0] == name]
    return sum(found) / len(found) if found else None

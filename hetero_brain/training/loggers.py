"""Train loggers that resume from a checkpoint, with the iteration as the step.

A checkpoint stores each log's ``position()``; ``resume(position, iteration)`` truncates
what a killed run wrote after it, so that the log of a resumed run equals that of a run
that was never killed.
"""

import json
import logging
import os
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.logger import get_logger

from .files import sync

# Its import warns of a missing torchvision, with which its logger of images saves them.
theirs = logging.getLogger("speechbrain.utils.train_logger")
with patch.object(theirs, "disabled", True):
    from speechbrain.utils.train_logger import (
        FileTrainLogger,
        TensorboardLogger,
        TrainLogger,
    )

logger = get_logger(__name__)


class ResumableFile:
    """A log that is a single append-only file, ``save_file``."""

    def position(self):
        """Bytes written so far; syncs them to disk first."""
        if not os.path.exists(self.save_file):
            return 0
        sync(self.save_file)
        return os.path.getsize(self.save_file)

    @main_process_only
    def resume(self, position, iteration):
        """Continue at ``position``, or with an empty file if that is None."""
        truncate(self.save_file, position or 0)


def truncate(path, size):
    """Truncate a log to a size in bytes; warns if it is already shorter."""
    found = os.path.getsize(path) if os.path.exists(path) else 0
    if found < size:
        logger.warning(
            f"{path} has {found} bytes but had {size} at the checkpoint; entries are lost"
        )
    elif found > size:
        logger.info(
            f"{path}: removed {found - size} bytes written after the checkpoint"
        )
        os.truncate(path, size)


IF_ANY = ("unspellable/",)  # figures that a text log has only where they are not 0


class TextLogger(ResumableFile, FileTrainLogger):
    """SpeechBrain's ``FileTrainLogger``, resumable, with numbers as one reads them:
    0.002 and 135.2 instead of 2.00e-03 and 1.35e+02. ``precision`` counts the digits.
    Shares of utterances that CTC cannot spell are left out where they are 0. Entries
    begin with ``phase``, if it is given: phases that run at once share a ``log.txt``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train_log.txt"
    >>> text = TextLogger(path)
    >>> stats = {"loss": 135.16, "unspellable/en": 0.0}
    >>> text.log_stats({"lr": 0.002}, train_stats=stats, verbose=False)
    >>> path.read_text()
    'lr: 0.002 - train loss: 135.2\\n'
    """

    def __init__(self, save_file, precision=4, phase=None):
        super().__init__(save_file, precision)
        self.meta = {} if phase is None else {"phase": phase}

    def log_stats(self, stats_meta, *args, **kwargs):
        """See ``TrainLogger.log_stats``."""
        super().log_stats({**self.meta, **stats_meta}, *args, **kwargs)

    def _stats_to_string(self, stats, dataset=None):
        shown = {k: v for k, v in stats.items() if v or not k.startswith(IF_ANY)}
        return super()._stats_to_string(shown, dataset)

    def _item_to_string(self, key, value, dataset=None):
        if isinstance(value, float):
            value = f"{value:.{self.precision}g}"
        return super()._item_to_string(key, value, dataset)


class EntryLogger(TrainLogger):
    """Receives SpeechBrain's entries and passes them to ``write`` on the main process."""

    @main_process_only
    def log_stats(
        self,
        stats_meta,
        train_stats=None,
        valid_stats=None,
        test_stats=None,
        verbose=False,
    ):
        """See ``TrainLogger.log_stats``."""
        stages = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        self.write(stats_meta, {k: v for k, v in stages.items() if v is not None})

    def write(self, meta, stages):
        """Write an entry: ``meta``, and the figures of each stage."""
        raise NotImplementedError


class JsonLinesLogger(ResumableFile, EntryLogger):
    """One JSON object per entry, for ``report`` and for scripts.

    Arguments
    ---------
    save_file : str
        File that entries are appended to.

    Example
    -------
    >>> path = getfixture("tmp_path") / "log.jsonl"
    >>> JsonLinesLogger(path).log_stats({"iteration": 1}, train_stats={"loss": 2.0})
    >>> JsonLinesLogger.read(path)
    [{'iteration': 1, 'train': {'loss': 2.0}}]
    """

    def __init__(self, save_file):
        self.save_file = save_file

    def write(self, meta, stages):
        """Append an entry."""
        with open(self.save_file, "a", encoding="utf-8") as file:
            print(json.dumps({**meta, **stages}), file=file)

    @staticmethod
    def read(path):
        """The entries of a log, oldest first, but for one that is being written."""
        *lines, _ = Path(path).read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]


class IterationTensorboardLogger(EntryLogger, TensorboardLogger):
    """SpeechBrain's TensorBoard logger with the iteration on the horizontal axis.

    SpeechBrain's own step counts the entries of this process, and so restarts at zero
    when a run is resumed. The first entry creates the events file.

    Arguments
    ---------
    save_dir : str
        Folder of the events files.
    """

    def __init__(self, save_dir):
        self.save_dir, self.purge_step = save_dir, None
        self.global_step = {"train": {}, "valid": {}, "test": {}, "meta": 0}

    @cached_property
    def writer(self):
        """TensorBoard's ``SummaryWriter``."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.save_dir, purge_step=self.purge_step)

    def write(self, meta, stages):
        """Write scalars at ``meta["iteration"]``."""
        step = meta["iteration"]
        for name, value in meta.items():
            self.writer.add_scalar(name, value, step)
        for stage, stats in stages.items():
            for name, value in stats.items():
                self.writer.add_scalar(f"{name}/{stage}", value, step)
        self.writer.flush()

    def position(self):
        """Bytes in each events file; syncs them to disk first."""
        files = sorted(Path(self.save_dir).glob("events.*"))
        for path in files:
            sync(path)
        return {path.name: path.stat().st_size for path in files}

    @main_process_only
    def resume(self, position, iteration):
        """Continue at ``position``, or without any entry if that is None.

        ``purge_step`` tells a running TensorBoard to drop the truncated entries.
        """
        for path in Path(self.save_dir).glob("events.*"):
            if path.name in (position or {}):
                truncate(path, position[path.name])
            else:
                path.unlink()
        self.purge_step = iteration + 1


class NamedLogger(EntryLogger):
    """Passes a phase's entries on to a logger that several phases share.

    Every figure has the phase's name in front, so that no phase continues the curves of
    another, and no logger takes a phase's epochs, which begin at 1, for its own steps. It
    is not resumable, since its logger also holds the entries of other phases.

    Arguments
    ---------
    logger : TrainLogger
        Of all phases.
    name : str
        Of the phase.
    """

    def __init__(self, logger, name):
        self.logger, self.name = logger, name

    def write(self, meta, stages):
        """Pass an entry on."""
        named = {f"{stage}_stats": self.named(stats) for stage, stats in stages.items()}
        self.logger.log_stats(self.named(meta), **named)

    def named(self, figures):
        """Figures with the name of the phase in front."""
        return {f"{self.name}/{key}": value for key, value in figures.items()}


def run_loggers(folder, phase=None):
    """The loggers of every run: as text, as JSON lines and for TensorBoard."""
    return [
        TextLogger(folder / "train_log.txt", phase=phase),
        JsonLinesLogger(folder / "log.jsonl"),
        IterationTensorboardLogger(folder / "tensorboard"),
    ]


def further_loggers(train_logger):
    """The loggers of a recipe's ``train_logger``: none, one or several, each a train
    logger, or a factory that makes one."""
    if not isinstance(train_logger, (list, tuple)):
        train_logger = [] if train_logger is None else [train_logger]
    return [given() if callable(given) else given for given in train_logger]

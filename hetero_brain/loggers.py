"""Train loggers beside SpeechBrain's, with the iteration as the step."""

import json
from pathlib import Path

from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.train_logger import TensorboardLogger, TrainLogger


class EntryLogger(TrainLogger):
    """Takes SpeechBrain's entries and hands them to ``write`` on the main process."""

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


class JsonLinesLogger(EntryLogger):
    """One JSON object an entry, for ``report`` and for scripts.

    Arguments
    ---------
    save_file : str
        Where entries are appended.

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
        """The entries of a log, oldest first."""
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


class IterationTensorboardLogger(EntryLogger, TensorboardLogger):
    """SpeechBrain's TensorBoard logger with the iteration on the horizontal axis.

    SpeechBrain counts the entries of this process instead, which starts anew when a
    run is resumed.
    """

    def write(self, meta, stages):
        """Write scalars at ``meta["iteration"]``."""
        step = meta["iteration"]
        for name, value in meta.items():
            self.writer.add_scalar(name, value, step)
        for stage, stats in stages.items():
            for name, value in stats.items():
                self.writer.add_scalar(f"{name}/{stage}", value, step)
        self.writer.flush()

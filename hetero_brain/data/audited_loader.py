"""A data loader that tolerates a few unusable recordings, and reports each of them."""

import json
from pathlib import Path

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.logger import get_logger

from ..errors import InputError
from .worker_loader import WorkerLoader

logger = get_logger(__name__)

# With fewer unusable recordings than FEW_BAD, or before MIN_ROWS have been read, a
# fraction of them says little.
FEW_BAD, MIN_ROWS = 10, 100


@register_checkpoint_hooks
class AuditedLoader(WorkerLoader):
    """A loader that counts the recordings that cannot be used, and stops at too many.

    Its counts can be part of a checkpoint, so that a resumed run tolerates no more than
    one that was never interrupted.

    Arguments
    ---------
    dataset : Dataset
        Its items are tuples: a list of :class:`DomainBatch`, the messages about
        recordings that could not be used, and the number of rows read.
    max_bad_audio_fraction : float
        How large a fraction of the rows read so far may be unusable. It is checked after
        each iteration once 100 rows have been read, or ten of which none is usable, and
        at the end of each pass. Fewer than :data:`FEW_BAD` different recordings are
        tolerated, whatever their fraction, unless not a single one is usable.
    **kwargs
        Further arguments of :class:`WorkerLoader`.

    Attributes
    ----------
    bad, rows : int
        How many recordings could not be used, of how many read. A recording counts again
        in each epoch.
    problems : set of str
        One message for each recording that could not be used.
    """

    def __init__(self, dataset, max_bad_audio_fraction=0.01, **kwargs):
        self.max_bad, self.problems = max_bad_audio_fraction, set()
        self.bad, self.rows = 0, 0
        super().__init__(dataset, **kwargs)

    def __iter__(self):
        for domain_batches, problems, n_rows in super().__iter__():
            self.rows += n_rows
            self.bad += len(problems)
            for problem in set(problems) - self.problems:
                logger.warning(f"left out: {problem}")
            self.problems.update(problems)
            if self.rows >= MIN_ROWS or self.bad == self.rows >= FEW_BAD:
                self.check()
            # An empty list, too, is an iteration, in which other ranks take part.
            yield domain_batches
        self.check()

    def check(self):
        """Raise an InputError if too many of the recordings could not be used."""
        is_many = len(self.problems) >= FEW_BAD or self.bad == self.rows
        if is_many and self.bad > self.max_bad * self.rows:
            example = min(self.problems, default="")
            raise InputError(
                f"{self.bad} of {self.rows} recordings read could not be used, more than "
                f"max_bad_audio_fraction: {self.max_bad}. Repair or remove them, which "
                f"are named above, such as {example}"
            )

    @mark_as_saver
    def _save(self, path):
        # Existing checkpoints have the messages under this key.
        audit = {"bad": self.bad, "rows": self.rows, "faults": sorted(self.problems)}
        Path(path).write_text(json.dumps(audit), encoding="utf-8")

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        audit = json.loads(Path(path).read_text(encoding="utf-8"))
        self.bad, self.rows = audit["bad"], audit["rows"]
        self.problems = set(audit["faults"])


class SinglePartLoader(AuditedLoader):
    """An :class:`AuditedLoader` that yields one :class:`DomainBatch` at a time."""

    def __iter__(self):
        for domain_batches in super().__iter__():
            yield from domain_batches

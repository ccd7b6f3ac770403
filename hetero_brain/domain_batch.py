"""What a loader yields and ``fit_batch`` takes: batches that know their domain."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DomainBatch:
    """What one domain contributes to a global batch.

    Attributes
    ----------
    domain : str
        Name of the domain D_i.
    batches : tuple
        One batch, used at both levels (the paper), or K+1 fresh ones: local step k
        takes ``batches[k % len(batches)]``, the hypergradient ``batches[-1]``.
    """

    domain: str
    batches: tuple
    replica: int = 0

    def pin_memory(self):
        """The same in pinned memory; what a ``DataLoader`` asks for."""
        pinned = (
            b.pin_memory() if hasattr(b, "pin_memory") else b for b in self.batches
        )
        return DomainBatch(self.domain, tuple(pinned), self.replica)

    @property
    def unit(self):
        """Name of the local solve: the domain, and which replica if not the first."""
        return f"{self.domain}#{self.replica}" if self.replica else self.domain


class Share(list):
    """A rank's part of a global batch: its own :class:`DomainBatch` items.

    Arguments
    ---------
    domains : iterable of str
        The domain of every unit of the global batch, also of those of other ranks, over
        which the hypergradient is averaged.
    """

    def __init__(self, domains):
        super().__init__()
        self.domains = tuple(domains)

    def pin_memory(self):
        """The same in pinned memory; what a ``DataLoader`` asks for."""
        pinned = Share(self.domains)
        pinned.extend(part.pin_memory() for part in self)
        return pinned

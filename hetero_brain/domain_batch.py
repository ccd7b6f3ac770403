"""What a loader yields and ``fit_batch`` takes: batches that know their domain."""

import math
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


class NothingToLearn(ValueError):
    """A batch has no loss, though nothing is wrong; ``compute_objectives`` may raise it.

    Its domain is left out of the iteration, or its batch out of the validation loss.
    """


class NonFiniteDomain(ArithmeticError):
    """The loss or the gradient of a domain is not finite."""

    def __init__(self, loss, norm):
        super().__init__(f"loss {loss:.4g}, gradient norm {norm:.4g}")
        self.loss_is_finite = math.isfinite(loss)

    @classmethod
    def raise_for(cls, passes):
        """Raise it for the first pass of a solve, (loss, gradient norm), that is not
        finite; the norm that it tells is that of the last pass."""
        for loss, norm in passes:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise cls(loss, passes[-1][1])


def mean_divisors(own, domains, weights=None):
    """What to divide each loss by, so that the sum over all domains is their mean.

    Arguments
    ---------
    own : list of str
        The domains whose divisors are wanted: those of a rank.
    domains : list of str
        All domains of the global batch; one that is there twice counts twice.
    weights : dict
        Weight of each domain; equal by default.

    Returns
    -------
    list
        M for equal weights, as ``sb.Brain`` divides by its accumulation factor;
        Σ_j w_j / w_i for others.

    Raises
    ------
    ValueError
        A domain without a weight.

    Example
    -------
    >>> mean_divisors(["en", "fr"], ["en", "fr"], {"en": 3, "fr": 1})
    [1.3333333333333333, 4.0]
    """
    if weights is None:
        return [len(domains)] * len(own)
    if missing := {*domains} - set(weights):
        raise ValueError(f"domain_weights: no weight for {sorted(missing)}")
    total = sum(weights[domain] for domain in domains)
    return [total / weights[domain] for domain in own]

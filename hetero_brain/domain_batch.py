"""Batches with their domain: what a loader yields and ``fit_batch`` takes."""

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
    replica : int
        Number of this local solve among those of its domain in the iteration, from 0; in
        a validation, of this batch among those of its domain.
    """

    domain: str
    batches: tuple
    replica: int = 0

    def __post_init__(self):
        if not isinstance(self.batches, (tuple, list)):
            raise TypeError(
                f"batches of domain {self.domain}: a tuple is wanted, not "
                f"{type(self.batches).__name__}; write (batch,) for a single one"
            )

    def pin_memory(self):
        """A copy in pinned memory, for ``DataLoader(pin_memory=True)``."""
        pinned = (
            b.pin_memory() if hasattr(b, "pin_memory") else b for b in self.batches
        )
        return DomainBatch(self.domain, tuple(pinned), self.replica)

    @property
    def unit(self):
        """Name of the local solve: the domain, and its replica unless that is 0."""
        return f"{self.domain}#{self.replica}" if self.replica else self.domain


class Share(list):
    """A rank's part of a global batch: its own :class:`DomainBatch` items.

    Arguments
    ---------
    domains : iterable of str
        The domain of every unit of the global batch, including those of other ranks: the
        hypergradient is averaged over all of them.
    """

    def __init__(self, domains):
        super().__init__()
        self.domains = tuple(domains)

    def pin_memory(self):
        """A copy in pinned memory, for ``DataLoader(pin_memory=True)``."""
        pinned = Share(self.domains)
        pinned.extend(domain_batch.pin_memory() for domain_batch in self)
        return pinned


def domains_of(global_batch):
    """The domain of each item of a global batch, as a list of str.

    Raises
    ------
    TypeError
        It is no sequence of :class:`DomainBatch`, but an ordinary batch, for example.
    """
    try:
        return [item.domain for item in global_batch]
    except (AttributeError, TypeError):
        found = type(global_batch).__name__
        if isinstance(global_batch, (list, tuple)):
            found += f" with {type(global_batch[0]).__name__}"
        raise TypeError(
            "fit_batch takes a global batch, a list of DomainBatch, not "
            f"{found}: let the train loader yield a list with "
            "DomainBatch(domain, (batch,)) for each domain, or give fit a dataset and "
            "domain_key in train_loader_kwargs"
        ) from None


def drawn(drawer, batch, iteration):
    """What is drawn at random for a batch in an iteration, and kept with the batch.

    A loader that calls this has its workers draw, ahead of the Brain, which finds the
    result with the batch; it draws itself if there is none, or one of another iteration.

    Arguments
    ---------
    drawer : callable
        (batch, iteration) → tuple of tensors and numbers that depend on these two alone.
        Equal ones draw the same.
    batch : PaddedBatch
        On the host.
    iteration : int
        -1 in a validation.

    Returns
    -------
    tuple

    Example
    -------
    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(id=["a", "b"])
    >>> drawn(lambda batch, iteration: (len(batch.id), iteration), batch, 7)
    (2, 7)
    """
    key, values = getattr(batch, "drawn_ahead", (None, ()))
    if key != (drawer, iteration):
        values = drawer(batch, iteration)
        batch.drawn_ahead = (drawer, iteration), values
    return values


class NothingToLearn(ValueError):
    """A valid batch has no loss; ``compute_objectives`` may raise it.

    Its domain is left out of the iteration, or its batch out of the validation loss.
    """


def mean_divisors(own, domains, weights=None):
    """Divisors of the losses that make the sum over all domains their mean.

    Arguments
    ---------
    own : list of str
        The domains to return divisors for: those of a rank.
    domains : list of str
        All domains of the global batch; a domain listed twice counts twice.
    weights : dict
        Weight of each domain; equal by default.

    Returns
    -------
    list
        M for equal weights, as ``sb.Brain`` divides by its accumulation factor;
        otherwise Σ_j w_j / w_i.

    Raises
    ------
    ValueError
        A domain has no weight.

    Example
    -------
    >>> mean_divisors(["en", "fr"], ["en", "fr"], {"en": 3, "fr": 1})
    [1.3333333333333333, 4.0]
    """
    if weights is None:
        return [len(domains)] * len(own)
    if missing := {*domains} - set(weights):
        names = ", ".join(map(repr, sorted(missing)))
        there = ", ".join(map(repr, weights))
        raise ValueError(f"domain_weights: add a weight for {names}; there are {there}")
    total = sum(weights[domain] for domain in domains)
    return [total / weights[domain] for domain in own]

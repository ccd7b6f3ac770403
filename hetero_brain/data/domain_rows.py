"""Which domain each row of a dataset belongs to, and the batches of a domain's rows."""

import copy
from collections.abc import Mapping
from itertools import count, islice

from speechbrain.dataio.dataset import DynamicItemDataset
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, Subset

from ..errors import InputError
from ..training.rng import seeded
from ..training.settings import is_count

SHOWN = 5  # rows that an error names


def domains_of(dataset, domain_key):
    """The domain of each row of a dataset, without reading its audio.

    Arguments
    ---------
    dataset : Dataset
        A ``DynamicItemDataset``, or any other with a length if ``domain_key`` is a list.
    domain_key : str or sequence
        The key that holds the domain, in the data of the rows or as a dynamic item; or
        the domain of each row.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        There is no such key, or there are rows without a domain; names them.
    """
    if not len(dataset):
        raise InputError("the training set has no rows")
    if not isinstance(domain_key, str):
        names, values = range(len(dataset)), list(domain_key)
        if len(values) != len(dataset):
            raise InputError(
                f"domain_key: {len(values)} domains for {len(dataset)} rows; give one "
                "for each row"
            )
    elif not isinstance(dataset, DynamicItemDataset):
        raise InputError(
            f"domain_key: {domain_key!r} can be looked up in a DynamicItemDataset only; "
            f"for a {type(dataset).__name__}, give a list with the domain of each row"
        )
    else:
        names, values = dataset.data_ids, _values(dataset, domain_key)
    domains = ["" if value is None else str(value).strip() for value in values]
    if empty := [str(name) for name, domain in zip(names, domains) if not domain]:
        shown = ", ".join(empty[:SHOWN]) + (", …" if len(empty) > SHOWN else "")
        raise InputError(
            f"domain_key: {len(empty)} of {len(dataset)} rows have no domain under "
            f"{domain_key!r}: {shown}; give them one, or leave them out"
        )
    return domains


def _values(dataset, key):
    """What the rows of a DynamicItemDataset hold under a key."""
    rows = [dataset.data[name] for name in dataset.data_ids]
    if any(key in row for row in rows):
        return [row.get(key) for row in rows]
    pipeline = dataset.pipeline
    if key not in pipeline.key_to_node:
        known = ", ".join(sorted(map(str, pipeline.key_to_node)))
        raise InputError(f"domain_key: the rows have no key {key!r}, but {known}")
    rows = ({"id": name, **row} for name, row in zip(dataset.data_ids, rows))
    return [pipeline.compute_specific([key], row)[key] for row in rows]


def subset(dataset, rows):
    """Some rows of a dataset, as a dataset; a ``DynamicItemDataset`` stays one."""
    if not isinstance(dataset, DynamicItemDataset):
        return Subset(dataset, rows)
    part = copy.copy(dataset)  # shares data and dynamic items
    part.data_ids = [dataset.data_ids[row] for row in rows]
    return part


def sampler_factories(domains, batch_size, batch_sampler, shuffle, drop_last):
    """For each domain, a function from its part of a dataset to a batch sampler.

    Arguments
    ---------
    domains : list of str
        The names of the domains.
    batch_size, batch_sampler, shuffle, drop_last
        As for :func:`domain_loader`.

    Returns
    -------
    factories : dict
        Domain → callable.
    faults : list of str
        What is wrong with the arguments.
    """
    if (batch_size is None) == (batch_sampler is None):
        return {}, ["batch_size, batch_sampler: give exactly one of them"]
    if batch_sampler is not None:
        faults = []
        if not callable(batch_sampler):
            faults.append(
                f"batch_sampler: a {type(batch_sampler).__name__} mixes the domains; "
                "give a function from the rows of one domain to its sampler, e.g. "
                "lambda part: DynamicBatchSampler(part, …)"
            )
        if drop_last or not shuffle:
            faults.append("shuffle, drop_last: with batch_sampler, set them in there")
        return dict.fromkeys(domains, batch_sampler), faults
    sizes, faults = dict.fromkeys(domains, batch_size), []
    if isinstance(batch_size, Mapping):
        sizes = {str(domain): size for domain, size in batch_size.items()}
    for domain in sorted({*sizes} ^ {*domains}):
        has = "no size" if domain in domains else "a size, but no rows"
        faults.append(f"batch_size: the domain {domain!r} has {has}")
    for size in sizes.values():
        if not is_count(size, 1):
            faults.append(f"batch_size: {size!r} is not an integer ≥ 1")

    def factory(size):
        order = RandomSampler if shuffle else SequentialSampler
        return lambda part: BatchSampler(order(part), size, drop_last)

    return {domain: factory(size) for domain, size in sizes.items()}, faults


class DomainPart:
    """The rows of a domain, and its batches in any pass over them.

    The batches of a pass depend on its number and on the seed, whatever came before.

    Arguments
    ---------
    domain : str
        The name of the domain.
    rows : list of int
        Its row numbers in the dataset.
    sampler : iterable with a length
        Its batch sampler, whose batches are lists of indices into ``rows``. If it, or its
        attribute ``sampler``, has ``set_epoch``, that gets the number of the pass.
    seed : int
        Seed of samplers that draw from the global random generators.

    Attributes
    ----------
    n_batches : int
        How many batches pass 0 has.

    Raises
    ------
    InputError
        The sampler is none, or its batches do not depend on the pass alone.
    """

    def __init__(self, domain, rows, sampler, seed):
        self.domain, self.rows = domain, rows
        self.sampler, self.seed = sampler, seed
        if not (hasattr(sampler, "__iter__") and hasattr(sampler, "__len__")):
            kind = type(sampler).__name__
            raise InputError(f"batch_sampler: a {kind} is not a sampler with a length")
        first = self.batches(0)
        if first != self.batches(0):
            raise InputError(
                f"batch_sampler: that of the domain {domain!r} gives other batches "
                "whenever it is iterated; have it draw them from its epoch (set_epoch) "
                "or from the global random generators"
            )
        self.n_batches = len(first)

    def check(self, needed):
        """Raise :class:`InputError` if an iteration takes more batches than there are."""
        if self.n_batches < needed:
            raise InputError(
                f"the domain {self.domain!r} has {len(self.rows)} rows in "
                f"{self.n_batches} batches, and an iteration takes {needed} of each "
                "domain; make its batches smaller, or leave its rows out"
            )

    def batches(self, number):
        """The batches of a pass, each a list of row numbers in the dataset."""
        with seeded(self.seed, "batches", self.domain, number):
            for sampler in (self.sampler, getattr(self.sampler, "sampler", None)):
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(number)
            # A DynamicBatchSampler that is iterated to its end makes all batches anew.
            batches = islice(self.sampler, len(self.sampler))
            return [[self.rows[i] for i in batch] for batch in batches]

    def stream(self, first):
        """The batches of pass ``first``, then those of the next, without end."""
        for number in count(first):
            yield from self.batches(number)

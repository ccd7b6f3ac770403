"""From the datasets of SpeechBrain to global batches."""

import os
from itertools import islice
from typing import NamedTuple

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch.utils.data import Dataset, default_collate

from ..domain_batch import DomainBatch, Share
from ..errors import InputError
from ..training.parallel import check_ranks, rank_and_size
from ..training.rng import seeded
from ..training.settings import is_count
from .domain_rows import DomainPart, domains_of, sampler_factories, subset
from .loaders import EpochSampler
from .worker_loader import WorkerLoader


def domain_loader(
    dataset,
    domain_key="domain",
    batch_size=None,
    batch_sampler=None,
    collate_fn=None,
    shuffle=True,
    drop_last=False,
    seed=None,
    batches_per_iteration=1,
    replicas_per_domain=1,
    **loader_options,
):
    """A loader of global batches from a dataset of SpeechBrain, for ``Brain.fit``.

    A global batch has a batch of every domain. An epoch is one pass over the domain with
    the most batches, as counted in the first epoch. In it, the other domains begin anew,
    shuffled again, as often as they come to their end. If a sampler makes more batches in
    a later epoch, those are left out.

    The global batch of an iteration, and all that the dataset and ``collate_fn`` draw at
    random for it, depend on the seed and on the iteration alone. A run thus resumes
    exactly, with any number of workers and without reading what came before. On several
    ranks, each has every size-th unit, so that a domain stays on its rank.

    Workers are forked from the run, as by SpeechBrain, since the functions in a dataset
    can seldom be pickled.

    Arguments
    ---------
    dataset : Dataset
        A ``DynamicItemDataset``, filtered and sorted or not; or any other dataset with a
        length if ``domain_key`` is a list.
    domain_key : str or sequence
        The key that holds the domain of a row, in its data or as a dynamic item; or the
        domain of each row.
    batch_size : int or dict, optional
        Rows in a batch, or domain → rows.
    batch_sampler : callable, optional
        Instead of ``batch_size``: from the part of the dataset with the rows of one
        domain to its batch sampler, e.g. ``lambda part: DynamicBatchSampler(part, …)``.
    collate_fn : callable, optional
        From a list of examples to a batch. Default: that of SpeechBrain.
    shuffle : bool
        Whether a pass has the rows of a domain in random order.
    drop_last : bool
        Whether to leave out the last batch of a pass if it is not full.
    seed : int, optional
        Default: that of SpeechBrain's ``seed_everything``.
    batches_per_iteration : int
        Batches of a unit in an iteration: 1, or K+1 to have a fresh one for each local
        step and for the hypergradient.
    replicas_per_domain : int
        Units of a domain in an iteration, each with batches of its own, so that more
        ranks than domains can share an iteration.
    **loader_options
        Further arguments of ``DataLoader``: ``num_workers``, ``pin_memory``, ….

    Returns
    -------
    WorkerLoader
        Yields this rank's :class:`Share` of the global batches.

    Raises
    ------
    InputError
        Names all that is wrong with the arguments.
    ValueError
        There are more ranks than units in an iteration.

    Example
    -------
    >>> rows = {f"utt{i}": {"domain": "en" if i < 4 else "fr"} for i in range(6)}
    >>> dataset = DynamicItemDataset(rows, output_keys=["id", "domain"])
    >>> for part in next(iter(domain_loader(dataset, batch_size=2, shuffle=False))):
    ...     print(part.domain, part.batches[0].id)
    en ['utt0', 'utt1']
    fr ['utt4', 'utt5']
    """
    if seed is None:
        seed = int(os.environ.get("SB_GLOBAL_SEED", 563375142))  # SpeechBrain's default
    rows = {}
    for row, domain in enumerate(domains_of(dataset, domain_key)):
        rows.setdefault(domain, []).append(row)
    domains = sorted(rows)
    factories, faults = sampler_factories(
        domains, batch_size, batch_sampler, shuffle, drop_last
    )
    counts = {
        "batches_per_iteration": batches_per_iteration,
        "replicas_per_domain": replicas_per_domain,
    }
    faults += [
        f"{key}: {value!r} is not an integer ≥ 1"
        for key, value in counts.items()
        if not is_count(value, 1)
    ]
    if "sampler" in loader_options:
        faults.append(
            "sampler: leave it out; a sampler for each domain is given by batch_sampler"
        )
    parts = []
    if not faults:
        for domain in domains:
            sampler = factories[domain](subset(dataset, rows[domain]))
            try:
                part = DomainPart(domain, rows[domain], sampler, seed)
                part.check(batches_per_iteration * replicas_per_domain)
                parts.append(part)
            except InputError as error:
                faults.append(str(error))
    if faults:
        raise InputError("domain_loader:\n  " + "\n  ".join(dict.fromkeys(faults)))
    rank, size = rank_and_size()
    check_ranks(size, len(domains), replicas_per_domain)
    if collate_fn is None:
        padded = isinstance(dataset, DynamicItemDataset)
        collate_fn = PaddedBatch if padded else default_collate
    workers = loader_options.get("num_workers", 0)
    defaults = {
        "multiprocessing_context": "fork",
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
    return WorkerLoader(
        SharedExamples(
            dataset, sorted(domains * replicas_per_domain), collate_fn, seed
        ),
        sampler=DomainSampler(
            parts, batches_per_iteration, replicas_per_domain, rank, size
        ),
        **{**defaults, **loader_options},
    )


class Unit(NamedTuple):
    """The rows of one local solve: a domain, or a replica of it, and its batches."""

    domain: str
    replica: int
    batches: list


class DomainSampler(EpochSampler):
    """The iterations of an :class:`EpochSampler` with the units of a rank.

    Yields the number of each iteration and its list of :class:`Unit`.

    Arguments
    ---------
    parts : list of DomainPart
        The domains.
    batches_per_iteration, replicas_per_domain : int
        As for :func:`domain_loader`.
    rank, size : int
        Which units to yield: every ``size``-th, from ``rank`` on.
    """

    def __init__(self, parts, batches_per_iteration, replicas_per_domain, rank, size):
        self.parts, self.n_batches = parts, batches_per_iteration
        self.replicas, self.rank, self.size = replicas_per_domain, rank, size
        self.taken = batches_per_iteration * replicas_per_domain
        counts = [part.n_batches for part in parts]
        super().__init__(-(-max(counts) // self.taken))
        # Passes of a domain in an epoch, one more than that so that none is had twice.
        self.passes = [1 + self.steps_per_epoch * self.taken // n for n in counts]

    def __iter__(self):
        epoch, done = divmod(self.first, self.steps_per_epoch)
        streams = []
        for part, passes in zip(self.parts, self.passes):
            stream = part.stream(epoch * passes)
            streams.append(islice(stream, done * self.taken, None))
        for iteration in super().__iter__():
            units = [
                Unit(part.domain, replica, [*islice(stream, self.n_batches)])
                for part, stream in zip(self.parts, streams)
                for replica in range(self.replicas)
            ]
            yield iteration, units[self.rank :: self.size]


class SharedExamples(Dataset):
    """A rank's share of a global batch, by the number of the iteration and its units.

    Arguments
    ---------
    dataset : Dataset
        The examples.
    domains : list of str
        The domain of every unit of an iteration, those of other ranks included.
    collate_fn : callable
        From a list of examples to a batch.
    seed : int
        Seed of what the dataset and ``collate_fn`` draw at random.
    """

    def __init__(self, dataset, domains, collate_fn, seed):
        self.dataset, self.domains = dataset, domains
        self.collate_fn, self.seed = collate_fn, seed

    def __getitem__(self, index):
        iteration, units = index
        share = Share(self.domains)
        for domain, replica, batches in units:
            with seeded(self.seed, "examples", iteration, domain, replica):
                read = tuple(
                    self.collate_fn([self.dataset[row] for row in rows])
                    for rows in batches
                )
            share.append(DomainBatch(domain, read, replica))
        return share

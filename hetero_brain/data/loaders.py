"""Manifests to loaders of global batches.

Global batch t is ``GlobalBatches(...)[t]``: a function of t alone, so that a run starts
at any iteration without reading what came before.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader, Dataset, Sampler

from ..domain_batch import DomainBatch, Share
from ..errors import InputError
from ..training.parallel import rank_and_size, share_out
from ..training.rng import generator
from .audio import BadAudio, read_audio
from .plan import Plan
from .workers import Packed, blame_dead_workers, overdue, pack, worker_options

logger = get_logger(__name__)

FEW_BAD = 10  # recordings that cannot be used; a few are no reason to stop


class Utterances(Dataset):
    """The rows of a manifest as examples, with their audio.

    Arguments
    ---------
    manifest : Manifest
        The rows.
    sample_rate : int
        Hz.
    tokenizer : callable
        Words → list of int, given as ``tokens``; None where there are no labels.
    max_utterance_seconds : float
        Longer recordings give a random window of that length (unlabelled speech).
    seed : int
        Of the windows.
    """

    def __init__(
        self, manifest, sample_rate, tokenizer=None, max_utterance_seconds=None, seed=0
    ):
        self.manifest, self.sample_rate = manifest, sample_rate
        self.tokenizer = tokenizer
        self.max_seconds, self.seed = max_utterance_seconds, seed

    def __len__(self):
        return len(self.manifest)

    def batch(self, rows, step):
        """The rows of one batch as a ``PaddedBatch``, those that cannot be read left out.

        Returns
        -------
        batch : PaddedBatch or None
            With ``id``, ``sig``, ``domain``, ``wrd`` and, with a tokenizer, ``tokens``;
            None if no row could be read.
        faults : list of str
            What was wrong with each that could not.
        """
        examples, faults = [], []
        for index in rows:
            row = self.manifest[int(index)]
            rng = generator(self.seed, "window", step, row["ID"])
            try:
                signal = read_audio(row, self.sample_rate, self.max_seconds, rng)
            except BadAudio as fault:
                faults.append(f"{self.manifest.path}, {row['ID']}: {fault}")
                continue
            example = {"id": row["ID"], "sig": signal}
            example |= {"domain": row["domain"], "wrd": row["wrd"]}
            if self.tokenizer is not None:
                example["tokens"] = torch.tensor(self.tokenizer(row["wrd"]))
            examples.append(example)
        return (PaddedBatch(examples) if examples else None), faults


class GlobalBatches(Dataset):
    """Global batch t as item t: a list of :class:`DomainBatch`, and what was unusable.

    Arguments
    ---------
    utterances : Utterances
        Where examples come from.
    plan : Plan
        Step → rows of each unit.
    rank, size : int
        This process's rank, and how many share an iteration: items are its units.
    fixed_owners : bool
        A domain stays with one rank, as its local optimizer state does; else the shares
        of an iteration are made as equal as they can be.

    Raises
    ------
    ValueError
        More ranks than units in an iteration.
    """

    def __init__(self, utterances, plan, rank=0, size=1, fixed_owners=False):
        self.utterances, self.plan = utterances, plan
        self.rank, self.size, self.fixed_owners = rank, size, fixed_owners
        if size > plan.units_per_iteration:
            raise ValueError(
                f"{size} ranks for {plan.units_per_iteration} units an "
                f"iteration ({plan.domains_per_iteration} domains × "
                f"replicas_per_domain: {plan.replicas_per_domain}); raise "
                "replicas_per_domain, or start fewer ranks"
            )

    def __getitem__(self, step):
        units, faults, n_rows = self.plan[step], [], 0
        parts = Share(unit.domain for unit in units)
        for i, (unit, owner) in enumerate(zip(units, self.owners(units))):
            if owner != self.rank:
                continue
            read = [self.utterances.batch(rows, step) for rows in unit.batches]
            n_rows += sum(len(rows) for rows in unit.batches)
            faults += [fault for _, some in read for fault in some]
            usable = tuple(batch for batch, _ in read if batch is not None)
            if usable:
                replica = i % self.plan.replicas_per_domain
                parts.append(DomainBatch(unit.domain, usable, replica))
        return parts, faults, n_rows

    def owners(self, units):
        """The rank of each unit of a ``plan[step]``."""
        if self.fixed_owners:
            replicas, index = self.plan.replicas_per_domain, self.plan.domains.index
            return [
                (index(unit.domain) * replicas + i % replicas) % self.size
                for i, unit in enumerate(units)
            ]
        return share_out(self.padded_seconds(units), self.size)

    def padded_seconds(self, units):
        """What each unit of a ``plan[step]`` costs at most, as on a GPU: seconds of audio
        with its padding."""
        durations = self.utterances.manifest.duration
        limit = self.utterances.max_seconds or float("inf")
        return [
            sum(
                len(rows) * min(float(durations[rows].max()), limit)
                for rows in unit.batches
            )
            for unit in units
        ]


class DevBatches(Dataset):
    """All utterances once, sorted by domain and length: items are single domain batches.

    Arguments
    ---------
    utterances : Utterances
        Where examples come from.
    batch_seconds : float
        Audio in a batch, padding included.
    rank, size : int
        Every ``size``-th batch from this one on is a rank's: all ranks together have
        each utterance once.
    """

    def __init__(self, utterances, batch_seconds, rank=0, size=1):
        self.utterances, manifest = utterances, utterances.manifest
        order = np.lexsort((manifest.duration, manifest.domain))
        self.cuts, rows = [], []
        for row in order:
            other = rows and manifest.domain[row] != manifest.domain[rows[0]]
            if rows and (
                other or manifest.duration[row] * (len(rows) + 1) > batch_seconds
            ):
                self.cuts.append(rows)
                rows = []
            rows.append(row)
        if rows:
            self.cuts.append(rows)
        self.cuts = self.cuts[rank::size]

    def __len__(self):
        return len(self.cuts)

    def __getitem__(self, index):
        rows = self.cuts[index]
        batch, faults = self.utterances.batch(rows, step=0)
        domain = self.utterances.manifest[int(rows[0])]["domain"]
        parts = [] if batch is None else [DomainBatch(domain, (batch,))]
        return parts, faults, len(rows)


class EpochSampler(Sampler):
    """Iteration numbers from where a run stands to the end of the epoch.

    Arguments
    ---------
    steps_per_epoch : int
        Iterations in an epoch.
    """

    def __init__(self, steps_per_epoch):
        self.steps_per_epoch, self.first = steps_per_epoch, 0

    def start_at(self, iteration):
        """Begin the next pass at this iteration."""
        self.first = iteration

    def __iter__(self):
        epoch = self.first // self.steps_per_epoch
        return iter(range(self.first, (epoch + 1) * self.steps_per_epoch))

    def __len__(self):
        return self.steps_per_epoch


@register_checkpoint_hooks
class AuditedLoader(DataLoader):
    """A loader that counts recordings which cannot be used, and stops at too many.

    A checkpoint may hold its counts, so that a resumed run is as lenient.

    Arguments
    ---------
    dataset : Dataset
        Items are (parts, faults, number of rows).
    max_bad_audio_fraction : float
        Of the rows read so far, once there are 100 of them or all have been read. Fewer
        than :data:`FEW_BAD` recordings are let pass, whatever their fraction, unless
        there is no good one.
    **kwargs
        As for ``DataLoader``.
    """

    def __init__(self, dataset, max_bad_audio_fraction=0.01, **kwargs):
        self.max_bad, self.faults = max_bad_audio_fraction, set()
        self.bad, self.rows = 0, 0  # of all that was read, also again in later epochs
        if kwargs.get("num_workers"):
            kwargs |= worker_options()
        super().__init__(dataset, batch_size=None, collate_fn=pack, **kwargs)

    def items(self):
        """The items of the data set, one by one, as workers hand them over.

        Raises
        ------
        WorkerDied
            A worker has ended; which one, and why.
        """
        iterator = None
        while True:
            try:
                with overdue(self.num_workers):
                    if iterator is None:
                        iterator = super().__iter__()
                    item = next(iterator)
            except StopIteration:
                return
            except Exception as fault:
                blame_dead_workers(
                    self._iterator if iterator is None else iterator, fault
                )
                raise
            yield item.unpack() if isinstance(item, Packed) else item

    def __iter__(self):
        for parts, faults, n_rows in self.items():
            self.rows += n_rows
            self.bad += len(faults)
            for fault in set(faults) - self.faults:
                logger.warning(f"left out: {fault}")
            self.faults.update(faults)
            if self.rows >= 100:
                self.check()
            yield parts  # also without any: it is an iteration, and ranks take part
        self.check()

    @mark_as_saver
    def _save(self, path):
        audit = {"bad": self.bad, "rows": self.rows, "faults": sorted(self.faults)}
        Path(path).write_text(json.dumps(audit), encoding="utf-8")

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        audit = json.loads(Path(path).read_text(encoding="utf-8"))
        self.bad, self.rows = audit["bad"], audit["rows"]
        self.faults = set(audit["faults"])

    def check(self):
        """Raise BadAudio if too much of what was read could not be used."""
        many = len(self.faults) >= FEW_BAD or self.bad == self.rows
        if many and self.bad > self.max_bad * self.rows:
            shown = "\n  ".join(sorted(self.faults)[:20])
            raise BadAudio(
                f"{self.bad} of {self.rows} recordings read could not be used, more "
                f"than max_bad_audio_fraction: {self.max_bad}. Mend or remove:\n  {shown}"
            )


class SinglePartLoader(AuditedLoader):
    """An :class:`AuditedLoader` whose items are single domain batches."""

    def __iter__(self):
        for parts in super().__iter__():
            yield from parts


def train_loader(
    utterances, plan, num_workers=0, max_bad_audio_fraction=0.01, fixed_owners=False
):
    """Loader of this rank's share of the plan's global batches, an epoch a pass.

    Arguments
    ---------
    utterances : Utterances
        Where examples come from.
    plan : Plan
        Step → rows of each domain.
    num_workers : int
        Processes that read audio; batches do not depend on their number.
    max_bad_audio_fraction : float
        Stop when more of the recordings than this cannot be used.
    fixed_owners : bool
        As for :class:`GlobalBatches`.

    Returns
    -------
    AuditedLoader
    """
    return AuditedLoader(
        GlobalBatches(utterances, plan, *rank_and_size(), fixed_owners),
        max_bad_audio_fraction,
        sampler=EpochSampler(plan.steps_per_epoch),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def dev_loader(utterances, batch_seconds, num_workers=0, max_bad_audio_fraction=0.01):
    """Loader of this rank's share of all utterances, as single domain batches.

    Arguments
    ---------
    utterances : Utterances
        Where examples come from.
    batch_seconds : float
        Audio in a batch, padding included.
    num_workers, max_bad_audio_fraction
        As for :func:`train_loader`.

    Returns
    -------
    SinglePartLoader
    """
    return SinglePartLoader(
        DevBatches(utterances, batch_seconds, *rank_and_size()),
        max_bad_audio_fraction,
        num_workers=num_workers,
    )


def labelled(manifest, seed, max_finetune_hours=None):
    """The rows with a transcript, up to some hours of each domain.

    Arguments
    ---------
    manifest : Manifest
        Any.
    seed : int
        Rows are drawn at random with it, so that a smaller set is part of a larger one.
    max_finetune_hours : float or dict
        Audio to keep of each domain; None for all. A dict gives it by domain, and keeps
        all of those that it does not name.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        A domain without any transcript, or not one within its hours.
    """
    by_domain = max_finetune_hours
    if not isinstance(by_domain, Mapping):
        by_domain = dict.fromkeys(manifest.domains, max_finetune_hours)
    hours = [by_domain.get(name) for name in manifest.domains]
    limits = [np.inf if cap is None else 3600 * cap for cap in hours]
    order = generator(seed, "labels").permutation(len(manifest))
    kept, seconds = [], np.zeros(len(manifest.domains))
    for row in order:
        domain = manifest.domain[row]
        if seconds[domain] <= limits[domain] and manifest[int(row)]["wrd"]:
            seconds[domain] += manifest.duration[row]
            if (
                seconds[domain] <= limits[domain]
            ):  # once over, always, so that sets nest
                kept.append(row)
    found = set(manifest.domain[kept])
    if bare := [d for i, d in enumerate(manifest.domains) if i not in found]:
        raise InputError(
            f"{manifest.path}: no transcripts in domains {bare} "
            f"(max_finetune_hours: {max_finetune_hours})"
        )
    return manifest.subset(sorted(kept))


def make_plan(manifest, seed, max_utterance_seconds=None, **settings):
    """The :class:`Plan` of a manifest; ``settings`` as for ``Plan``."""
    plan = Plan(
        manifest.duration,
        manifest.domain,
        manifest.domains,
        seed=seed,
        max_utterance_seconds=max_utterance_seconds,
        **settings,
    )
    for domain, figures in plan.summary().items():
        figures = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
        logger.info(f"{manifest.path}, {domain}: {figures}")
    return plan

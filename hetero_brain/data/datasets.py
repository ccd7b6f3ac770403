"""Manifest rows as padded batches, and batches of domains as PyTorch datasets.

Global batch t is ``GlobalBatches(...)[t]``. It depends on t alone, so that a run can
start at any iteration without reading what came before.
"""

from collections import Counter

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch.utils.data import Dataset

from ..domain_batch import DomainBatch, Share, drawn
from ..training.parallel import check_ranks, share_out
from ..training.rng import generator
from .audio import BadAudio, read_audio


class Utterances(Dataset):
    """The rows of a manifest with their audio, collated into padded batches.

    Arguments
    ---------
    manifest : Manifest
        The rows.
    sample_rate : int
        Hz.
    tokenizer : callable, optional
        Transcript → list of int, which batches then hold as ``tokens``. Default: no
        labels.
    max_utterance_seconds : float, optional
        Of a longer recording, a window of this length is read, drawn at random (for
        unlabelled speech).
    seed : int
        Seed of the windows.
    augment : WaveformAugmentation, optional
        (batch, step) → augments the batch in place.
    """

    def __init__(
        self,
        manifest,
        sample_rate,
        tokenizer=None,
        max_utterance_seconds=None,
        seed=0,
        augment=None,
    ):
        self.manifest, self.sample_rate = manifest, sample_rate
        self.tokenizer, self.augment = tokenizer, augment
        self.max_seconds, self.seed = max_utterance_seconds, seed

    def __len__(self):
        return len(self.manifest)

    def batch(self, rows, step):
        """Read and collate some rows; those whose audio cannot be used are left out.

        Arguments
        ---------
        rows : iterable of int
            Row numbers.
        step : int
            The iteration, on which windows and augmentation depend.

        Returns
        -------
        batch : PaddedBatch or None
            With ``id``, ``sig``, ``domain``, ``wrd`` and, if there is a tokenizer,
            ``tokens``. None if no row could be used.
        problems : list of str
            One message for each row that was left out.
        """
        examples, problems = [], []
        for index in rows:
            row = self.manifest[int(index)]
            rng = generator(self.seed, "window", step, row["ID"])
            try:
                signal = read_audio(row, self.sample_rate, self.max_seconds, rng)
            except BadAudio as error:
                problems.append(f"{self.manifest.path}, {row['ID']}: {error}")
                continue
            example = {"id": row["ID"], "sig": signal}
            example |= {"domain": row["domain"], "wrd": row["wrd"]}
            if self.tokenizer is not None:
                example["tokens"] = torch.tensor(self.tokenizer(row["wrd"]))
            examples.append(example)
        batch = PaddedBatch(examples) if examples else None
        if batch is not None and self.augment is not None:
            self.augment(batch, step)
        return batch, problems


class GlobalBatches(Dataset):
    """A rank's units of global batch t, as item t.

    An item is a tuple of three: a :class:`Share` of :class:`DomainBatch`, the messages
    about rows that could not be used, and the number of rows read.

    Arguments
    ---------
    utterances : Utterances
        Reads the audio.
    plan : Plan
        Step → rows of each unit.
    rank, size : int
        The rank whose units are read, and how many ranks share an iteration.
    fixed_owners : bool
        Whether a domain always belongs to the same rank, as it must if its local
        optimizer state is kept. Otherwise, units are distributed so that the ranks have
        as equal an amount of audio as possible.
    drawer : callable, optional
        Draws what is random of each batch; see :func:`~hetero_brain.domain_batch.drawn`.

    Raises
    ------
    ValueError
        If there are more ranks than units in an iteration.
    """

    def __init__(
        self, utterances, plan, rank=0, size=1, fixed_owners=False, drawer=None
    ):
        self.utterances, self.plan, self.drawer = utterances, plan, drawer
        self.rank, self.size, self.fixed_owners = rank, size, fixed_owners
        check_ranks(size, plan.domains_per_iteration, plan.replicas_per_domain)

    def __getitem__(self, step):
        units, problems, n_rows = self.plan[step], [], 0
        share = Share(unit.domain for unit in units)
        for i, (unit, owner) in enumerate(zip(units, self.owners(units))):
            if owner != self.rank:
                continue
            read = [self.utterances.batch(rows, step) for rows in unit.batches]
            n_rows += sum(len(rows) for rows in unit.batches)
            problems += [message for _, messages in read for message in messages]
            usable = tuple(batch for batch, _ in read if batch is not None)
            if self.drawer is not None:
                for batch in usable:
                    drawn(self.drawer, batch, step)
            if usable:
                replica = i % self.plan.replicas_per_domain
                share.append(DomainBatch(unit.domain, usable, replica))
        return share, problems, n_rows

    def owners(self, units):
        """The rank of each unit of a global batch.

        Arguments
        ---------
        units : list of DomainRows
            A ``plan[step]``.

        Returns
        -------
        list of int
        """
        if self.fixed_owners:
            replicas, index = self.plan.replicas_per_domain, self.plan.domains.index
            return [
                (index(unit.domain) * replicas + i % replicas) % self.size
                for i, unit in enumerate(units)
            ]
        return share_out(self.padded_seconds(units), self.size)

    def padded_seconds(self, units):
        """Seconds of audio in each unit of a global batch, including its padding.

        This is what a unit costs on a GPU, and at most what it costs on a CPU.

        Arguments
        ---------
        units : list of DomainRows
            A ``plan[step]``.

        Returns
        -------
        list of float
        """
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
    """All utterances once, sorted by domain and length, in batches of a single domain.

    An item is a tuple of three: a list of one :class:`DomainBatch`, or of none if no row
    could be used, the messages about rows that could not, and the number of rows read.

    Arguments
    ---------
    utterances : Utterances
        Reads the audio.
    batch_seconds : float
        Seconds of audio in a batch, including padding.
    rank, size : int
        A rank has every ``size``-th batch, from batch ``rank`` on, so that all ranks
        together have each utterance once.
    drawer : callable, optional
        As for :class:`GlobalBatches`.
    """

    def __init__(self, utterances, batch_seconds, rank=0, size=1, drawer=None):
        self.utterances, manifest = utterances, utterances.manifest
        self.drawer = drawer
        self.batches, rows = [], []
        for row in np.lexsort((manifest.duration, manifest.domain)):
            # The last row is the longest of its batch, to which the others are padded.
            padded_seconds = manifest.duration[row] * (len(rows) + 1)
            is_other_domain = rows and manifest.domain[row] != manifest.domain[rows[0]]
            if rows and (is_other_domain or padded_seconds > batch_seconds):
                self.batches.append(rows)
                rows = []
            rows.append(row)
        if rows:
            self.batches.append(rows)
        numbers, counts = [], Counter()  # of each batch among those of its domain
        for rows in self.batches:
            domain = manifest.domain[rows[0]]
            numbers.append(counts[domain])
            counts[domain] += 1
        self.batches, self.numbers = self.batches[rank::size], numbers[rank::size]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        rows = self.batches[index]
        batch, problems = self.utterances.batch(rows, step=0)
        domain = self.utterances.manifest[int(rows[0])]["domain"]
        found = batch is not None
        if found and self.drawer is not None:
            drawn(self.drawer, batch, iteration=-1)
        parts = [DomainBatch(domain, (batch,), self.numbers[index])] if found else []
        return parts, problems, len(rows)

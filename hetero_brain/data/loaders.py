"""The loaders of a run: plans and utterances in, global batches and dev batches out."""

import torch
from torch.utils.data import Sampler

from ..training.parallel import rank_and_size
from .audited_loader import AuditedLoader, SinglePartLoader
from .datasets import DevBatches, GlobalBatches
from .plan import Plan


class EpochSampler(Sampler):
    """Iteration numbers from where a run stands to the end of that epoch.

    Arguments
    ---------
    steps_per_epoch : int
        Iterations in an epoch.

    Example
    -------
    >>> sampler = EpochSampler(4)
    >>> sampler.start_at(6)
    >>> list(sampler)
    [6, 7]
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


def make_plan(manifest, seed, max_utterance_seconds=None, **settings):
    """Plan the global batches of a manifest.

    Arguments
    ---------
    manifest : Manifest
        What to train on.
    seed, max_utterance_seconds, **settings
        As for :class:`Plan`.

    Returns
    -------
    Plan
    """
    return Plan(
        manifest.duration,
        manifest.domain,
        manifest.domains,
        seed=seed,
        max_utterance_seconds=max_utterance_seconds,
        **settings,
    )


def train_loader(
    utterances,
    plan,
    num_workers=0,
    max_bad_audio_fraction=0.01,
    fixed_owners=False,
    drawer=None,
):
    """A loader of this rank's share of the global batches; one pass is one epoch.

    Arguments
    ---------
    utterances : Utterances
        Reads the audio.
    plan : Plan
        Step → rows of each unit.
    num_workers : int
        Processes that read audio; the batches do not depend on their number.
    max_bad_audio_fraction : float
        Stop if a larger fraction of the recordings cannot be used.
    fixed_owners, drawer
        As for :class:`GlobalBatches`.

    Returns
    -------
    AuditedLoader
    """
    return AuditedLoader(
        GlobalBatches(utterances, plan, *rank_and_size(), fixed_owners, drawer),
        max_bad_audio_fraction,
        sampler=EpochSampler(plan.steps_per_epoch),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def dev_loader(
    utterances, batch_seconds, num_workers=0, max_bad_audio_fraction=0.01, drawer=None
):
    """A loader of this rank's share of all utterances, one domain batch at a time.

    Arguments
    ---------
    utterances : Utterances
        Reads the audio.
    batch_seconds : float
        Seconds of audio in a batch, including padding.
    num_workers, max_bad_audio_fraction, drawer
        As for :func:`train_loader`.

    Returns
    -------
    SinglePartLoader
    """
    return SinglePartLoader(
        DevBatches(utterances, batch_seconds, *rank_and_size(), drawer),
        max_bad_audio_fraction,
        num_workers=num_workers,
    )

"""Cuts the utterances of a domain into batches of similar length and equal seconds."""

from typing import NamedTuple

import numpy as np

# Utterances are sorted by their duration times a random factor from 1 to 1 + JITTER. A
# larger value makes the batches of two epochs differ more, but also adds padding: about
# half of the value in a large domain.
JITTER = 0.08


class Buckets(NamedTuple):
    """The batches of a domain in one epoch.

    Attributes
    ----------
    order : np.ndarray of int32, shape (utterances of the domain,)
        The utterances, sorted by length.
    edges : np.ndarray of int, shape (batches + 1,)
        Batch j is ``order[edges[j] : edges[j + 1]]``.
    shuffled : np.ndarray of int, shape (batches,)
        The batches in the order in which an epoch takes them; it skips those at the end.
    """

    order: np.ndarray
    edges: np.ndarray
    shuffled: np.ndarray

    def utterances(self, i):
        """The utterances of the i-th batch that an epoch takes."""
        batch = self.shuffled[i]
        return self.order[self.edges[batch] : self.edges[batch + 1]]


def cut_into_buckets(durations, n_batches, rng):
    """Cut the utterances of a domain into batches for one epoch.

    Arguments
    ---------
    durations : np.ndarray of float32, shape (utterances,)
        Seconds.
    n_batches : int
        How many batches, from 1 to the number of utterances.
    rng : numpy.random.Generator
        Draws the jitter of the lengths and the order of the batches.

    Returns
    -------
    Buckets

    Example
    -------
    >>> durations = np.array([1.0, 3.0, 1.0, 1.0], np.float32)
    >>> buckets = cut_into_buckets(durations, 2, np.random.default_rng(0))
    >>> sorted(len(buckets.utterances(i)) for i in range(2))
    [1, 3]
    """
    n_utterances = len(durations)

    # 1. Sort by approximate length. The jitter is a factor, because a logarithm may be
    #    rounded differently on another machine. The sort is stable, so that the order
    #    of equal lengths is the same everywhere, too.
    jittered = durations * (1 + JITTER * rng.random(n_utterances))
    order = np.argsort(jittered, kind="stable").astype(np.int32)

    # 2. Cut into equal seconds: an utterance belongs where its middle falls.
    durations = durations[order]
    ends = durations.cumsum(dtype=np.float64)
    inner = np.arange(1, n_batches)
    cuts = np.searchsorted(ends - durations / 2, ends[-1] * inner / n_batches)

    # 3. Leave no batch empty, even where an utterance is longer than a batch: before
    #    cut j there are at least j utterances, and behind it one for each later batch.
    slack = np.maximum.accumulate(cuts - inner)
    cuts = inner + np.clip(slack, 0, n_utterances - n_batches)

    edges = np.concatenate(([0], cuts, [n_utterances]))
    return Buckets(order, edges, rng.permutation(n_batches))

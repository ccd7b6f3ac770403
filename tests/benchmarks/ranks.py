"""8. Ranks: how long they wait for each other, and how much they send."""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch

import hetero_brain.brain
import hetero_brain.training.parallel
from hetero_brain.data.datasets import GlobalBatches
from hetero_brain.data.plan import Plan
from hetero_brain.training.parallel import rank_and_size, reduce_gradients

from .measure import Table, alternate, ratios, spread
from .models import ours
from .speech import RATE

HOURS = {"news": 420, "dictation": 450, "rendezvouss": 80, "british": 183, "libri": 860}
LIMIT = 16  # maximum length of an utterance in seconds


@cache
def english_plan(replicas, global_batch_seconds, share):
    """Lognormal lengths, and a plan, of five domains with the paper's hours.

    Arguments
    ---------
    replicas : int
        ``replicas_per_domain``.
    global_batch_seconds : float
        Audio of an iteration, in seconds.
    share : float
        Fraction of the paper's hours.

    Returns
    -------
    durations : np.ndarray
        Seconds of each utterance.
    plan : Plan
    """
    rng, durations, domain_of = np.random.default_rng(0), [], []
    for i, hours in enumerate(HOURS.values()):
        lengths = rng.lognormal(np.log(6), 0.6, int(hours * share * 3600 / 6.5))
        durations.append(lengths.clip(1, LIMIT).astype(np.float32))
        domain_of += [i] * len(lengths)
    durations = np.concatenate(durations)
    options = dict(global_batch_seconds=global_batch_seconds, seed=1)
    options |= dict(replicas_per_domain=replicas, max_utterance_seconds=LIMIT)
    return durations, Plan(durations, domain_of, list(HOURS), **options)


class Noise:
    """A replacement for ``Utterances``: noise of given lengths."""

    max_seconds = LIMIT

    def __init__(self, durations):
        self.manifest = SimpleNamespace(duration=durations)

    def batch(self, rows, step):
        """A batch of noise, without unreadable utterances."""
        rng = np.random.default_rng(step)
        sizes = (self.manifest.duration[rows] * RATE).astype(int)
        signals = [rng.standard_normal(n, dtype=np.float32) for n in sizes]
        named = [{"id": str(row), "sig": sig} for row, sig in zip(rows, signals)]
        return PaddedBatch(named), []


def simulated_idle(n_ranks, replicas, global_batch_seconds=1600.0, steps=50):
    """Fraction of the time that each rank waits, estimated by padded seconds of a plan.

    Returns
    -------
    np.ndarray
        (n_ranks,), from 0 to 1.
    """
    durations, plan = english_plan(replicas, global_batch_seconds, 0.1)
    batches = GlobalBatches(Noise(durations), plan, size=n_ranks)
    work, total = np.zeros(n_ranks), 0.0
    for step in range(steps):
        units, loads = plan[step], np.zeros(n_ranks)
        np.add.at(loads, batches.owners(units), batches.padded_seconds(units))
        work += loads
        total += loads.max()
    return 1 - work / total


def on_ranks(n_ranks, function, *args):
    """Call an importable function on several ranks, with one thread each.

    Returns
    -------
    list
        The results, by rank.
    """
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(n_ranks, mp_context=context) as pool,
    ):
        rendezvous = f"file://{folder}/ranks"
        futures = [
            pool.submit(_as_rank, rendezvous, rank, n_ranks, function, *args)
            for rank in range(n_ranks)
        ]
        return [future.result() for future in futures]


def _as_rank(rendezvous, rank, size, function, *args):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=size
    )
    try:
        return function(*args)
    finally:
        torch.distributed.destroy_process_group()


def timed_iterations(size, replicas, global_batch_seconds, rounds):
    """On a rank: seconds per iteration, of waiting for other ranks, of the all-reduce.

    Returns
    -------
    list of (float, float, float)
        One per iteration, with K = 1.
    """
    durations, plan = english_plan(replicas, global_batch_seconds, 0.01)
    batches = GlobalBatches(Noise(durations), plan, *rank_and_size())
    brain, times = ours(size, 1), []

    def timed(params, figures):
        arrival = time.perf_counter()
        torch.distributed.barrier()
        start = time.perf_counter()
        figures = reduce_gradients(params, figures)
        times.append((start - arrival, time.perf_counter() - start))
        return figures

    hetero_brain.brain.reduce_gradients = timed
    found = []
    for step in range(rounds + 2):
        parts, _, _ = batches[step]
        torch.distributed.barrier()
        begin = time.perf_counter()
        brain.fit_batch(parts)
        found.append((time.perf_counter() - begin, *times[-1]))
    return found[2:]


def in_one(params, figures):
    """Sum gradients over ranks in a single all-reduce."""
    with patch.object(hetero_brain.training.parallel, "BUCKET_BYTES", float("inf")):
        return reduce_gradients(params, figures)


def timed_reduces(size, rounds):
    """On a rank: number of parameters, and seconds of each way to reduce gradients."""
    params = list(ours(size).local_solver.params)
    for param in params:
        param.grad = torch.randn_like(param)
    ways = {"one": in_one, "buckets": reduce_gradients}
    figures = torch.zeros(5, dtype=torch.float64)

    def way(function):
        torch.distributed.barrier()
        function(params, figures)

    taken = alternate({name: lambda f=f: way(f) for name, f in ways.items()}, rounds)
    return sum(p.numel() for p in params), taken


def run(quick):
    """Waiting times, simulated and, on two ranks, measured; then the all-reduce."""
    idle = Table(
        "Ranks: fraction of an iteration spent waiting for other ranks (M = 5, K = 1)",
        ["ranks", "replicas_per_domain", "units", "mean (%)", "longest (%)", "by"],
    )
    for n_ranks in (2, 4, 8):
        for replicas in (1, 2, 8):
            if n_ranks <= len(HOURS) * replicas:
                shares = 100 * simulated_idle(n_ranks, replicas)
                row = [n_ranks, replicas, len(HOURS) * replicas]
                idle.rows.append([*row, shares.mean(), shares.max(), "simulation"])
    size, rounds, seconds = (quick, 1, 24.0) if quick else ("tiny", 6, 96.0)
    for replicas in (1,) if quick else (1, 2):
        found = on_ranks(2, timed_iterations, size, replicas, seconds, rounds)
        taken = np.array(found)  # rank × iteration × (all, waiting, all-reduce)
        shares = 100 * taken[:, :, 1].sum(1) / taken[:, :, 0].sum(1)
        row = [2, replicas, len(HOURS) * replicas]
        idle.rows.append(
            [*row, shares.mean(), shares.max(), f"measured ({size}, {seconds:g} s)"]
        )
        reduce = np.median(taken[:, :, 2] / taken[:, :, 0])
        idle.notes.append(
            f"Measured with replicas_per_domain: {replicas}: the all-reduce itself takes "
            f"{100 * reduce:.2g} % of an iteration."
        )
    idle.notes.append(
        "Hours of the paper's five domains, lognormal lengths up to 16 s. Simulation: by "
        "padded seconds, over 50 iterations of 1600 s. Longest: of the rank that waits "
        "most."
    )
    send = Table(
        "Ranks: one all-reduce, or one per bucket of 25 MiB (2 ranks, gloo)",
        [
            "size",
            "gradients per iteration (MB)",
            "the same if DDP synchronised local steps, K = 1, 3 (MB)",
            "one (ms)",
            "buckets (ms)",
            "buckets / one",
        ],
    )
    for size in (quick,) if quick else ("tiny", "base", "paper"):
        n, taken = on_ranks(2, timed_reduces, size, 2 if quick else 8)[0]
        megabytes = 4e-6 * n
        ms = {name: [1e3 * s for s in seconds] for name, seconds in taken.items()}
        send.rows.append(
            [
                size,
                megabytes,
                f"{2 * megabytes:.3g}, {4 * megabytes:.3g}",
                spread(ms["one"]),
                spread(ms["buckets"]),
                spread(ratios(ms["buckets"], ms["one"])),
            ]
        )
    return [idle, send]

"""2. What the bilevel update costs beside plain forward-backward passes."""

import time
from contextlib import contextmanager

import speechbrain as sb
import torch

from .measure import Table, alternate, in_new_process, peak_bytes, ratios, spread
from .models import ours
from .speech import batch, global_batch

TRAIN = sb.Stage.TRAIN


def plain_passes(brain, parts):
    """As many forward-backward passes and one optimizer step, and nothing else.

    The passes are the Brain's own, on the same features, masks and labels.
    """
    for part in parts:
        for _ in range(brain.local_steps + 1):
            outputs = brain.compute_forward(part.batches[0], TRAIN)
            loss = brain.compute_objectives(outputs, part.batches[0], TRAIN)
            (loss / len(parts)).backward()
    brain.optimizers_step()


def costs(size, parts, rounds):
    """Seconds of iterations and of the plain passes, in alternation: (K, both), …

    By one Brain: plain passes of two alike differed by up to 5 %.
    ``rounds``: K → how many.
    """
    brain = ours(size, 1)
    turns = {
        "bilevel": lambda: brain.fit_batch(parts),
        "plain": lambda: plain_passes(brain, parts),
    }
    for local_steps, count in rounds.items():
        brain.local_steps = local_steps
        yield local_steps, alternate(turns, count, warm_up=int(local_steps == 1))


@contextmanager
def timed(places, seconds):
    """Add up the time spent in functions: {label: (object, name)} → seconds[label]."""
    originals = {label: getattr(*place) for label, place in places.items()}

    def wrap(label):
        def function(*args, **kwargs):
            start = time.perf_counter()
            result = originals[label](*args, **kwargs)
            seconds[label] += time.perf_counter() - start
            return result

        return function

    for label, place in places.items():
        setattr(*place, wrap(label))
    try:
        yield
    finally:
        for label, place in places.items():
            setattr(*place, originals[label])


def passes(size, parts, rounds):
    """Milliseconds a domain (K = 1) of what goes over all parameters beside the passes
    of speech: {label: ms}, and those of a domain in all."""
    brain = ours(size, 1)
    brain.fit_batch(parts)
    solver = brain.local_solver
    places = {
        "local step, from θ to φ": (solver, "step"),
        "whether φ is finite": (solver, "check"),
        "norm of the hypergradient": (torch.nn.utils, "get_total_norm"),
        "to the mean": (brain, "accumulate"),
        "buffers, and back to θ": (solver, "_restore"),
    }
    seconds = dict.fromkeys(places, 0.0)
    start = time.perf_counter()
    with timed(places, seconds):
        for _ in range(rounds):
            brain.fit_batch(parts)
    solves = rounds * len(parts) / 1000
    whole = (time.perf_counter() - start) / solves
    return {label: taken / solves for label, taken in seconds.items()}, whole


def peak(size, local_steps):
    """Peak memory of two iterations over two domains, in copies of the parameters.

    Above that of the Brain with kernels and optimizer loaded by no iteration yet.
    """
    brain, parts = ours(size, local_steps), global_batch(2, 1)
    with torch.no_grad():
        brain.compute_forward(parts[0].batches[0], TRAIN)
    copy = sum(p.numel() * p.element_size() for p in brain.modules.parameters())
    return peak_bytes(lambda: [brain.fit_batch(parts) for _ in range(2)]) / copy


def run(quick):
    """Time for tiny and base, K = 1 and 3, five domains; memory for the paper's size."""
    times = Table(
        "Bilevel update: an iteration against as many plain passes (M = 5)",
        [
            "size",
            "domain batch (s)",
            "K",
            "passes",
            "iteration (s)",
            "plain passes (s)",
            "ratio",
        ],
    )
    seconds = {"tiny": 4} if quick else {"tiny": 32, "base": 32}
    rounds = {"tiny": {1: 10, 3: 4}, "base": {1: 4, 3: 2}}  # even: both orders alike
    if quick:
        rounds = {"tiny": {1: 2, 3: 2}}
    for length in seconds.values():
        batch(length)  # manifests are read here, not in the first round
    for size, length in seconds.items():
        parts = global_batch(5, length)
        for local_steps, taken in costs(size, parts, rounds[size]):
            times.rows.append(
                [
                    size,
                    length,
                    local_steps,
                    5 * (local_steps + 1),
                    spread(taken["bilevel"]),
                    spread(taken["plain"]),
                    spread(ratios(taken["bilevel"], taken["plain"]), 4),
                ]
            )
    times.notes = [
        "The same domain batches in both; 32 s is the VoicePrompts recipe's. Features, "
        "masks and labels are made once an iteration in both. Plain passes end with the "
        "same optimizer step, but neither keep θ, nor step locally, nor check or log."
    ]
    beside = Table("Bilevel update: what it does beside the passes (K = 1)", ["pass"])
    columns = []
    for size, length in seconds.items():
        found, whole = passes(size, global_batch(2, length), 4)
        beside.columns += [f"{size}: ms a domain", "%"]
        found["together"] = sum(found.values())
        columns.append({name: (ms, 100 * ms / whole) for name, ms in found.items()})
    for name in columns[0]:
        beside.rows.append([name, *(cell for c in columns for cell in c[name])])
    beside.notes = [
        "The plain passes above add to the mean, too. None of these takes longer if the "
        "domain batches do, which are as above.",
    ]
    memory = Table(
        "Bilevel update: peak memory in copies of the parameters",
        ["size", "K", "peak", "above K = 0"],
    )
    size = "tiny" if quick else "paper"
    steps = (0, 1) if quick else (0, 1, 3)
    peaks = {k: in_new_process(peak, size, k) for k in steps}
    for k, value in peaks.items():
        memory.rows.append([size, k, value, value - peaks[0]])
    memory.notes = [
        "1 s of speech a domain, so that parameters dominate; AdamW's two moments, the "
        "gradient of θ, and for K > 0 the copy of θ are in it."
    ]
    return [times, beside, memory]

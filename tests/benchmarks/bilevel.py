"""2. What the bilevel update costs beside plain forward-backward passes."""

import math
import statistics
import time
from contextlib import contextmanager

import speechbrain as sb
import torch

from .measure import Table, alternate, in_new_process, peak_bytes, ratios, spread
from .models import ours
from .speech import batch, global_batch

TRAIN = sb.Stage.TRAIN


def plain_passes(brain, part, grads):
    """As many forward-backward passes of a domain as its solve has, and nothing else.

    The passes are the Brain's own, on the same features, masks and labels.

    Arguments
    ---------
    brain : HeteroBrain
        Whose gradients are left alone.
    part : DomainBatch
        The domain's batch.
    grads : list of torch.Tensor or None
        What is added to, aligned with the parameters.

    Returns
    -------
    float
        Seconds.
    """
    params, (batch,) = brain.local_solver.params, part.batches
    own = [param.grad for param in params]
    for param, grad in zip(params, grads):
        param.grad = grad
    start = time.perf_counter()
    for _ in range(brain.local_steps + 1):
        outputs = brain.compute_forward(batch, TRAIN)
        brain.compute_objectives(outputs, batch, TRAIN).backward()
    seconds = time.perf_counter() - start
    for i, param in enumerate(params):
        grads[i], param.grad = param.grad, own[i]
    return seconds


def both(brain, parts, plain_first):
    """Seconds of an iteration and of as many plain passes, a domain of each in turn.

    A machine whose speed drifts is so the same to both. The plain passes are given the
    iteration's optimizer step.

    Returns
    -------
    iteration, plain : float
        Seconds.
    ratios : list of float
        The former to the latter, of each domain: what is done once an iteration is
        shared out evenly.
    """
    solve, params = brain.local_solve, brain.local_solver.params
    grads, plain, solves, spent = [None] * len(params), [], [], 0.0

    def beside(part):
        nonlocal spent
        start = time.perf_counter()
        plain.append(plain_passes(brain, part, grads))
        spent += time.perf_counter() - start

    @contextmanager
    def solve_and_plain(part):
        nonlocal spent
        start = time.perf_counter()
        brain.masked_inputs(part.batches[0], TRAIN)  # are kept for both
        spent += time.perf_counter() - start
        if plain_first:
            beside(part)
        start = time.perf_counter()
        with solve(part) as phi:
            yield phi
        solves.append(time.perf_counter() - start)
        if not plain_first:
            beside(part)

    brain.local_solve, step = solve_and_plain, {"step": 0.0}
    start = time.perf_counter()
    try:
        with timed({"step": (brain, "global_step")}, step):
            brain.fit_batch(parts)
    finally:
        brain.local_solve = solve
    iteration, once = time.perf_counter() - start - spent, step["step"]
    shared = (iteration - sum(solves)) / len(parts)
    passes = [seconds + once / len(parts) for seconds in plain]
    return iteration, sum(passes), ratios([s + shared for s in solves], passes)


def costs(size, parts, rounds):
    """Seconds of iterations, of the plain passes, and ratios: K, and a list of each.

    By one Brain: plain passes of two alike differed by up to 5 %. What comes second has
    its own speed, so that a ratio is the geometric mean of a domain's two, one of each
    order. ``rounds``: K → how many; even.
    """
    brain = ours(size, 1)
    brain.fit_batch(parts[:1])
    for local_steps, count in rounds.items():
        brain.local_steps = local_steps
        taken = [both(brain, parts, bool(turn % 2)) for turn in range(count)]
        bilevel, plain, found = zip(*taken)
        orders = zip(found[::2], found[1::2])
        by_domain = [math.sqrt(a * b) for pair in orders for a, b in zip(*pair)]
        yield local_steps, list(bilevel), list(plain), by_domain


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


def kept_apart(brain, parts, rounds):
    """What a pass takes longer if its gradient is a tensor of its own: milliseconds.

    By ``torch.autograd.grad`` in place of ``backward``, which adds a gradient to
    ``.grad`` while the cache has it, and uses its memory again.
    """
    params = brain.local_solver.params

    def loss(batch):
        return brain.compute_objectives(
            brain.compute_forward(batch, TRAIN), batch, TRAIN
        )

    differences = []
    for part in parts:
        (batch,) = part.batches
        ways = {
            "apart": lambda b=batch: torch.autograd.grad(loss(b), params),
            "added": lambda b=batch: loss(b).backward(),
        }
        taken = alternate(ways, rounds, warm_up=2)  # .grad has to be there
        differences += [a - b for a, b in zip(taken["apart"], taken["added"])]
    brain.zero_grad(set_to_none=True)
    return 1000 * statistics.median(differences)


def passes(size, parts, rounds, rounds_apart):
    """Milliseconds a domain (K = 1) of what an iteration does beside plain passes.

    Returns
    -------
    beside : dict
        Label → ms.
    whole : float
        ms of a domain in all.
    """
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
    beside = {label: taken / solves for label, taken in seconds.items()}
    apart = kept_apart(brain, parts, rounds_apart)
    beside["gradients kept apart, of both passes"] = 2 * apart
    return beside, whole


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
    seconds = {"tiny": 2} if quick else {"tiny": 32, "base": 32}
    rounds = {"tiny": {1: 10, 3: 8}, "base": {1: 2, 3: 2}}  # even: both orders alike
    rounds_apart = {"tiny": 24, "base": 8}
    if quick:
        rounds, rounds_apart = {"tiny": {1: 2, 3: 2}}, {"tiny": 4}
    for length in seconds.values():
        batch(length)  # manifests are read here, not in the first round
    for size, length in seconds.items():
        parts = global_batch(5, length)
        for local_steps, bilevel, plain, found in costs(size, parts, rounds[size]):
            times.rows.append(
                [
                    size,
                    length,
                    local_steps,
                    5 * (local_steps + 1),
                    spread(bilevel),
                    spread(plain),
                    spread(found, 4),
                ]
            )
    times.notes = [
        "The same domain batches in both; 32 s is the VoicePrompts recipe's. Features, "
        "masks and labels are made before, for both. Plain passes have the same "
        "optimizer step, but neither keep θ, nor step locally, nor check or log. A "
        "domain's solve and its plain passes take turns; a domain's ratio is the "
        "geometric mean of two iterations, one in each order, with its share of what is "
        "done once an iteration."
    ]
    beside = Table("Bilevel update: what it does beside the passes (K = 1)", ["pass"])
    columns = []
    for size, length in seconds.items():
        found, whole = passes(size, global_batch(2, length), 4, rounds_apart[size])
        beside.columns += [f"{size}: ms a domain", "%"]
        found["together"] = sum(found.values())
        columns.append({name: (ms, 100 * ms / whole) for name, ms in found.items()})
    for name in columns[0]:
        beside.rows.append([name, *(cell for c in columns for cell in c[name])])
    beside.notes = [
        "None takes longer if the domain batches do, which are as above. Kept apart: by "
        "autograd.grad, whose gradients have memory of their own, in place of backward, "
        "which adds each to .grad while the cache has it; the median of single passes, "
        "in alternation.",
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

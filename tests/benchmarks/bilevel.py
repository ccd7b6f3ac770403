"""2. The cost of the bilevel update, compared with plain forward-backward passes."""

import math
import statistics
import time
from contextlib import contextmanager
from functools import partial

import speechbrain as sb
import torch

from .measure import (
    Table,
    alternate,
    in_new_process,
    peak_allocated,
    ratios,
    spread,
    synchronize,
)
from .models import ours
from .speech import batch, global_batch

TRAIN = sb.Stage.TRAIN


def now(device):
    """The clock in seconds, when the device has nothing left to do."""
    synchronize(device)
    return time.perf_counter()


def plain_loss(brain, batch):
    """The Brain's loss on a batch at its present weights, in its precision."""
    with brain.training_ctx:
        outputs = brain.compute_forward(batch, TRAIN)
        return brain.compute_objectives(outputs, batch, TRAIN)


def plain_passes(brain, domain_batch, grads):
    """The forward-backward passes of a domain's solve, and nothing else.

    The passes are the Brain's own, on the same features, masks and labels.

    Arguments
    ---------
    brain : HeteroBrain
        Its gradients stay as they are.
    domain_batch : DomainBatch
        The domain's batch.
    grads : list of torch.Tensor or None
        Sums to add the gradients to, aligned with the parameters.

    Returns
    -------
    float
        Seconds.
    """
    params, (batch,) = brain.local_solver.params, domain_batch.batches
    own = [param.grad for param in params]
    for param, grad in zip(params, grads):
        param.grad = grad
    start = now(brain.device)
    for _ in range(brain.local_steps + 1):
        plain_loss(brain, batch).backward()
    seconds = now(brain.device) - start
    for i, param in enumerate(params):
        grads[i], param.grad = param.grad, own[i]
    return seconds


def both(brain, parts, plain_first):
    """Seconds of an iteration and of as many plain passes, alternating between domains.

    A drift in the speed of the machine thus affects both alike. The optimizer step of the
    iteration is also counted for the plain passes.

    Returns
    -------
    iteration, plain : float
        Seconds.
    ratios : list of float
        ``iteration / plain`` of each domain; work that is done once per iteration is
        distributed evenly over the domains.
    """
    solve, params, device = brain.local_solve, brain.local_solver.params, brain.device
    grads, plain, solves, spent = [None] * len(params), [], [], 0.0

    def run_plain(domain_batch):
        nonlocal spent
        start = now(device)
        plain.append(plain_passes(brain, domain_batch, grads))
        spent += now(device) - start

    @contextmanager
    def solve_and_plain(domain_batch):
        nonlocal spent
        start = now(device)
        brain.prepared(domain_batch.batches[0], TRAIN)  # cached for both
        spent += now(device) - start
        if plain_first:
            run_plain(domain_batch)
        start = now(device)
        with solve(domain_batch) as phi:
            yield phi
        solves.append(now(device) - start)
        if not plain_first:
            run_plain(domain_batch)

    brain.local_solve, step = solve_and_plain, {"step": 0.0}
    start = now(device)
    try:
        with timed({"step": (brain, "global_step")}, step, device):
            brain.fit_batch(parts)
    finally:
        brain.local_solve = solve
    iteration, once = now(device) - start - spent, step["step"]
    shared = (iteration - sum(solves)) / len(parts)
    passes = [seconds + once / len(parts) for seconds in plain]
    return iteration, sum(passes), ratios([s + shared for s in solves], passes)


def costs(size, parts, rounds, device="cpu"):
    """For each K: seconds of iterations, seconds of the plain passes, and their ratios.

    All with one Brain, because plain passes of two equal Brains differed by up to 5 %.
    Speed depends on which of the two runs first, so a ratio is the geometric mean of a
    domain's ratios in both orders. ``rounds``: K → number of rounds, which is even.
    """
    brain = ours(size, 1, device=device)
    brain.fit_batch(parts[:1])
    for local_steps, count in rounds.items():
        brain.local_steps = local_steps
        taken = [both(brain, parts, bool(turn % 2)) for turn in range(count)]
        bilevel, plain, found = zip(*taken)
        orders = zip(found[::2], found[1::2])
        by_domain = [math.sqrt(a * b) for pair in orders for a, b in zip(*pair)]
        yield local_steps, list(bilevel), list(plain), by_domain


@contextmanager
def timed(places, seconds, device="cpu"):
    """Add the time spent in functions, {label: (object, name)}, to ``seconds[label]``."""
    originals = {label: getattr(*place) for label, place in places.items()}

    def wrap(label):
        def function(*args, **kwargs):
            start = now(device)
            result = originals[label](*args, **kwargs)
            seconds[label] += now(device) - start
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
    """Milliseconds that a pass takes longer if its gradients are new tensors.

    Compares ``torch.autograd.grad`` with ``backward``, which adds each gradient to
    ``.grad`` while it is in the cache, and reuses its memory.
    """
    params, device = brain.local_solver.params, brain.device

    def apart(batch):
        grads = torch.autograd.grad(plain_loss(brain, batch), params)
        synchronize(device)
        return grads

    def added(batch):
        plain_loss(brain, batch).backward()
        synchronize(device)

    differences = []
    for domain_batch in parts:
        (batch,) = domain_batch.batches
        ways = {
            "apart": partial(apart, batch),
            "added": partial(added, batch),
        }
        taken = alternate(ways, rounds, warm_up=2)  # the first round allocates .grad
        differences += [a - b for a, b in zip(taken["apart"], taken["added"])]
    brain.zero_grad(set_to_none=True)
    return 1000 * statistics.median(differences)


def passes(size, parts, rounds, rounds_apart, device="cpu"):
    """Milliseconds per domain (K = 1) of an iteration's work besides plain passes.

    Returns
    -------
    extra : dict
        Label → ms.
    whole : float
        Total ms of a domain.
    """
    brain = ours(size, 1, device=device)
    brain.fit_batch(parts)
    solver = brain.local_solver
    places = {
        "local step, from θ to φ": (solver, "step"),
        "check that φ is finite": (solver, "check"),
        "norm of the hypergradient": (torch.nn.utils, "get_total_norm"),
        "adding it to the mean": (brain, "accumulate"),
        "restoring buffers and θ": (solver, "_restore"),
    }
    seconds = dict.fromkeys(places, 0.0)
    start = now(device)
    with timed(places, seconds, device):
        for _ in range(rounds):
            brain.fit_batch(parts)
    solves = rounds * len(parts) / 1000
    whole = (now(device) - start) / solves
    extra = {label: taken / solves for label, taken in seconds.items()}
    apart = kept_apart(brain, parts, rounds_apart)
    extra["gradients as new tensors, both passes"] = 2 * apart
    return extra, whole


def peak(size, local_steps, device="cpu"):
    """Peak memory of two iterations over two domains, in copies of the parameters.

    Relative to the Brain after a forward pass and before its first iteration.
    """
    brain, parts = ours(size, local_steps, device=device), global_batch(2, 1)
    with torch.no_grad():
        brain.compute_forward(parts[0].batches[0], TRAIN)
    copy = sum(p.numel() * p.element_size() for p in brain.modules.parameters())

    def iterate_twice():
        for _ in range(2):
            brain.fit_batch(parts)

    return peak_allocated(device, iterate_twice) / copy


def run(quick, device="cpu"):
    """Time for tiny and base, K = 1 and 3, five domains; memory for the paper's size.

    ``device`` is where the models are and compute.
    """
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
    seconds = {quick: 2} if quick else {"tiny": 32, "base": 32}
    rounds = {"tiny": {1: 10, 3: 8}, "base": {1: 2, 3: 2}}  # even: half in each order
    rounds_apart = {"tiny": 24, "base": 8}
    if quick:
        rounds, rounds_apart = {quick: {1: 2}}, {quick: 2}
    for length in seconds.values():
        batch(length)  # reads the manifests before the first round
    for size, length in seconds.items():
        parts = global_batch(5, length)
        for local_steps, bilevel, plain, found in costs(
            size, parts, rounds[size], device
        ):
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
        "Both use the same domain batches; 32 s is the size in the VoicePrompts recipe. "
        "Features, masks and labels are computed beforehand for both. The plain passes "
        "include the optimizer step, but no copy of θ, local step, check or log. A "
        "domain's solve and its plain passes alternate; a domain's ratio is the "
        "geometric mean of two iterations, one in each order, and includes its share of "
        "the work that is done once per iteration."
    ]
    extra = Table("Bilevel update: work besides the passes (K = 1)", ["work"])
    columns = []
    for size, length in seconds.items():
        parts = global_batch(2, length)
        found, whole = passes(size, parts, 4, rounds_apart[size], device)
        extra.columns += [f"{size}: ms per domain", "% of the iteration"]
        found["total"] = sum(found.values())
        columns.append({name: (ms, 100 * ms / whole) for name, ms in found.items()})
    for name in columns[0]:
        extra.rows.append([name, *(cell for c in columns for cell in c[name])])
    extra.notes = [
        "None of these times depends on the length of the domain batches, which is as "
        "above. Gradients as new tensors: the time of autograd.grad, which returns new "
        "tensors, minus that of backward, which adds each gradient to .grad while it is "
        "in the cache; median of alternating single passes.",
    ]
    memory = Table(
        "Bilevel update: peak memory in copies of the parameters",
        ["size", "K", "peak", "above K = 0"],
    )
    size = quick or "paper"
    steps = (0, 1) if quick else (0, 1, 3)
    peaks = {k: in_new_process(peak, size, k, device) for k in steps}
    for k, value in peaks.items():
        memory.rows.append([size, k, value, value - peaks[0]])
    memory.notes = [
        "1 s of speech per domain, so that parameters dominate. The peak includes both "
        "moments of AdamW, the gradient of θ and, for K > 0, the copy of θ."
    ]
    return [times, extra, memory]

"""The bilevel update on a GPU: its cost beside plain passes, memory, and libraries."""

import importlib.util
import statistics

from tests.benchmarks import libraries
from tests.benchmarks.bilevel import both, peak, plain_loss
from tests.benchmarks.measure import Table, alternate, ratios, spread
from tests.benchmarks.models import ours
from tests.benchmarks.speech import batch

from .device import attempt, copies, host_parts, release, time_limit

STEPS = (0, 1, 3)  # K
N_DOMAINS, SECONDS, PRECISION = 5, 80, "bf16"
ROUNDS = 4
LIMIT = 45  # seconds of the first table


def plain_iteration(brain, parts):
    """As many forward-backward passes as an iteration has, all at θ, and the optimizer
    step."""
    for domain_batch in parts:
        for _ in range(brain.local_steps + 1):
            plain_loss(brain, domain_batch.batches[0]).backward()
    brain.optimizers_step()


def cost_rows(table, device, size, seconds, rounds, domains, steps, is_over):
    """Add a row for each K, all with one Brain."""
    brain, parts = (
        ours(size, 1, precision=PRECISION, device=device),
        host_parts(domains, seconds),
    )
    points = []
    for local_steps in steps:
        if is_over():
            break
        brain.local_steps = local_steps
        with attempt(table, f"{size}, K = {local_steps}"):
            ways = {
                "iteration": lambda: brain.fit_batch(copies(parts)),
                "passes": lambda: plain_iteration(brain, copies(parts)),
            }
            taken = alternate(ways, rounds, device=device)
            found = ratios(taken["iteration"], taken["passes"])
            *_, by_domain = zip(*(both(brain, parts, first) for first in (True, False)))
            geometric = [(a * b) ** 0.5 for a, b in zip(*by_domain)]
            table.add(
                size,
                seconds,
                local_steps,
                domains * (local_steps + 1),
                spread(taken["iteration"]),
                spread(taken["passes"]),
                spread(found, 4),
                spread(geometric, 4),
            )
            points.append((local_steps, statistics.median(found)))
    if points:
        x, y = map(list, zip(*points))
        axes = dict(panel="bilevel update", xlabel="K", ylabel="iteration / passes")
        table.curves.append(dict(label=size, x=x, y=y, **axes))


def memory_rows(table, device, size, steps):
    """Add a row for each K."""
    peaks = {}
    for local_steps in steps:
        release()
        with attempt(table, f"{size}, K = {local_steps}"):
            peaks[local_steps] = peak(size, local_steps, device)
            above = peaks[local_steps] - peaks[0] if 0 in peaks else "-"
            table.add(size, local_steps, peaks[local_steps], above)


def library_rows(table, device, size, seconds, rounds, quick):
    """Add a row for ours, for deep copies and, unless quick, for each library, which
    take longest to import."""
    names, local_steps = [], 1
    for name, candidate in libraries.CANDIDATES.items():
        if candidate.reference != "ours":  # exact
            continue
        if candidate.library and quick:
            continue
        if candidate.library and importlib.util.find_spec(candidate.library) is None:
            table.add(name, local_steps, "not installed", "-", "-")
        else:
            names.append(name)
    model, batches = libraries.prepared(size, seconds, device)
    for row in libraries.compare(names, model, batches, local_steps, rounds):
        table.add(*row)


def run(device, quick):
    """Time and memory for base and the paper's size; libraries with base."""
    sizes, seconds, rounds = ("base", "paper"), SECONDS, ROUNDS
    domains, steps = N_DOMAINS, STEPS
    if quick:
        sizes, seconds, rounds, domains, steps = ("mini",), 1, 1, 2, STEPS[:2]
    times = Table(
        f"Bilevel update on the GPU (M = {domains}, {PRECISION})",
        [
            "size",
            "unit (s)",
            "K",
            "passes",
            "iteration (s)",
            "plain passes (s)",
            "ratio",
            "ratio by domain",
        ],
        notes=[
            "Both compute features, masks and labels once per domain, and end with the "
            "optimizer step. Ratio: of whole iterations, which alternate.",
            "By domain: a domain's solve and its plain passes alternate within an "
            "iteration, and the host waits for the GPU between them; features excluded.",
        ],
    )
    is_over = time_limit(times, LIMIT)
    batch(seconds)  # reads the manifests before the first round
    for size in sizes:
        with attempt(times, size):
            cost_rows(times, device, size, seconds, rounds, domains, steps, is_over)
        release()
    yield times
    memory = Table(
        "Bilevel update on the GPU: peak memory in copies of the parameters",
        ["size", "K", "peak", "above K = 0"],
        notes=[
            "Two domains of 1 s, so that parameters dominate, in TF32. The peak is above "
            "the parameters, and includes both moments of AdamW, the gradient of θ and, "
            "for K > 0, the copy of θ."
        ],
    )
    for size in sizes:
        memory_rows(memory, device, size, steps)
    yield memory
    size = "mini" if quick else "base"
    domains = f"{libraries.DOMAINS} domains of {seconds} s"
    compared = Table(
        f"First-order MAML on the GPU, by libraries ({size}, TF32, {domains})",
        ["", "K", "s / iteration", "ratio to ours", "hypergradient, difference"],
        notes=["Features, masks and labels are prepared; see tests/benchmarks."],
    )
    with attempt(compared, "libraries"):
        library_rows(compared, device, size, seconds, 1 if quick else 4, quick)
    release()
    yield compared

"""Throughput and memory of BEST-RQ on a GPU, ours beside SpeechBrain's."""

import itertools
import statistics
import time
from functools import partial

import torch

from hetero_brain import DomainBatch
from tests.benchmarks.compiled import OPTIONS as COMPILED
from tests.benchmarks.measure import (
    Table,
    allocated_bytes,
    alternate,
    peak_allocated,
    ratios,
    spread,
    synchronize,
)
from tests.benchmarks.models import speechbrain_batch, speechbrain_bestrq
from tests.benchmarks.speech import batch, padding_of, seconds_of
from tests.benchmarks.throughput import alike

from .device import (
    attempt,
    busy_seconds,
    copies,
    count_kernels,
    device_events,
    launch_microseconds,
    on_host,
    release,
    time_limit,
)

OURS, GRAPHS, THEIRS = "hetero_brain", "hetero_brain, CUDA graphs", "SpeechBrain"
UNITS = (320, 80, 32)  # seconds of audio in a domain batch
PRECISIONS = {"bf16": "bf16", "fp32": "TF32"}  # of the Brain → as it is on this GPU
MODELS = [
    (size, precision)
    for precision in PRECISIONS
    for size in ("base", "recipe", "paper", "tiny")
]
N_BATCHES, CELL_SECONDS, MOST_ROUNDS = 2, 0.5, 30  # CELL_SECONDS: of each code
LIMIT, COMPILE_LIMIT = 100, 12  # seconds of the first table, and of a compilation


class Candidate:
    """A Brain, trained in turn on batches that are ready in the memory of the host.

    Arguments
    ---------
    build : callable
        ``device=…`` → a Brain.
    prepare : callable
        A batch of ours → what its ``fit_batch`` takes, still on the CPU.
    fresh : callable
        That → what an iteration may move to the GPU.
    device : str
        Where the Brain is.
    speech : PaddedBatch
        Of the first iteration, which allocates the moments of AdamW.

    Attributes
    ----------
    first_seconds : float
        Time of the first iteration.
    resident : int
        Bytes of the Brain and its optimizer between iterations.
    """

    def __init__(self, build, prepare, fresh, device, speech):
        before = allocated_bytes(device)
        self.brain = build(device=device)
        self.prepare, self.fresh = prepare, fresh
        self.load([speech])
        synchronize(device)
        start = time.perf_counter()
        self.train()
        synchronize(device)
        self.first_seconds = time.perf_counter() - start
        self.resident = allocated_bytes(device) - before

    def load(self, batches):
        """Take these batches from now on, from the first."""
        self.batches = itertools.cycle([self.prepare(speech) for speech in batches])

    def train(self, iterations=1):
        """Train on the next batches."""
        for _ in range(iterations):
            prepared = next(self.batches)
            self.brain.fit_batch(self.fresh(prepared))


def as_domain(speech):
    """A batch of ours, in pinned memory as a loader leaves it."""
    return [DomainBatch("all", (on_host(speech),))]


def as_speechbrain(speech):
    """The same batch as SpeechBrain's recipe collates it, in pinned memory."""
    tensors = speechbrain_batch(on_host(speech))
    return [t.pin_memory() if torch.cuda.is_available() else t for t in tensors]


def measure(device, candidates, speech, table, label):
    """Peaks and times of candidates on the same batches.

    A candidate that runs out of memory is left out.

    Returns
    -------
    peaks : dict
        Name → bytes, including what is resident.
    times : dict
        Name → seconds of an iteration, for each round.
    """
    peaks, slowest = {}, 0.0
    for name, candidate in candidates.items():
        with attempt(table, f"{label}, {name}"):
            candidate.load(speech)
            candidate.train(len(speech))  # new shapes: kernels are chosen, memory kept
            train = partial(candidate.train, len(speech))
            start = time.perf_counter()
            peaks[name] = candidate.resident + peak_allocated(device, train)
            slowest = max(slowest, time.perf_counter() - start)
        if name not in peaks:
            candidate.brain.zero_grad(set_to_none=True)
            release()
    if torch.device(device).type == "cuda":
        turns = round(CELL_SECONDS / max(slowest, 1e-3))
        rounds = min(MOST_ROUNDS, max(2, turns) * len(speech))
        warm_up = 2 * len(speech)
    else:
        rounds, warm_up = len(speech), 0
    trains = {name: candidates[name].train for name in peaks}
    return peaks, alternate(trains, rounds, warm_up, device)


def rows_of(device, candidates, seconds, table, label):
    """Yield for each code its name, its cells from the throughput on, and the median of
    its throughput."""
    speech = [batch(seconds, seed) for seed in range(N_BATCHES)]
    peaks, times = measure(device, candidates, speech, table, label)
    rounds = max(map(len, times.values()), default=0)
    audio = [seconds_of(speech[turn % len(speech)]) for turn in range(rounds)]
    rates = {name: ratios(audio, taken) for name, taken in times.items()}
    for name, found in rates.items():
        cells = [spread(found), "-", round(peaks[name] / 1e6), "-", "-", "-", "-"]
        if THEIRS in rates:
            cells[1] = spread(ratios(found, rates[THEIRS]))
            cells[3] = peaks[name] / peaks[THEIRS]
        train = partial(candidates[name].train, len(speech))
        if events := device_events(device, train):
            busy = busy_seconds(events)
            taken = len(speech) * statistics.mean(times[name])
            cells[4:] = busy / taken, count_kernels(events) // len(speech)
            cells.append(sum(map(seconds_of, speech)) / busy)
        yield name, cells, statistics.median(found)


def compare(table, device, size, precision, seconds, lines):
    """Add the rows of a size in a precision, and the points of its curves."""
    shown = PRECISIONS[precision] if torch.cuda.is_available() else precision
    ours = partial(alike, size, precision=precision)
    theirs = partial(speechbrain_bestrq, size, precision)
    candidates = {
        THEIRS: Candidate(theirs, as_speechbrain, list, device, batch(1.0)),
        OURS: Candidate(ours, as_domain, copies, device, batch(1.0)),
        GRAPHS: Candidate(
            partial(ours, cuda_graphs=True), as_domain, copies, device, batch(1.0)
        ),
    }
    label = f"{size}, {shown}, {seconds} s"
    for name, cells, rate in rows_of(device, candidates, seconds, table, label):
        table.add(size, shown, seconds, name, *cells)
        lines.setdefault((size, f"{name}, {shown}"), []).append((seconds, rate))


def variants(table, device, size, seconds, quick):
    """Add the rows of ours, eager, with recomputation, and compiled.

    Returns
    -------
    float
        Seconds of the first compiled iteration.
    """
    eager = partial(alike, size, precision="bf16")
    builds = {
        "eager": eager,
        "feed-forward recomputed": partial(eager, recomputed="feed_forward"),
    }
    if not quick:  # compiling takes a minute on a CPU
        builds["compiled encoder"] = partial(eager, **COMPILED)
    speech, candidates = batch(seconds), {}
    for name, build in builds.items():
        with attempt(table, f"{size}, {name}"):
            candidates[name] = Candidate(build, as_domain, copies, device, speech)
    label = f"{size}, {seconds} s"
    peaks, times = measure(device, candidates, [speech], table, label)
    for name, taken in times.items():
        rates = [seconds_of(speech) / each for each in taken]
        to_eager = spread(ratios(times["eager"], taken)) if "eager" in times else "-"
        of_eager = peaks[name] / peaks["eager"] if "eager" in peaks else "-"
        events = device_events(device, candidates[name].train)
        busy = busy_seconds(events) / statistics.median(taken) if events else "-"
        kernels = count_kernels(events) if events else "-"
        cells = [size, seconds, name, spread(rates), to_eager, round(peaks[name] / 1e6)]
        table.add(*cells, of_eager, candidates[name].first_seconds, busy, kernels)
    compiled = candidates.get("compiled encoder")
    return compiled.first_seconds if compiled else 0.0


def run(device, quick):
    """Sizes, unit sizes and precisions; then variants of ours."""
    table = Table(
        "Throughput and memory on the GPU: BEST-RQ on one domain (CSSL)",
        [
            "size",
            "precision",
            "unit (s)",
            "code",
            "audio s/s",
            "× SpeechBrain",
            "peak MB",
            "ratio of peaks",
            "GPU busy",
            "kernels a pass",
            "audio s per GPU second",
        ],
    )
    launch = launch_microseconds(device)
    table.notes.append(
        f"The host launches a kernel that does nothing in {launch:.1f} µs."
    )
    is_over = time_limit(table, LIMIT)
    models, units = (MODELS, UNITS)
    if quick:
        models, units = [("mini", "fp32")], (1,)
    lines = {}
    for seconds, (size, precision) in itertools.product(units, models):
        if is_over():
            break
        with attempt(table, f"{size}, {precision}, {seconds} s"):
            compare(table, device, size, precision, seconds, lines)
        release()
    for (size, label), points in lines.items():
        x, y = map(list, zip(*points))
        axes = dict(xlabel="audio of a domain batch (s)", ylabel="audio s / s")
        axes |= dict(panel=f"throughput, {size}", scale="log")
        table.curves.append(dict(label=label, x=x, y=y, **axes))
    padding = [padding_of(batch(s, i)) for s in units for i in range(N_BATCHES)]
    table.notes += [
        f"Speech at 8 kHz; {min(padding):.0%} to {max(padding):.0%} of a batch is "
        "padding, which is not counted as audio. Features, masks and labels are part of "
        "the time, collation is not. Both train on the same batches by turns, in one "
        "process.",
        "Peak: tensors of one Brain, with parameters and moments. GPU busy: the time in "
        "which a kernel or a copy runs, over the time without the profiler; an iteration "
        "has one pass, and the optimizer step. Audio per GPU second counts only the time "
        "in which the GPU is busy: what a host that is fast enough would get.",
    ]
    yield table
    table = Table(
        "Throughput on the GPU: variants of ours (bf16)",
        [
            "size",
            "unit (s)",
            "variant",
            "audio s/s",
            "ratio to eager",
            "peak MB",
            "ratio of peaks",
            "first iteration (s)",
            "GPU busy",
            "kernels a pass",
        ],
        notes=["One batch, whose shapes are compiled in the first iteration."],
    )
    compile_seconds = 0.0
    for size, seconds in [("mini", 1)] if quick else [("tiny", 32), ("base", 320)]:
        without = quick or compile_seconds > COMPILE_LIMIT
        if without and not quick:
            table.notes.append(f"{size} is not compiled: tiny took too long.")
        with attempt(table, size):
            compile_seconds = variants(table, device, size, seconds, without)
        release()
    yield table

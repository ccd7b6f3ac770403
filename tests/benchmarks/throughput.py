"""1. Training throughput and memory, compared with SpeechBrain's BEST-RQ."""

import functools
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import speechbrain as sb
import torch

from hetero_brain import DomainBatch
from hetero_brain.training.devices import cpu_multiplies_in_bf16

from .kept import KINDS, REST, kept
from .limit import Recorder, replay
from .measure import (
    Table,
    alternate_processes,
    in_new_process,
    peak_allocated,
    ratios,
    spread,
    synchronize,
)
from .models import CODES, DROPOUT, ours, speechbrain_batch, speechbrain_bestrq
from .speech import batch, padding_of, seconds_of

BASELINE, OURS = "SpeechBrain, fp32", "hetero_brain, fp32"
alike = partial(ours, front_end="conv", codes=CODES, dropout=DROPOUT)
BUILDERS = {
    BASELINE: speechbrain_bestrq,
    OURS: alike,
    f"{OURS}, feed-forward recomputed": partial(alike, recomputed="feed_forward"),
    f"{OURS}, blocks recomputed": partial(alike, recomputed="blocks"),
    "SpeechBrain, bf16": partial(speechbrain_bestrq, precision="bf16"),
    "hetero_brain, bf16": partial(alike, precision="bf16"),
}


def fit(name, brain, speech):
    """Train the Brain of that name on one of our batches."""
    if "SpeechBrain" in name:
        brain.fit_batch(speechbrain_batch(speech))
    else:
        brain.fit_batch([DomainBatch("all", (speech,))])


@functools.cache
def prepared(name, size, seconds, n_batches, device):
    """The Brain of that name, and an iterator over the same batches for every name."""
    batches = iter([batch(seconds, i) for i in range(n_batches)])
    return BUILDERS[name](size, device=device), batches


def turn(name, size, seconds, n_batches, at_a_time, device):
    """Train the Brain of that name on its next batches; this process keeps the Brain."""
    brain, batches = prepared(name, size, seconds, n_batches, device)
    for _ in range(at_a_time):
        fit(name, brain, next(batches))
    synchronize(device)


def peak(name, size, seconds, device):
    """Peak bytes of an iteration, above the memory of the process with the model.

    An iteration on 1 s of audio comes first, which allocates the moments of AdamW.
    """
    torch.set_num_threads(1)  # two of them run at a time
    brain = BUILDERS[name](size, device=device)
    speech = [batch(1.0), batch(seconds, 1)]
    return peak_allocated(device, lambda: [fit(name, brain, each) for each in speech])


def peaks_of(names, size, seconds, device):
    """Name → peak in MB, each in a process of its own, two at a time."""

    def measure(name):
        return in_new_process(peak, name, size, seconds, device)

    with ThreadPoolExecutor(2) as pool:
        found = pool.map(measure, names)
        return {name: round(value / 1e6) for name, value in zip(names, found)}


def kept_bytes(name, size, seconds, device):
    """Bytes kept for the backward pass, by kind; and bytes of the parameters."""
    brain, speech = BUILDERS[name](size, device=device), batch(seconds, 1)
    if "SpeechBrain" in name:
        speech = speechbrain_batch(speech)
    outputs = brain.compute_forward(speech, sb.Stage.TRAIN)
    loss = brain.compute_objectives(outputs, speech, sb.Stage.TRAIN)
    params = list(brain.modules.parameters())
    trained = sum(p.numel() * p.element_size() for p in params if p.requires_grad)
    return kept(loss, params), trained


def operator_seconds(size, seconds):
    """Seconds of the operators of our second iteration, replayed alone; median of 3.

    Returns
    -------
    heavy, total : float
        For matrix products, convolutions and attention; for all operators.
    """
    brain = BUILDERS[OURS](size)
    fit(OURS, brain, batch(seconds, 0))
    with Recorder() as recorder:
        fit(OURS, brain, batch(seconds, 1))
    return sorted(replay(recorder) for _ in range(3))[1]


def run(quick, device="cpu"):
    """Throughput for each size and precision; memory in processes of their own.

    ``device`` is where the models are and compute.
    """
    memory = Table(
        "SSL memory: kept for the backward pass (MB)",
        ["size", "code", *KINDS, REST, "total", "parameters", "peak"],
    )
    table = Table(
        "SSL throughput: BEST-RQ on one domain (CSSL)",
        ["size", "batch (s)", "code", "audio s / s", "× SpeechBrain fp32", "peak MB"],
    )
    padding = []
    # Seconds of audio per batch; batches per turn, so that a turn takes some seconds; and
    # rounds, an even number so that half of them are in each order.
    plan = {"tiny": (96, 3, 4), "base": (48, 1, 4), "recipe": (48, 1, 2)}
    plan = {quick: (4, 1, 2)} if quick else plan
    for size, (seconds, at_a_time, rounds) in plan.items():
        left_out = ["recomputed"] if quick else []
        if (
            size == "recipe"
        ):  # recomputing the feed-forward layers saves too little there
            left_out.append("feed-forward recomputed")
        if size != "tiny":  # to save time: SpeechBrain gains little from bf16 there
            has_bf16 = device != "cpu" or cpu_multiplies_in_bf16()
            left_out.append("SpeechBrain, bf16" if has_bf16 else "bf16")
        names = [n for n in BUILDERS if not any(label in n for label in left_out)]
        n_batches = at_a_time * (1 + rounds)  # with the warm-up turn
        batches = [batch(seconds, i) for i in range(at_a_time, n_batches)]
        padding += [padding_of(each) for each in batches]
        audio = np.add.reduceat(
            [seconds_of(each) for each in batches], range(0, len(batches), at_a_time)
        )
        times = alternate_processes(
            turn, names, rounds, size, seconds, n_batches, at_a_time, device
        )
        in_fp32 = [name for name in names if "fp32" in name]
        peaks = peaks_of(in_fp32, size, seconds, device)
        for name in (BASELINE, OURS):
            by_kind, trained = kept_bytes(name, size, seconds, device)
            cells = [*by_kind.values(), sum(by_kind.values()), trained]
            cells = [round(cell / 1e6) for cell in cells]
            memory.rows.append([size, name, *cells, peaks[name]])
        for name in names:
            table.rows.append(
                [
                    size,
                    seconds,
                    name,
                    spread(ratios(audio, times[name])),
                    spread(ratios(times[BASELINE], times[name])),
                    peaks.get(name, "-"),
                ]
            )
        baseline = statistics.median(ratios(audio, times[BASELINE]))
        if device != "cpu":  # operators are replayed on the CPU
            continue
        for kind, taken in zip(("heavy", "all"), operator_seconds(size, seconds)):
            rate = seconds_of(batch(seconds, 1)) / taken
            name = f"{OURS}, {kind} operators alone"
            table.rows.append([size, seconds, name, rate, rate / baseline, "-"])
    table.notes = [
        "`recipe` is the size of SpeechBrain's LibriSpeech recipe (12 layers of width "
        f"576). All sizes use that recipe's {CODES} codes of dimension 16, mask "
        f"probability 0.15 and span 4 frames, dropout {DROPOUT} and AdamW. Each round "
        "has new batches, which are the same for all; "
        f"{min(padding):.0%} to {max(padding):.0%} of a batch is padding, which is not "
        "counted as audio.",
        "Median [interquartile range] over rounds; the ratio is taken within a round. "
        "Each code has a process of its own, and the processes take turns.",
        "Heavy operators: the matrix products, convolutions and attention of one "
        "iteration, replayed alone; no code that uses them can be faster. All operators: "
        "all PyTorch operators of one iteration, replayed with their operands in the "
        "cache; this leaves out Python, autograd, the random numbers of dropout, and "
        "cache misses.",
        "Peak: of the second iteration, above the memory of the process with the model.",
        "bf16 of larger models only if the processor has instructions for bf16 products.",
        "Recomputed: layers run again in the backward pass instead of keeping their "
        "activations; the results are the same.",
    ]
    memory.notes = [
        "Peak as above; it includes the two moments of AdamW and the gradient, each of "
        "the size of the parameters.",
        "A tensor that several functions keep counts once, in the first matching column.",
    ]
    return [table, memory]

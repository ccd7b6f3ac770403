"""1. Seconds of audio trained per second, and memory, beside SpeechBrain's BEST-RQ."""

import functools
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import speechbrain as sb
import torch

from hetero_brain import DomainBatch

from .kept import KINDS, REST, kept
from .limit import Recorder, replay
from .measure import (
    Table,
    alternate_processes,
    in_new_process,
    multiplies_bf16,
    peak_bytes,
    ratios,
    spread,
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
    """Train the Brain of that name on a batch of ours."""
    if "SpeechBrain" in name:
        brain.fit_batch(speechbrain_batch(speech))
    else:
        brain.fit_batch([DomainBatch("all", (speech,))])


@functools.cache
def prepared(name, size, seconds, n_batches):
    """The Brain of that name, and its batches to come; the same ones for every name."""
    batches = iter([batch(seconds, i) for i in range(n_batches)])
    return BUILDERS[name](size), batches


def turn(name, size, seconds, n_batches, at_a_time):
    """Train the model of that name, which this process keeps, on its next batches."""
    brain, batches = prepared(name, size, seconds, n_batches)
    for _ in range(at_a_time):
        fit(name, brain, next(batches))


def peak(name, size, seconds):
    """Peak bytes of an iteration above what the process had with the model made.

    One of a second comes before, which the moments of AdamW are there from.
    """
    torch.set_num_threads(1)  # another runs beside this one
    brain = BUILDERS[name](size)
    speech = [batch(1.0), batch(seconds, 1)]
    return peak_bytes(lambda: [fit(name, brain, each) for each in speech])


def peaks_of(names, size, seconds):
    """Name → peak in MB, each in a process of its own, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: in_new_process(peak, name, size, seconds), names)
        return {name: round(value / 1e6) for name, value in zip(names, found)}


def kept_bytes(name, size, seconds):
    """Bytes of the activations kept for the backward pass, by kind; of parameters."""
    brain, speech = BUILDERS[name](size), batch(seconds, 1)
    if "SpeechBrain" in name:
        speech = speechbrain_batch(speech)
    outputs = brain.compute_forward(speech, sb.Stage.TRAIN)
    loss = brain.compute_objectives(outputs, speech, sb.Stage.TRAIN)
    params = list(brain.modules.parameters())
    trained = sum(p.numel() * p.element_size() for p in params if p.requires_grad)
    return kept(loss, params), trained


def operator_seconds(size, seconds):
    """Seconds of our operators alone, on the second batch; median of 3.

    Returns
    -------
    heavy, total : float
        Of matrix products, convolutions and attention; of all operators.
    """
    brain = BUILDERS[OURS](size)
    fit(OURS, brain, batch(seconds, 0))
    with Recorder() as recorder:
        fit(OURS, brain, batch(seconds, 1))
    return sorted(replay(recorder) for _ in range(3))[1]


def run(quick):
    """Throughput for each size and precision; memory in processes of their own."""
    memory = Table(
        "SSL memory: what is kept for the backward pass (MB)",
        ["size", "code", *KINDS, REST, "together", "parameters", "peak"],
    )
    table = Table(
        "SSL throughput: BEST-RQ on one domain (CSSL)",
        ["size", "batch (s)", "code", "audio s / s", "× SpeechBrain fp32", "peak MB"],
    )
    padding = []
    # Of audio in a batch; batches a turn, so that a turn lasts for some seconds; rounds,
    # even, so that as many go in each order.
    plan = {"tiny": (96, 3, 4), "base": (48, 1, 4), "recipe": (48, 1, 2)}
    plan = {"tiny": (4, 1, 2)} if quick else plan
    for size, (seconds, at_a_time, rounds) in plan.items():
        left_out = ["recomputed"] if quick else []
        if size == "recipe":  # where it does not save enough
            left_out.append("feed-forward recomputed")
        if size != "tiny":  # where SpeechBrain's gains little; time is short
            left_out.append("bf16" if not multiplies_bf16() else "SpeechBrain, bf16")
        names = [n for n in BUILDERS if not any(part in n for part in left_out)]
        n_batches = at_a_time * (1 + rounds)  # with the turn that does not count
        batches = [batch(seconds, i) for i in range(at_a_time, n_batches)]
        padding += [padding_of(each) for each in batches]
        audio = np.add.reduceat(
            [seconds_of(each) for each in batches], range(0, len(batches), at_a_time)
        )
        times = alternate_processes(
            turn, names, rounds, size, seconds, n_batches, at_a_time
        )
        peaks = peaks_of([name for name in names if "fp32" in name], size, seconds)
        for name in (BASELINE, OURS):
            by_kind, trained = kept_bytes(name, size, seconds)
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
        for kind, taken in zip(("heavy", "all"), operator_seconds(size, seconds)):
            most = seconds_of(batch(seconds, 1)) / taken
            name = f"{OURS}, {kind} operators alone"
            table.rows.append([size, seconds, name, most, most / baseline, "-"])
    table.notes = [
        "`recipe` is the size of SpeechBrain's LibriSpeech recipe (12 layers, 576 wide); "
        f"all with its {CODES} codes of 16, its masks (0.15 × 4 frames), dropout "
        f"{DROPOUT} and AdamW. Each round has new batches, the same for all; "
        f"{min(padding):.0%} to {max(padding):.0%} of it is padding, not counted.",
        "Median [middle half] over rounds; the ratio is taken within a round. Each code "
        "has a process of its own; they take turns.",
        "Heavy operators: the matrix products, convolutions and attention of one "
        "iteration, replayed; no code with these can be faster. All operators: those of "
        "PyTorch, replayed, each with its operands in the cache; what is left is Python, "
        "autograd, drawing dropout, and operands that have left the cache.",
        "Peak: of an iteration behind the first, above the memory with the model made.",
        "bf16 of larger models only where the processor multiplies in it.",
        "Recomputed: run again in the backward pass, not kept; the numbers are the same.",
    ]
    memory.notes = [
        "Peak as above; of the parameters it has the two moments of AdamW and the "
        "gradient.",
        "Tensors that several functions need count once, in the first column that fits.",
    ]
    return [table, memory]

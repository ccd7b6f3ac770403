"""Where the host waits for the GPU in an iteration, and where the GPU waits for it."""

import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

import hetero_brain
from hetero_brain.models.conformer import make_encoder
from hetero_brain.models.features import make_features
from hetero_brain.objectives.cpc import CPCBrain, make_predictor
from tests.benchmarks.measure import Table, alternate, spread
from tests.benchmarks.models import OPTIMIZER, ours
from tests.benchmarks.speech import RATE

from .device import (
    attempt,
    busy_seconds,
    copies,
    count_kernels,
    device_events,
    host_parts,
    longest_gaps,
    release,
)

PACKAGE = Path(hetero_brain.__file__).parent
CASES = ((5, 1), (2, 3))  # M, K
SIZE, SECONDS = "paper", 80  # of the profile
N_GAPS, N_KERNELS, NAME_LENGTH, GOAL = 5, 15, 90, 1


def cpc(device, precision, local_steps):
    """Our CPC Brain of the smallest size, ready for ``fit_batch``."""
    torch.manual_seed(0)
    features = make_features("conv1d", RATE, 2)
    encoder = make_encoder("tiny", features.output_size, "conv1d", causal=True)
    modules = {
        "features": features,
        "encoder": encoder,
        "predictor": make_predictor(encoder),
    }
    hparams = dict(seed=0, n_negatives=12, max_grad_norm=10.0, local_steps=local_steps)
    hparams["local_optimizer"] = partial(torch.optim.SGD, lr=0.03)
    run_opts = {"device": device, "precision": precision}
    brain = CPCBrain(modules, OPTIMIZER, hparams, run_opts)
    brain.on_fit_start()
    brain.modules.train()
    return brain


def bestrq(device, precision, local_steps):
    """Our BEST-RQ Brain of the smallest size."""
    return ours("tiny", local_steps, 0.1, device=device, precision=precision)


OBJECTIVES = {"BEST-RQ": bestrq, "CPC": cpc}


def place():
    """The innermost line of this package on the stack, as file:line."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)}:{frame.lineno}"
    return "elsewhere"


@contextmanager
def recorded_waits():
    """Counts the host's waits for the GPU inside by the line that asks for them.

    PyTorch warns of each; the stack is that of the call which waits.
    """
    waits = Counter()

    def record(message, *_, **__):
        if "synchronizing" in str(message):
            waits[place()] += 1

    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = record
            yield waits
    finally:
        torch.cuda.set_sync_debug_mode(before)


def wait_rows(table, device):
    """Add a row for each objective, precision, M and K."""
    for name, build in OBJECTIVES.items():
        for precision in ("bf16", "fp16"):
            for n_domains, local_steps in CASES:
                with attempt(table, f"{name}, {precision}, K = {local_steps}"):
                    brain = build(device, precision, local_steps)
                    parts = host_parts(n_domains, 4)
                    for _ in range(3):  # the first iterations allocate
                        brain.fit_batch(copies(parts))
                    with recorded_waits() as waits:
                        brain.fit_batch(copies(parts))
                    places = (f"{at} × {n}" for at, n in waits.most_common())
                    total = sum(waits.values())
                    table.add(
                        name,
                        precision,
                        n_domains,
                        local_steps,
                        total,
                        ", ".join(places),
                    )


def idle_rows(busy, gaps, kernels_run, device, graphs):
    """Add how much of an iteration the GPU is busy, where it is idle longest, and on
    what it spends its time."""
    n_domains, local_steps = CASES[0]
    how = "CUDA graphs" if graphs else "eager"
    settings = dict(precision="bf16", device=device, cuda_graphs=graphs)
    brain = ours(SIZE, local_steps, 0.1, **settings)
    parts = host_parts(n_domains, SECONDS)

    def train():
        brain.fit_batch(copies(parts))

    taken = alternate({"train": train}, 5, warm_up=3, device=device)["train"]
    events = device_events(device, train)
    ran, span = busy_seconds(events), (events[-1][1] - events[0][0]) / 1e6
    kernels = count_kernels(events)
    cells = [spread(taken), span, ran, ran / span, ran / (sum(taken) / len(taken))]
    busy.add(SIZE, how, n_domains, local_steps, SECONDS, *cells, kernels)
    for milliseconds, before, after in longest_gaps(events, N_GAPS):
        gaps.add(how, milliseconds, before[:NAME_LENGTH], after[:NAME_LENGTH])
    durations, calls = Counter(), Counter()
    for start, end, name in events:
        durations[name] += (end - start) / 1e3
        calls[name] += 1
    for name, milliseconds in durations.most_common(N_KERNELS):
        share = milliseconds / sum(durations.values())
        kernels_run.add(how, milliseconds, share, calls[name], name[:NAME_LENGTH])


def run(device, quick):
    """The host's waits for tiny models; the GPU's for the paper's size."""
    waits = Table(
        "Waits of the host for the GPU in an iteration",
        ["objective", "precision", "M", "K", f"waits (goal: {GOAL})", "where"],
        notes=[
            "By torch.cuda.set_sync_debug_mode; size tiny, whose size they do not depend "
            "on. Lines are those of hetero_brain."
        ],
    )
    if torch.device(device).type != "cuda":
        waits.add("only on a GPU", *5 * ["-"])
        yield waits
        return
    with attempt(waits, "waits"):
        wait_rows(waits, device)
    release()
    yield waits
    busy = Table(
        "How busy the GPU is in an iteration (bf16)",
        [
            "size",
            "passes",
            "M",
            "K",
            "unit (s)",
            "iteration (s)",
            "first to last kernel, profiled (s)",
            "kernels and copies (s)",
            "share, profiled",
            "share",
            "kernels",
        ],
    )
    gaps = Table(
        "The longest times in which the GPU is idle",
        ["passes", "ms", "after", "before"],
        notes=[f"Of the profiled iteration: {SIZE}, as above."],
    )
    kernels_run = Table(
        "What the GPU does in that iteration",
        ["passes", "ms", "share", "calls", "kernel"],
    )
    for graphs in (False, True):
        with attempt(busy, "profile"):
            idle_rows(busy, gaps, kernels_run, device, graphs)
        release()
    yield busy
    yield gaps
    yield kernels_run

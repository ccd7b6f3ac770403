"""Passes as CUDA graphs give what passes without them give."""

from tests.benchmarks.models import ours

from .device import copies, host_parts
from .verdicts import Finding, at_most, skipped

SECONDS, ITERATIONS, CPU_ITERATIONS = (2, 4), 8, 1  # there are no graphs on a CPU


def findings(device, precision, tolerance):
    """Losses of the same iterations with and without graphs, dropout 0.

    Domain batches of several shapes take turns, each often enough to be replayed.
    """
    if device == "cpu" and precision != "fp32":  # which may take many times as long
        yield skipped("losses", "there are no graphs on a CPU")
        return
    iterations = CPU_ITERATIONS if device == "cpu" else ITERATIONS
    for local_steps in (0, 1):
        losses = {}
        for graphs in (False, True):
            brain = ours(
                "mini",
                local_steps,
                0.0,
                front_end="conv",
                precision=precision,
                cuda_graphs=graphs,
                device=device,
            )
            brain.hparams.noise_std = 0.0  # drawn for another number of frames
            parts = [host_parts(2, seconds) for seconds in SECONDS]
            losses[graphs] = [
                brain.fit_batch(copies(parts[turn % len(parts)])).item()
                for turn in range(iterations)
            ]
            captured = len(brain.graphs.graphs) if graphs and brain.graphs else 0
        pairs = zip(losses[True], losses[False])
        error = max(abs(a - b) / b for a, b in pairs)
        yield at_most(f"K = {local_steps}: relative error of a loss", error, tolerance)
        yield Finding(f"K = {local_steps}: graphs captured", "-", str(captured), None)

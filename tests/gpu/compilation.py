"""The encoder under ``torch.compile``, on batches of many shapes."""

import shutil
import time
from copy import deepcopy
from functools import partial
from unittest.mock import patch

import torch
from torch._dynamo.utils import counters

from hetero_brain import DomainBatch
from tests.benchmarks.compiled import OPTIONS
from tests.benchmarks.speech import batch

from .mini import largest, parameters, pretraining_brain, relative_error
from .verdicts import Finding, at_most, equal, judged, skipped

SHAPES, CPU_SHAPES = 12, 2
LIMIT = 30  # seconds, after which no further shape is begun


def run(device, quick):
    """Compare compiled encoders with eager ones, a table for all.

    Yields
    ------
    Table
    """
    shapes = CPU_SHAPES if device == "cpu" else SHAPES
    title = f"Compiled encoder on {device}: {shapes} batches of different shapes"
    ways = {"dynamic shapes": None, "each shape by itself": False}
    if device == "cpu":
        del ways["each shape by itself"]
    yield judged(title, [(way, compilation(device, ways[way], shapes)) for way in ways])


def compilation(device, dynamic, shapes):
    """Losses of a compiled encoder against those without, and what compiling costs."""
    compiler = torch.compile
    if device == "cpu":  # where Inductor takes a minute
        compiler = partial(torch.compile, backend="eager")
    elif shutil.which("gcc") is None and shutil.which("cc") is None:
        yield skipped("losses", "no C compiler")
        return
    torch._dynamo.reset()
    counters.clear()
    options = {**OPTIONS, "compile_using_dynamic_shape_tracing": dynamic}
    eager = pretraining_brain(device=device)
    with patch.object(torch, "compile", compiler):
        compiled = pretraining_brain(device=device, compiler=options)
    is_compiled = hasattr(compiled.modules.encoder, "_orig_mod")
    yield equal("SpeechBrain has compiled it", True, is_compiled)
    errors, seconds, graphs = [], [], []
    for i in range(shapes):
        if sum(seconds) > LIMIT:
            break
        own, other = ([DomainBatch("domain", (b,))] for b in shaped(i))
        loss = eager.fit_batch(own).item()
        start = time.perf_counter()
        errors.append(relative_error(compiled.fit_batch(other).item(), loss))
        parameters(compiled)  # waits for the device
        seconds.append(time.perf_counter() - start)
        graphs.append(counters["stats"]["unique_graphs"])
    yield at_most("largest relative error of a loss", largest(errors), 1e-3)
    yield Finding(f"shapes in {LIMIT} s", f"up to {shapes}", str(len(errors)), None)
    compilations = sum(now > before for before, now in zip(graphs, graphs[1:]))
    yield Finding("graphs compiled in the first iteration", "-", str(graphs[0]), None)
    text = f"{graphs[-1] - graphs[0]} in {compilations} iterations"
    holds = compilations == 0 if dynamic is None else None
    yield Finding(
        "graphs compiled afterwards", "0" if dynamic is None else "-", text, holds
    )
    text = ", ".join(f"{s:.2g}" for s in seconds)
    yield Finding("seconds of each iteration", "-", text, None)


def shaped(i):
    """Two copies of a batch of several utterances, of a shape that no other ``i`` has."""
    found = batch(8 + i, i, like=1 + i / 4)
    return deepcopy(found), deepcopy(found)

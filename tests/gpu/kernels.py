"""Choices between kernels that compute the same, forward and backward, on a GPU."""

import gc
import itertools
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F

from hetero_brain.objectives import cross_entropy
from hetero_brain.objectives.cross_entropy import linear_cross_entropy
from tests.benchmarks.measure import Table, peak_allocated
from tests.benchmarks.models import ours
from tests.benchmarks.speech import batch

from .device import (
    attempt,
    count_kernels,
    device_events,
    medians,
    on_host,
    passes,
    random,
    release,
)
from .layers import DTYPES, SECONDS, attentions, convolutions, rotations

PIECES = {"2**21": 2**21, "2**23": 2**23, "2**25": 2**25, "all rows": 2**40}


# --------------------------------------------------------------------------- precision


def precisions(device, quick):
    """The encoder in bf16: by autocast, and with parameters that are cast at once."""
    size, seconds = ("mini", 2) if quick else ("base", SECONDS)
    columns = ["size", "way", "ms", "kernels", "peak MB"]
    table = Table(
        f"bf16: the encoder's forward and backward pass, {seconds} s", columns
    )
    kind = torch.device(device).type
    with attempt(table, "bf16"):
        brain = ours(size, 0, 0.1, front_end="conv", device=device)
        encoder, speech = brain.modules.encoder, on_host(batch(seconds)).to(device)
        with torch.no_grad():
            inputs = brain.modules.features(*speech.sig)
        ways = {
            "fp32 (TF32)": partial(in_fp32, encoder, inputs),
            "autocast": partial(by_autocast, encoder, inputs, kind),
        }
        if kind == "cuda":  # the operators for CPUs need parameters in fp32
            ways |= {
                "autocast, parameters cast at once": cast_at_once(
                    encoder, inputs, kind
                ),
                "all in bf16": cast_at_once(encoder, inputs, None),
            }
        found = medians(device, ways, quick)
        for name, milliseconds in found.items():
            kernels = count_kernels(device_events(device, ways[name])) or "-"
            peak = round(peak_allocated(device, ways[name]) / 1e6)
            table.add(size, name, milliseconds, kernels, peak)
    return table


def gradient_of(out, parameters):
    """The gradient of a scalar function of an encoder's output."""
    torch.autograd.grad(out.float().square().mean(), parameters)


def in_fp32(encoder, inputs):
    """A pass in fp32, or TF32 where the GPU may use it."""
    gradient_of(encoder(*inputs)[0], list(encoder.parameters()))


def by_autocast(encoder, inputs, device_type):
    """A pass that casts weights and activations where they are used."""
    with torch.autocast(device_type, torch.bfloat16):
        out, _ = encoder(*inputs)
    gradient_of(out, list(encoder.parameters()))


def cast_at_once(encoder, inputs, autocast_on):
    """The function that makes a pass with views of one block of bf16, cast from one of
    fp32.

    ``autocast_on`` is a type of device; with None, all activations are in bf16.
    """
    named, (features, lengths) = dict(encoder.named_parameters()), inputs
    # Each starts at a multiple of 64 elements: aligned for matrix products.
    sizes = [n for p in named.values() for n in (p.numel(), -p.numel() % 64)]
    block = torch.zeros(sum(sizes), device=features.device)
    for piece, param in zip(block.split(sizes)[::2], named.values()):
        piece.copy_(param.detach().flatten())
    block.requires_grad_()

    def run_pass():
        pieces = block.bfloat16().split(sizes)[::2]
        views = {n: v.view_as(p) for (n, p), v in zip(named.items(), pieces)}
        with torch.autocast(autocast_on or "cpu", torch.bfloat16, bool(autocast_on)):
            x = features if autocast_on else features.bfloat16()
            out, _ = torch.func.functional_call(encoder, views, (x, lengths))
        gradient_of(out, [block])

    return run_pass


# ------------------------------------------------------------------------ output, steps


def cross_entropies(device, quick):
    """The output layer with its loss, in pieces of the rows and at once."""
    rows, classes, width = (200, 512, 64) if quick else (2400, 8192, 512)
    columns = ["codebooks", "type", "way", "ms", "peak MB"]
    table = Table(f"Cross-entropy: {rows} rows, {classes} classes a codebook", columns)
    for groups, kind in itertools.product((1,) if quick else (1, 4), DTYPES):
        inputs = [
            random(rows, width, device=device),
            random(groups * classes, width, device=device),
            random(groups * classes, device=device),
        ]
        labels = torch.randint(classes, (rows, groups), device=device)
        enabled = kind == "bf16"
        cast = partial(
            torch.autocast, torch.device(device).type, torch.bfloat16, enabled
        )

        def in_pieces(x, weight, bias, labels=labels, cast=cast):
            with cast():
                return linear_cross_entropy(x, labels, weight, bias)[0]

        def at_once(x, weight, bias, labels=labels, cast=cast):
            with cast():
                logits = F.linear(x, weight, bias).unflatten(-1, (labels.shape[1], -1))
                return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

        ways = {
            f"pieces of {name} logits": (in_pieces, n) for name, n in PIECES.items()
        }
        ways["F.cross_entropy of F.linear"] = at_once, 0
        for name, (function, piece) in ways.items():
            with (
                attempt(table, f"{groups} codebooks, {kind}, {name}"),
                patch.object(cross_entropy, "logits_at_once", lambda _, n=piece: n),
            ):
                both = passes(function, inputs)
                (milliseconds,) = medians(device, {name: both}, quick).values()
                peak = round(peak_allocated(device, both) / 1e6)
                table.add(groups, kind, name, milliseconds, peak)
    return table


def steps(device, quick):
    """Steps of the optimizers on all parameters of a model, foreach and fused."""
    size = "mini" if quick else "base"
    columns = ["optimizer", "foreach (ms)", "fused (ms)"]
    table = Table(f"Optimizer step on the parameters of {size}, fp32", columns)
    params = ours(size, device=device).local_solver.params
    for param in params:
        param.grad = torch.randn_like(param)
    kinds = {"SGD": partial(torch.optim.SGD, lr=1e-5)}
    kinds["AdamW"] = partial(torch.optim.AdamW, lr=1e-5, weight_decay=0.01)
    for name, kind in kinds.items():
        with attempt(table, name):
            ways = {
                way: kind(params, **{way: True}).step for way in ("foreach", "fused")
            }
            table.add(name, *medians(device, ways, quick).values())
    return table


def run(device, quick):
    """Each choice in a table of its own."""
    gc.collect()
    gc.freeze()  # what was there before need not be looked through for each measurement
    sections = precisions, cross_entropies, steps, rotations, attentions, convolutions
    for section in sections:
        torch.manual_seed(0)
        table = Table(section.__name__, [])
        with attempt(table, section.__name__):
            table = section(device, quick)
        release()
        yield table

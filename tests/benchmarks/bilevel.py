"""2. What the bilevel update costs beside plain forward-backward passes."""

import speechbrain as sb
import torch

from .measure import Table, alternate, in_new_process, peak_bytes, ratios, spread
from .models import ours
from .speech import batch, global_batch

TRAIN = sb.Stage.TRAIN


def plain_passes(brain, parts):
    """As many forward-backward passes and one optimizer step, and nothing else.

    The passes are the Brain's own, on the same features, masks and labels.
    """
    for part in parts:
        for _ in range(brain.local_steps + 1):
            outputs = brain.compute_forward(part.batches[0], TRAIN)
            loss = brain.compute_objectives(outputs, part.batches[0], TRAIN)
            (loss / len(parts)).backward()
    brain.optimizers_step()


def cost(size, local_steps, parts, rounds):
    """Seconds of an iteration and of the plain passes, in alternation."""
    brains = [ours(size, local_steps) for _ in range(2)]
    return alternate(
        {
            "bilevel": lambda: brains[0].fit_batch(parts),
            "plain": lambda: plain_passes(brains[1], parts),
        },
        rounds,
    )


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
    rounds = 3 if quick else 4
    seconds = {"tiny": 4} if quick else {"tiny": 32, "base": 12}
    for length in seconds.values():
        batch(length)  # manifests are read here, not in the first round
    for size, length in seconds.items():
        for local_steps in (1, 3):
            taken = cost(size, local_steps, global_batch(5, length), rounds)
            times.rows.append(
                [
                    size,
                    length,
                    local_steps,
                    5 * (local_steps + 1),
                    spread(taken["bilevel"]),
                    spread(taken["plain"]),
                    spread(ratios(taken["bilevel"], taken["plain"]), 4),
                ]
            )
    times.notes = [
        "The same domain batches in both; 32 s is the VoicePrompts recipe's. Features, "
        "masks and labels are made once an iteration in both. Plain passes end with the "
        "same optimizer step, but neither keep θ, nor step locally, nor check or log."
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
    return [times, memory]

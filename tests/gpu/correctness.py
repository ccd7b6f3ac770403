"""Right: results on a GPU are those of the CPU, and what must be exact is exact."""

from contextlib import contextmanager, suppress
from itertools import product

import torch

from . import folders, graphed
from .exact import exact_hypergradient
from .finetuned import finetuned
from .loss_scaling import overflow_and_recovery
from .mini import (
    HostFbank,
    bits,
    cosine,
    iteration,
    parameters,
    pretraining_brain,
    relative_error,
    speech,
)
from .resumed import in_deterministic_process, resumptions
from .verdicts import Finding, at_most, equal, judged

OBJECTIVES = (("bestrq", "linear"), ("bestrq", "conv"), ("cpc", "conv1d"))
CASES = [*product(OBJECTIVES, (0, 1, 3))]  # with K
FEW_CASES = [(OBJECTIVES[0], 1), (OBJECTIVES[1], 3), (OBJECTIVES[2], 0)]
ITERATIONS = 3


def run(device, quick):
    """All checks, a table for each group of them.

    Arguments
    ---------
    device : str
        Of the models that are compared with models on the CPU.
    quick : bool
        Whether to make fewer comparisons.

    Yields
    ------
    Table
    """
    with without_tf32():
        yield judged(
            f"CPU against {device}: mini, SGD, relative errors",
            [
                *(
                    (
                        f"{objective}, {front_end}, K = {local_steps}",
                        against_cpu(device, objective, front_end, local_steps),
                    )
                    for (objective, front_end), local_steps in (
                        FEW_CASES if quick else CASES
                    )
                ),
                ("bf16 against fp32 on the CPU", bf16_against_fp32(device)),
            ],
        )
        yield judged(
            f"The update on {device}",
            [
                ("θ after a local solve", restored(device, raises=False)),
                ("θ after a solve that raised", restored(device, raises=True)),
                ("a domain that is not finite", left_out(device)),
                ("exact hypergradient", exact_hypergradient(device)),
                ("recomputed: feed_forward", recomputation(device, "feed_forward")),
                ("recomputed: blocks", recomputation(device, "blocks")),
                ("fp16", overflow_and_recovery(device)),
                ("CUDA graphs, fp32", graphed.findings(device, "fp32", 1e-4)),
                ("CUDA graphs, bf16", graphed.findings(device, "bf16", 2e-2)),
            ],
        )
        yield judged(
            f"Resumed runs on {device}: 3 + 3 iterations against 6",
            [
                ("any algorithms", resumptions(device, deterministic=False)),
                ("deterministic", in_deterministic_process(device)),
            ],
        )
        yield judged(
            f"Fine-tuning on {device}",
            [
                ("CTC", finetuned(device, joint=False)),
                ("CTC and attention", finetuned(device, joint=True)),
            ],
        )
        yield judged(
            f"Model folders on {device}: what they give on the CPU",
            [(kind, folders.used(device, kind)) for kind in folders.INTERFACES],
        )


@contextmanager
def without_tf32():
    """Products and convolutions of fp32 in fp32, not in TF32."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before):
            backend.allow_tf32 = allowed


def on_both(device, **settings):
    """A Brain on the CPU in fp32, and one on a device with the same parameters.

    The noise in masked frames is drawn by the device, so there is none.
    """
    common = {"noise_std": 0.0, "features": HostFbank}
    precision = settings.pop("precision", "fp32")
    reference = pretraining_brain(**common, **settings)
    settings |= {"device": device, "precision": precision}
    brain = pretraining_brain(**common, **settings)
    brain.modules.load_state_dict(reference.modules.state_dict())
    return reference, brain


def against_cpu(device, objective, front_end, local_steps):
    """Loss, hypergradient, and update of three iterations, of fp32 on both devices."""
    brains = on_both(
        device, objective=objective, front_end=front_end, local_steps=local_steps
    )
    theta, global_batches = parameters(brains[0]), (speech(), speech())
    (loss, grad), (loss_here, grad_here) = map(iteration, brains, global_batches)
    for brain, parts in zip(brains, global_batches):
        for _ in range(ITERATIONS - 1):
            brain.fit_batch(parts)
    update, update_here = (parameters(brain) - theta for brain in brains)
    yield at_most("loss", relative_error(loss_here, loss), 1e-5)
    yield at_most("hypergradient", relative_error(grad_here, grad), 1e-3)
    error = relative_error(update_here, update)
    yield at_most(f"update of θ, {ITERATIONS} iterations", error, 1e-3)


def bf16_against_fp32(device):
    """Loss and direction of the hypergradient under bf16."""
    brains = on_both(device, precision="bf16")
    found = map(iteration, brains, (speech(), speech()))
    (loss, grad), (loss_here, grad_here) = found
    yield at_most("loss", relative_error(loss_here, loss), 2e-2)
    similarity = cosine(grad, grad_here)
    yield Finding(
        "cosine of hypergradients", "above 0.99", f"{similarity:.5f}", similarity > 0.99
    )


# ------------------------------------------------------------------ the bilevel update


class Interruption(Exception):
    """What a local solve raises on request."""


def restored(device, raises):
    """Whether θ comes back bit for bit from where local steps have moved it."""
    brain, (domain_batch, *_) = pretraining_brain(device=device), speech()
    before, moved = bits(brain.modules), False
    with suppress(Interruption), brain.local_solve(domain_batch) as phi:
        loss, params = brain.loss(domain_batch, 0), brain.local_solver.params
        phi.step(torch.autograd.grad(loss, params, allow_unused=True))
        moved = bits(brain.modules) != before
        if raises:
            raise Interruption
    same = bits(brain.modules) == before
    yield equal("moved by the step, then the same bits", (True, True), (moved, same))


def left_out(device):
    """An iteration on two domains, one of NaN, against one on the other alone."""
    parts, (alone, _) = speech(), speech()
    parts[1].batches[0].sig.data.fill_(torch.nan)
    brains = [pretraining_brain(device=device) for _ in range(2)]
    theta = parameters(brains[0])
    losses = [b.fit_batch(p).item() for b, p in zip(brains, (parts, [alone]))]
    updates = [parameters(brain) - theta for brain in brains]
    yield at_most("loss, without it", relative_error(*losses), 1e-6)
    yield at_most("update of θ, without it", relative_error(*updates), 1e-4)


def recomputation(device, part):
    """Loss and gradient with dropout if a part of the blocks is run again."""
    (loss, grad), (loss_again, grad_again) = (
        iteration(
            pretraining_brain(device=device, dropout=0.1, recomputed=recomputed),
            speech(),
        )
        for recomputed in ("none", part)
    )
    yield at_most("loss", relative_error(loss_again, loss), 1e-6)
    yield at_most("hypergradient", relative_error(grad_again, grad), 1e-4)

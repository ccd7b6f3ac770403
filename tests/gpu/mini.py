"""Brains of a mini size on any device, their speech, and what is compared of them."""

from copy import deepcopy
from functools import partial
from unittest.mock import patch

import torch
from torch import nn

from hetero_brain import DomainBatch
from hetero_brain.models.conformer import Conformer, make_head
from hetero_brain.models.features import RawFrames, StackedFbank
from hetero_brain.models.front_ends import Conv1dFrontEnd, ConvFrontEnd
from hetero_brain.models.layers import Linear
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.cpc import CPCBrain, make_predictor
from hetero_brain.objectives.quantizers import RandomProjectionQuantizer
from hetero_brain.training.checkpoints import AtomicCheckpointer
from tests.benchmarks.speech import RATE, batch

MINI = dict(num_layers=2, d_model=32, nhead=2, d_ffn=64, kernel_size=7)
FRONT_ENDS = {"linear": Linear, "conv": ConvFrontEnd, "conv1d": Conv1dFrontEnd}
CODES = 64
SGD = partial(torch.optim.SGD, lr=0.1)
LOCAL_SGD = partial(torch.optim.SGD, lr=0.03)
ADAMW = partial(torch.optim.AdamW, lr=2e-3, fused=True)


class HostFbank(StackedFbank):
    """Features that are computed on the CPU, whatever the device of the model.

    A rounding error may move a frame to another code, which would change the loss by far
    more than rounding: comparisons between devices need equal labels.
    """

    def _apply(self, fn, recurse=True):
        return self  # stays where it is

    def forward(self, wavs, wav_lens):
        """As of ``StackedFbank``, on the device of ``wavs``."""
        x, lengths = super().forward(wavs.cpu(), wav_lens.cpu())
        return x.to(wavs.device), lengths.to(wavs.device)


def speech(n_domains=2, seconds=4):
    """A global batch of speech, in memory of its own.

    A Brain moves a batch to its device in place, so no two devices can share one.
    """
    parts = ((f"domain{i}", deepcopy(batch(seconds, i))) for i in range(n_domains))
    return [DomainBatch(domain, (part,)) for domain, part in parts]


def pretraining_brain(
    objective="bestrq",
    front_end="linear",
    local_steps=1,
    device="cpu",
    precision="fp32",
    seed=0,
    dropout=0.0,
    recomputed="none",
    features=StackedFbank,
    optimizer=SGD,
    local_optimizer=LOCAL_SGD,
    folder=None,
    compiler=None,
    **hparams,
):
    """A BEST-RQ or CPC Brain, ready for ``fit_batch``.

    Arguments
    ---------
    objective : str
        ``bestrq``, or ``cpc`` with a causal encoder.
    front_end : str
        As for ``make_encoder``.
    seed : int
        Of the initial parameters; all else that is random has the seed 0.
    features : type
        The log-mel features of BEST-RQ.
    optimizer, local_optimizer : callable
        Of the two levels.
    folder : Path
        Of checkpoints, the newest of which is loaded; None for no checkpoints.
    compiler : dict
        SpeechBrain's run options of ``torch.compile``.
    **hparams
        More settings of the Brain.
    """
    torch.manual_seed(seed)
    cpc = objective == "cpc"
    features = RawFrames(stack=2) if cpc else features(sample_rate=RATE)
    encoder = Conformer(
        FRONT_ENDS[front_end](features.output_size, MINI["d_model"]),
        dropout=dropout,
        causal=cpc,
        recomputed=recomputed,
        **MINI,
    )
    if cpc:
        kind, new = CPCBrain, {"predictor": make_predictor(encoder, n_positives=4)}
        # With its zeros, the loss would not depend on the encoder.
        nn.init.normal_(new["predictor"].matrices.weight, std=0.1)
    else:
        quantizer = RandomProjectionQuantizer(features.output_size, codebook_size=CODES)
        kind, new = BestRQBrain, {"output": make_head(encoder, CODES)}
        new["quantizer"] = quantizer
    modules = {"features": features, "encoder": encoder, **new}
    checkpointer = None
    if folder is not None:
        stateful = {name: m for name, m in modules.items() if m.state_dict()}
        checkpointer = AtomicCheckpointer(folder, stateful)
    brain = kind(
        modules,
        optimizer,
        {
            "seed": 0,
            "solve_seed": 0,
            "mask_prob": 0.15,
            "mask_span": 4,
            "noise_std": 0.1,
            "n_negatives": 6,
            "max_grad_norm": 10.0,
            "local_steps": local_steps,
            "local_optimizer": local_optimizer,
            **hparams,
        },
        {"device": device, "precision": precision, **(compiler or {})},
        checkpointer,
    )
    brain.on_fit_start()
    brain.modules.train()
    return brain


def parameters(brain):
    """A copy of all trainable parameters of a Brain as one vector on the CPU."""
    return flat(brain.local_solver.params)


def flat(tensors):
    """A copy of some tensors as one vector on the CPU, in float64."""
    return torch.cat([t.detach().cpu().double().flatten() for t in tensors])


def iteration(brain, parts):
    """One iteration, and what the global optimizer was given.

    Returns
    -------
    loss : float
        At φ_K.
    hypergradient : torch.Tensor
        As one vector on the CPU, not yet clipped; 0 for parameters without a gradient.
    """
    params, step, kept = brain.local_solver.params, brain.optimizers_step, []

    def keep_and_step():
        grads = (torch.zeros_like(p) if p.grad is None else p.grad for p in params)
        kept.append(flat(grads))
        step()

    with patch.object(brain, "optimizers_step", keep_and_step):
        loss = brain.fit_batch(parts).item()
    return loss, kept[0]


def relative_error(measured, reference):
    """‖measured − reference‖ / ‖reference‖, of vectors or numbers."""
    measured, reference = torch.as_tensor(measured), torch.as_tensor(reference)
    return float((measured - reference).norm() / reference.norm())


def largest(values):
    """The largest of some numbers; NaN if one of them is, which ``max`` may overlook."""
    return float(torch.tensor(values).max())


def cosine(one, other):
    """The cosine of the angle between two vectors."""
    return float(one @ other / (one.norm() * other.norm()))


def bits(module):
    """Name → bytes of each parameter and buffer."""
    state = module.state_dict().items()
    return {name: tensor.cpu().numpy().tobytes() for name, tensor in state}

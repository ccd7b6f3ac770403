"""Trains public models on some ranks, as a script: see ``test_public_runs.py``."""

import json
import sys
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch

from hetero_brain import DomainBatch
from hetero_brain.domain_batch import Share
from hetero_brain.models.conformer import make_head
from hetero_brain.models.public import PretrainingHeads, PublicEncoder
from hetero_brain.models.public_features import make_public_features
from hetero_brain.objectives.masked_prediction import MaskedPredictionBrain
from hetero_brain.objectives.quantizers import make_quantizer
from hetero_brain.objectives.targets import make_targets
from hetero_brain.objectives.wav2vec2 import Wav2Vec2Brain
from hetero_brain.training.parallel import rank_and_size

OBJECTIVES = {"wav2vec2": Wav2Vec2Brain, "masked": MaskedPredictionBrain}
HPARAMS = dict(
    seed=1,
    mask_prob=0.1,
    mask_span=5,
    n_negatives=10,
    diversity_weight=0.1,
    feature_penalty=0.0,
    gumbel_max=2.0,
    gumbel_min=0.5,
    gumbel_decay=0.99,
    local_steps=1,
    local_optimizer_state="per_domain",
)


def modules_of(objective, source):
    """The modules of an objective; those that are new have random weights."""
    torch.manual_seed(0)
    encoder = PublicEncoder(source)
    modules = {"features": make_public_features(source), "encoder": encoder}
    if objective == "wav2vec2":
        return {**modules, "heads": PretrainingHeads(source)}
    targets = make_targets("teacher", source, layer=1)
    return {
        **modules,
        "targets": targets,
        "quantizer": make_quantizer("random_projection", targets.output_size, 16),
        "output": make_head(encoder, 16),
    }


def global_batch(step, rank, size):
    """The part of a rank in a global batch of two domains of noise."""
    share = Share("ab")
    for i, domain in enumerate("ab"):
        if i % size == rank:
            draw = torch.Generator().manual_seed(10 * step + i)
            rows = [
                {"id": f"{domain}{step}{n}", "sig": torch.randn(n, generator=draw)}
                for n in (9000, 7000)
            ]
            share.append(DomainBatch(domain, (PaddedBatch(rows),)))
    return share


def trained(objective, source, options):
    """A Brain after three iterations, with its losses and figures."""
    brain = OBJECTIVES[objective](
        modules_of(objective, source),
        partial(torch.optim.AdamW, lr=0.003),
        HPARAMS | {"local_optimizer": partial(torch.optim.AdamW, lr=0.003)},
        options,
    )
    brain.on_fit_start()
    brain.modules.train()
    losses = [brain.fit_batch(global_batch(t, *rank_and_size())) for t in range(3)]
    state = {k: v.tolist() for k, v in brain.modules.state_dict().items()}
    return {
        "losses": [loss.item() for loss in losses],
        "figures": brain.interval_stats(),
        "state": state,
    }


def main(source, out):
    """On all ranks: train by each objective, and write what rank 0 has in the end."""
    words = ["x.yaml", "--device", "cpu", "--distributed_backend", "gloo"]
    _, options, _ = sb.parse_arguments([*words, "--noprogressbar"])
    sb.utils.distributed.ddp_init_group(options)
    found = {objective: trained(objective, source, options) for objective in OBJECTIVES}
    if rank_and_size()[0] == 0:
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

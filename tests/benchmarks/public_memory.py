"""What continuing a public model costs in memory; printed as a Markdown table.

    python -m tests.benchmarks.public_memory

Models of the published sizes with random weights, on a CPU. What is kept for each
parameter is the growth of the resident set over iterations on two domains with a second
of audio each, with AdamW, each in a process of its own. What is kept for the backward
pass is counted in bf16: all tensors that autograd saves, each memory once.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from speechbrain.dataio.batch import PaddedBatch
from torch.autograd.graph import saved_tensors_hooks
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.models.public import PublicEncoder
from hetero_brain.models.public_features import make_public_features

LARGE = dict(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    conv_bias=True,
)
SIZES = {"base": {}, "large": LARGE}


class Square(HeteroBrain):
    """Its loss is the mean square of the encodings."""

    def compute_forward(self, batch, stage):
        return self.modules.encoder(*self.modules.features(*batch.sig))[0]

    def compute_objectives(self, predictions, batch, stage):
        return predictions.square().mean()


def source(size):
    """The settings of a model of a published size."""
    config = Wav2Vec2Config(**SIZES[size]).to_dict()
    return {"config": config, "inputs": Wav2Vec2FeatureExtractor().to_dict()}


def resident(key="VmRSS"):
    """Resident memory of this process, in bytes; its peak with VmHWM."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) * 1024


def bytes_of_iteration(size, local_steps, frozen):
    """Peak growth of the resident memory from an empty process, in bytes, with the
    weights; and the numbers of parameters and of trained ones."""
    wav = PaddedBatch([{"sig": torch.randn(16000)}])
    batches = [DomainBatch(domain, (wav,)) for domain in ("en", "fr")]
    before = resident()
    modules = {"features": make_public_features(source(size))}
    modules["encoder"] = PublicEncoder(source(size), freeze_front_end=frozen == "True")
    sgd, adam = (
        partial(kind, lr=1e-5) for kind in (torch.optim.SGD, torch.optim.AdamW)
    )
    hparams = {"local_steps": int(local_steps), "local_optimizer": sgd}
    adam = partial(adam, fused=True)
    brain = Square(modules, adam, hparams, run_opts={"device": "cpu"})
    brain.init_optimizers()
    brain.modules.train()
    for _ in range(2):  # the optimizer's state is made in the first
        brain.fit_batch(batches)
    params = [*brain.modules.parameters()]
    trained = sum(p.numel() for p in params if p.requires_grad)
    return resident("VmHWM") - before, sum(p.numel() for p in params), trained


def kept(size, recomputed, seconds):
    """Bytes for the backward pass of two utterances, in bf16."""
    features = make_public_features(source(size))
    encoder = PublicEncoder(source(size), recomputed=recomputed)
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes(), tensor  # alive: no reuse
        return tensor

    x, lengths = features(torch.randn(2, seconds * 16000), torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16), saved_tensors_hooks(note, lambda x: x):
        encoder(x, lengths)[0]
    return sum(n for n, _ in found.values())


def kept_a_second(size, recomputed):
    """Bytes that a second of audio adds; weights are as many for any length."""
    return (kept(size, recomputed, 2) - kept(size, recomputed, 1)) / 2


def main(argv):
    """Print the table, or one number of it."""
    if argv:
        print(*globals()[argv[0]](*argv[1:]))
        return
    print(
        "| model | parameters, M (trained) | front end | K | GB | bytes a trained one |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for size in SIZES:
        for frozen, steps in ((True, 0), (True, 1), (False, 1)):
            words = ["bytes_of_iteration", size, str(steps), str(frozen)]
            command = [sys.executable, "-m", "tests.benchmarks.public_memory", *words]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True
            )
            peak, n, trained = map(int, done.stdout.split())
            front_end = "frozen" if frozen else "trained"
            print(
                f"| {size} | {n / 1e6:.0f} ({trained / 1e6:.0f}) | {front_end} | {steps} "
                f"| {peak / 1e9:.2f} | {peak / trained:.1f} |",
                flush=True,
            )
    print("\n| model | recomputed | MB a second of audio, bf16 |\n|---|---|---|")
    for size in SIZES:
        for recomputed in ("none", "blocks"):
            print(
                f"| {size} | {recomputed} | {kept_a_second(size, recomputed) / 1e6:.1f} |"
            )


if __name__ == "__main__":
    main(sys.argv[1:])

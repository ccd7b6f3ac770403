"""Brains shaped as those of SpeechBrain's recipes are, one for each thing they do.

As a script, runs all of them on some ranks: see ``test_any_brain.py``.
"""

import json
import sys
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import DropChunk, DropFreq
from speechbrain.nnet.schedulers import CyclicLRScheduler, NoamScheduler
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.metric_stats import MetricStats
from speechbrain.utils.seed import seed_everything
from torch import nn
from torch.utils.data import DataLoader

from hetero_brain import DomainBatch, HeteroBrain

SHAPES = {
    "augmented": {},  # waveforms and labels, in training only
    "normalised": {},  # over all batches so far
    "metrics": {},  # that also count in training
    "annealed": {},  # by a scheduler in on_fit_batch_end
    "cyclic": {},  # by a scheduler in compute_objectives, as in speaker recognition
    "two_optimizers": {},  # one of which rests in every other iteration
    "accumulated": {"grad_accumulation_factor": 2},
    "saved": {},  # the best by an error of tokens that only a validation decodes
}
ALONE = ("normalised", "cyclic")  # refused on several ranks
STEPS = (0, 1, 3)  # local ones


class Errors(MetricStats):
    """A metric of the recipe's own."""


def batch_of(seed):
    """Waveforms, their relative lengths, and labels."""
    draw = torch.Generator().manual_seed(seed)
    wavs = torch.randn(4, 400, generator=draw)
    return wavs, torch.tensor([1.0, 0.8, 0.6, 1.0]), wavs.mean(1) * 10


def shaped(base, shape):
    """A class of Brain of a shape, on ``sb.Brain`` or ``HeteroBrain``."""

    class Shaped(base):
        def init_optimizers(self):
            if shape != "two_optimizers":
                super().init_optimizers()
                return
            self.body_optimizer = self.opt_class(self.modules.body.parameters())
            self.head_optimizer = self.opt_class(self.modules.head.parameters())
            names = ("body", "head")
            optimizers = (self.body_optimizer, self.head_optimizer)
            self.optimizers_dict = dict(zip(names, optimizers))

        def freeze_optimizers(self, optimizers):
            resting = "body" if self.optimizer_step % 2 else None
            return {k: o for k, o in optimizers.items() if k != resting}

        def compute_forward(self, batch, stage):
            wavs, lengths, _ = batch
            if stage == sb.Stage.TRAIN and shape == "augmented":
                wavs, lengths = self.hparams.augment(wavs, lengths)
            features = wavs.unfold(1, 40, 40)
            if shape == "normalised":
                features = self.modules.normalize(features, lengths)
            outputs = self.modules.head(self.modules.body(features)).mean((1, 2))
            if shape == "saved":
                return outputs, None if stage == sb.Stage.TRAIN else outputs.round()
            return outputs

        def compute_objectives(self, predictions, batch, stage):
            labels = batch[2]
            if shape == "saved":
                predictions, tokens = predictions
                assert (tokens is None) == (stage == sb.Stage.TRAIN)
            if stage == sb.Stage.TRAIN and shape == "augmented":
                labels = self.hparams.augment.replicate_labels(labels)
            if stage != sb.Stage.TRAIN or shape == "metrics":
                self.metric.append(["a"] * len(labels), predictions, labels)
            if stage == sb.Stage.TRAIN and shape == "cyclic":
                self.hparams.scheduler.on_batch_end(self.optimizer)
            return (predictions - labels).square().mean()

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step and shape == "annealed":
                self.hparams.scheduler(self.optimizer)

        def on_stage_start(self, stage, epoch=None):
            self.metric = Errors(lambda p, labels: (p - labels).abs())

        def on_stage_end(self, stage, stage_loss, epoch=None):
            optimizers = self.optimizers_dict or {"optimizer": self.optimizer}
            rates = [o.param_groups[0]["lr"] for o in optimizers.values()]
            scores = [x.detach() for x in self.metric.scores]
            scores = torch.stack(scores).tolist() if scores else []
            self.seen.append((stage.name, float(stage_loss), rates, scores))
            if shape == "saved" and stage == sb.Stage.VALID:
                error = {"error": epoch}  # the first is the best
                self.checkpointer.save_and_keep_only(error, min_keys=["error"])

    return Shaped


def fit(base, shape, train, valid, options, folder, **hparams):
    """Train for two epochs, and test the best if it was saved in a folder; the Brain,
    with all that it has ``seen``."""
    seed_everything(1, verbose=False)  # as recipes do
    modules = {
        "body": nn.Sequential(nn.Linear(40, 8), nn.Dropout(0.2), nn.Tanh()),
        "head": nn.Linear(8, 1),
        "normalize": InputNormalization(norm_type="global"),
    }
    hparams["augment"] = Augmenter(
        min_augmentations=1,
        max_augmentations=2,
        shuffle_augmentations=True,
        concat_original=True,
        augmentations=[
            DropChunk(drop_length_low=20, drop_length_high=60),
            DropFreq(drop_freq_count_high=2),
        ],
    )
    hparams["scheduler"] = {
        "annealed": NoamScheduler(0.02, 3),
        "cyclic": CyclicLRScheduler(base_lr=0.01, max_lr=0.03, step_size=3),
    }.get(shape)
    brain = shaped(base, shape)(
        modules,
        partial(torch.optim.AdamW, lr=0.02),
        hparams,
        options,
        Checkpointer(folder, {**modules}) if shape == "saved" else None,
    )
    brain.seen = []
    train, valid = (DataLoader(batches, batch_size=None) for batches in (train, valid))
    brain.fit([1, 2], train, valid)
    if shape == "saved":
        brain.evaluate(valid, min_key="error")
    return brain


def outcome(base, shape, domains, options, folder, rank=0, size=1, **settings):
    """Train on some domains, of which each rank has every ``size``-th: the state of the
    modules in the end, and what the Brain has seen, or why it was refused."""
    train = [
        [
            DomainBatch(domain, (batch_of(10 * t + i),))
            for i, domain in enumerate(domains)
            if i % size == rank
        ]
        for t in range(4)
    ]
    if base is sb.Brain:  # which takes one batch a rank
        train = [share[0].batches[0] for share in train]
    options = {**options, **SHAPES[shape]}
    try:
        brain = fit(base, shape, train, [batch_of(100)], options, folder, **settings)
    except RuntimeError as error:
        return {"refused": str(error)}
    state = {
        key.replace(".module.", "."): value.tolist()  # as DDP has wrapped the modules
        for key, value in brain.modules.state_dict().items()
    }
    return {"state": state, "seen": brain.seen}


def local(steps):
    """The settings for some local steps."""
    sgd = partial(torch.optim.SGD, lr=0.01)
    return {"local_steps": steps, "local_optimizer": sgd, "solve_seed": 3}


def main(folder):
    """On all ranks: train each shape, and write what this rank has in the end."""
    words = ["x.yaml", "--device", "cpu", "--distributed_backend", "gloo"]
    _, options, _ = sb.parse_arguments([*words, "--noprogressbar"])
    sb.utils.distributed.ddp_init_group(options)
    ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = {}
    for shape in SHAPES:
        for steps in STEPS:
            name = f"{shape} {steps}"
            where = options, Path(folder, name), *ranks
            found[name] = outcome(HeteroBrain, shape, "abc", *where, **local(steps))
        for base in (sb.Brain, HeteroBrain) if shape not in ALONE else ():
            name = f"{shape} {base.__name__}"
            where = options, Path(folder, name), *ranks
            found[name] = outcome(base, shape, "ab", *where)
    Path(folder, f"{ranks[0]}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

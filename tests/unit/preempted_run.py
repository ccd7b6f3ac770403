"""A small run that sends itself signals; see test_preemption.py.

> python preempted_run.py FOLDER WHEN [SIGNAL …]

WHEN is the moment of the signals, once in each of the two phases: in iteration N
(``train N``), in the validation of epoch N (``valid N``), after the first phase
(``between``), at the first batch in a loader worker (``load``), or ``never``. ``fail N``
raises in iteration N instead, ``sleep N`` sleeps; with ``full`` the disk is full at the
first checkpoint. Of two moments with a comma between them, each phase has its own. A
``pause`` among the signals waits for a second.
"""

import errno
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils.data import Dataset

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.data.audited_loader import AuditedLoader
from hetero_brain.data.loaders import EpochSampler
from hetero_brain.domain_batch import Share
from hetero_brain.pipelines.recipe import run
from hetero_brain.pipelines.recipe_run import recipe_brain
from hetero_brain.training import preemption
from hetero_brain.training.checkpoints import AtomicCheckpointer
from hetero_brain.training.loggers import JsonLinesLogger
from hetero_brain.training.parallel import rank_and_size

STEPS, EPOCHS, DOMAINS = 3, 2, ("en", "fr")
PHASES = ("one", "two")


def when(phase):
    """The moment that the command line requests for a phase."""
    first, _, second = sys.argv[2].partition(",")
    return second if second and phase == PHASES[1] else first


class Batches(Dataset):
    """A rank's share of synthetic global batches, as a function of the iteration."""

    def __init__(self):
        self.rank, self.size = rank_and_size()  # a loader worker cannot ask

    def __getitem__(self, step):
        if when(PHASES[0]) == "load":
            disturb(Path(sys.argv[1]), "load")
        share = Share(DOMAINS)
        for i, domain in enumerate(DOMAINS):
            draw = torch.Generator().manual_seed(10 * step + i)
            if i % self.size == self.rank:
                share.append(DomainBatch(domain, (torch.randn(4, 3, generator=draw),)))
        return share, [], 4 * len(share)


class Toy(HeteroBrain):
    """Learns sums; calls ``disturb`` in every pass."""

    def compute_forward(self, batch, stage):
        at = self.iteration + 1 if stage == sb.Stage.TRAIN else self.epoch
        disturb(self.checkpointer.checkpoints_dir.parent, f"{stage.name.lower()} {at}")
        return self.modules.model(batch)

    def compute_objectives(self, predictions, batch, stage):
        return (predictions.squeeze(1) - batch.sum(1)).square().mean()


def disturb(folder, where):
    """Send the signals that the command line requests here, from the last rank."""
    moment, signals = when(folder.name), sys.argv[3:]
    rank, size = rank_and_size()
    mark = folder / "disturbed"
    if mark.exists() or rank != size - 1:
        return
    if where == moment.replace("fail", "train").replace("sleep", "train"):
        mark.touch()
        if moment.startswith("sleep"):
            time.sleep(300)
        if moment.startswith("fail"):
            raise RuntimeError("as requested")
        for name in signals:
            if name == "pause":
                time.sleep(1)
                continue
            group, number = name.startswith("group:"), name.removeprefix("group:")
            kill = os.killpg if group else os.kill
            kill(os.getpgid(0) if group else os.getpid(), getattr(signal, number))
        if moment == "load":
            time.sleep(1)  # the run waits for this worker
        else:
            while not preemption.requested():  # a thread records the signal
                time.sleep(0.001)


def no_room(mark, *_):
    """A save hook that fails as on a full disk."""
    mark.touch()
    raise OSError(errno.ENOSPC, "No space left on device")


def main(folder):
    """Two phases, one after the other."""
    preemption.listen()
    sb.utils.distributed.ddp_init_group({"distributed_backend": "gloo"})
    for phase in PHASES:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.3))
        model.append(torch.nn.Linear(8, 1))
        counter = EpochCounter(EPOCHS)
        saver = AtomicCheckpointer(
            folder / phase / "save", {"model": model, "counter": counter}
        )
        mark = folder / phase / "disturbed"
        if when(phase) == "full" and not mark.exists():
            saver.custom_save_hooks["model"] = partial(no_room, mark)
        loggers = [JsonLinesLogger(folder / phase / "log.jsonl")]
        brain = recipe_brain(Toy)(
            {"model": model},
            partial(torch.optim.Adam, lr=0.01),
            {"seed": 1, "loggers": loggers, "log_interval": 1},
            {"device": "cpu", "noprogressbar": True, "distributed_backend": "gloo"},
            saver,
        )
        loader = AuditedLoader(
            Batches(),
            sampler=EpochSampler(STEPS),
            num_workers=2 // rank_and_size()[1],
            persistent_workers=True,
        )
        valid = [DomainBatch("en", (torch.ones(2, 3),))]
        brain.fit(counter, loader, torch.utils.data.DataLoader(valid, batch_size=None))
        if phase == PHASES[0]:
            disturb(folder / phase, "between")


if __name__ == "__main__":
    run(lambda argv: main(Path(argv[0])))

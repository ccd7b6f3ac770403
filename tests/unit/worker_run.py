"""A run with loader workers that ends in one of many ways; see test_workers.py.

> python worker_run.py HOW NUM_WORKERS PERSISTENT
"""

import atexit
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import reduction

import torch
from torch.utils.data import Dataset, get_worker_info

from hetero_brain import DomainBatch
from hetero_brain.data.audited_loader import AuditedLoader
from hetero_brain.training import preemption

N_ITEMS = 12


def how():
    """How this run is to end, from the command line, which workers share."""
    return sys.argv[1]


def no_descriptor(number):
    """Raises what sending a tensor raises without a free file descriptor."""
    raise OSError(errno.EMFILE, "Too many open files")


class Items(Dataset):
    """Items of a few tensors; in some of the runs, the fifth raises an error."""

    def __len__(self):
        return N_ITEMS

    def __getitem__(self, index):
        if index == 5:
            if how() == "error in a worker":
                raise FileNotFoundError("the fifth")
            if how() == "a worker is killed" and get_worker_info():
                os.kill(os.getpid(), signal.SIGKILL)
            if how() == "shared memory runs out":
                os.kill(os.getpid(), signal.SIGBUS)
            if how() == "a batch cannot be sent":
                reduction.DupFd = no_descriptor
        return [DomainBatch("en", (torch.full((100_000,), index),))], [], 1


def main(num_workers, persistent):
    """Two passes over the loader, unless the run ends before."""
    atexit.register(lambda: print("at exit:", multiprocessing.active_children()))
    loader = AuditedLoader(
        Items(),
        num_workers=num_workers,
        persistent_workers=persistent,
        prefetch_factor=1 if num_workers else None,
    )
    if how() == "signal":
        preemption.listen()
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    for _ in range(2):
        for n, (part,) in enumerate(loader):
            assert part.batches[0].unique().item() == n
            if n == 3 and how() == "error":
                raise RuntimeError("in the run")
            if n == 3 and how() == "stop":
                sys.exit(3)
    while how() == "signal":
        time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[2]), sys.argv[3] == "True")

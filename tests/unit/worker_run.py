"""A run with loader workers that ends in one of many ways; see test_workers.py.

> python worker_run.py HOW NUM_WORKERS PERSISTENT
"""

import errno
import os
import signal
import sys
import threading
import time
from multiprocessing import reduction

import torch
from torch.utils.data import Dataset, get_worker_info

from hetero_brain import DomainBatch, preemption
from hetero_brain.dataio import AuditedLoader

HOW, NUM_WORKERS, PERSISTENT = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
N_ITEMS = 12


def no_descriptor(number):
    """What sending a tensor meets in a process that has no file descriptor left."""
    raise OSError(errno.EMFILE, "Too many open files")


class Items(Dataset):
    """Items of a few tensors; in one of the workers the fifth is a fault."""

    def __len__(self):
        return N_ITEMS

    def __getitem__(self, index):
        if index == 5:
            if HOW == "error in a worker":
                raise FileNotFoundError("the fifth")
            if HOW == "a worker is killed" and get_worker_info():
                os.kill(os.getpid(), signal.SIGKILL)
            if HOW == "shared memory runs out":
                os.kill(os.getpid(), signal.SIGBUS)
            if HOW == "a batch cannot be sent":
                reduction.DupFd = no_descriptor
        return [DomainBatch("en", (torch.full((100_000,), index),))], [], 1


def main():
    loader = AuditedLoader(
        Items(),
        num_workers=NUM_WORKERS,
        persistent_workers=PERSISTENT,
        prefetch_factor=1 if NUM_WORKERS else None,
    )
    if HOW == "signal":
        preemption.listen()
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    for _ in range(2):
        for n, (part,) in enumerate(loader):
            assert part.batches[0].unique().item() == n
            if n == 3 and HOW == "error":
                raise RuntimeError("in the run")
            if n == 3 and HOW == "stop":
                sys.exit(3)
    while HOW == "signal":
        time.sleep(0.1)


if __name__ == "__main__":
    main()

"""Loader workers end with their run, send what they read, and report their errors."""

import importlib
import logging
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch.utils.data import Dataset

from hetero_brain import DomainBatch
from hetero_brain.data import workers
from hetero_brain.data.audited_loader import AuditedLoader
from hetero_brain.domain_batch import Share
from hetero_brain.training.preemption import REQUEUE
from tests.processes import python

RUN = Path(__file__).parent / "worker_run.py"
MEMORY = "ended with exit code -9: it was killed, most likely because memory ran out"
ENDS = [
    # (how, exit code, what is said, (workers, persistent) …)
    ("success", 0, "", [(0, False), (1, True), (4, False), (4, True)]),
    ("error", 1, "RuntimeError: in the run", [(0, False), (1, False), (4, True)]),
    ("stop", 3, "", [(4, False)]),
    ("signal", REQUEUE, "SIGTERM: leaving", [(0, False), (4, True)]),
    ("error in a worker", 1, "FileNotFoundError: .*the fifth", [(1, True), (4, False)]),
    ("a worker is killed", 1, MEMORY, [(1, True), (4, False)]),
    ("shared memory runs out", 1, "make /dev/shm larger", [(1, False)]),
    ("a batch cannot be sent", 1, "Too many open files.*could not send", [(1, True)]),
]


@pytest.mark.parametrize(
    "how, code, said, num_workers, persistent",
    [(*end[:3], *options) for end in ENDS for options in end[3]],
)
def test_every_exit_ends(how, code, said, num_workers, persistent):
    real = how == "success" and num_workers == 4 and persistent
    words = [sys.executable if real else python(), RUN, how, num_workers, persistent]
    done = subprocess.run(  # until no process holds its output any more
        [*map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr, re.DOTALL), done.stderr
    # The workers end before anything else is done at exit; a signal skips all of that.
    assert done.stdout == ("" if how == "signal" else "at exit: []\n")


class Items(Dataset):
    """Global batches of many domains, each with tensors of several kinds."""

    def __init__(self, n_domains, pause=0.0):
        self.n_domains, self.pause = n_domains, pause

    def __len__(self):
        return 3

    def __getitem__(self, index):
        time.sleep(self.pause)
        parts = Share(f"d{i}" for i in range(self.n_domains))
        for i, domain in enumerate(parts.domains):
            draw = torch.Generator().manual_seed(100 * index + i)
            examples = [
                {"id": f"{n}", "sig": torch.randn(5 + n + i, generator=draw)}
                | {"tokens": torch.arange(n + 1), "wrd": "é"}
                for n in range(2)
            ]
            parts.append(DomainBatch(domain, (PaddedBatch(examples),), i % 2))
        parts[0].batches[0].extra = [
            torch.tensor(3),
            torch.zeros(0),
            torch.ones(2, 3).T,
        ]
        parts[0].batches[0].again = parts[0].batches[0].extra[0]
        return parts, ["a problem"] * (index == 1), 40


def plain(part):
    (batch,) = part.batches
    tensors = [*batch.sig, *batch.tokens, *getattr(batch, "extra", ())]
    of_tensors = [(t.dtype, t.shape, t.tolist()) for t in tensors]
    return part.domain, part.replica, batch.id, batch.wrd, of_tensors


def test_what_workers_need_is_preloaded():
    """The fork server ignores the name of a module that does not exist."""
    importlib.import_module("hetero_brain.pipelines.pretraining")  # as a script does
    names = workers.preloaded()
    needed = {"hetero_brain.data.loaders", "hetero_brain.pipelines.pretraining"}
    assert needed <= {*names}
    for name in names:
        assert name.startswith("hetero_brain") and importlib.import_module(name)


def test_items_arrive_as_they_were():
    here, there = (
        [parts for parts in AuditedLoader(Items(3), 1.0, num_workers=n)] for n in (0, 2)
    )
    assert len(here) == 3
    for one, other in zip(here, there):
        assert type(other) is Share and one.domains == other.domains
        assert [*map(plain, one)] == [*map(plain, other)]
        batch = other[0].batches[0]
        assert batch.again is batch.extra[0]
        other[1].batches[0].sig.data.zero_()  # no memory of another tensor
        assert other[1].batches[0].sig.lengths.max() == 1
    assert plain(there[0][0]) == plain(here[0][0])


def test_file_descriptors_do_not_grow_with_domains():
    def held(n_domains):
        """Descriptors of this process while it holds the items of a pass."""
        loader = AuditedLoader(Items(n_domains), 1.0, num_workers=1)
        before = len(os.listdir("/proc/self/fd"))
        items = [*loader]
        assert [len(parts) for parts in items] == [n_domains] * 3
        return len(os.listdir("/proc/self/fd")) - before

    held(1)  # starts what is started once
    assert held(60) < 10


def test_a_loader_that_gives_nothing_says_so(monkeypatch, caplog):
    monkeypatch.setattr(workers, "QUIET_SECONDS", 0.1)
    with caplog.at_level(logging.WARNING, "hetero_brain.data.workers"):
        list(AuditedLoader(Items(1), 1.0))
        list(AuditedLoader(Items(1, pause=0.25), 1.0))
    said = [r.getMessage() for r in caplog.records if r.name == workers.__name__]
    starts = [f"No batch for {waited} s (num_workers: 0)" for waited in (0.1, 0.2)]
    assert len(said) == 6
    for text, start in zip(said, 3 * starts):
        assert text.startswith(start)


SOCKETS = """
import sys, tempfile
from multiprocessing import connection, util
from hetero_brain.data import workers
make = tempfile.mkdtemp
if "full" in sys.argv:
    def mkdtemp(prefix="", dir=None, **kwargs):
        if str(tempfile.gettempdir()) in ("/tmp", "/var/tmp", "/dev/shm"):
            raise PermissionError(13, "Permission denied")
        return make(prefix=prefix, dir=dir, **kwargs)
    tempfile.mkdtemp = mkdtemp
workers.use_short_socket_paths()
connection.Listener(family="AF_UNIX").close()
print(tempfile.gettempdir())
"""


def sockets(tmpdir, *words):
    return subprocess.run(
        [python(), "-c", SOCKETS, *words],
        env={**os.environ, "TMPDIR": str(tmpdir)},
        capture_output=True,
        text=True,
    )


def test_the_longest_path_of_a_socket_is_that_of_this_system():
    for n_bytes in (workers.SOCKET_PATH_BYTES, workers.SOCKET_PATH_BYTES + 1):
        name = f"/tmp/{os.getpid()}".ljust(n_bytes, "x")
        with socket.socket(socket.AF_UNIX) as listener:
            if n_bytes > workers.SOCKET_PATH_BYTES:
                with pytest.raises(OSError, match="too long"):
                    listener.bind(name)
            else:
                listener.bind(name)
                os.unlink(name)


def test_sockets_have_short_paths_under_a_long_tmpdir(tmp_path):
    long = tmp_path / ("x" * 60) / ("y" * 60)
    long.mkdir(parents=True)
    done = sockets(long)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(long)  # all else stays there
    done = sockets(long, "full")
    assert done.returncode == 1
    assert f"InputError: TMPDIR: the path {long} is too long" in done.stderr

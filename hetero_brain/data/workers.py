"""Processes that read audio for a run: how they start, hand over batches, and end.

A loader's workers must not outlive their run, nor keep it from ending; they must leave
signals to it, and their faults must reach it. What they hand over takes one file
descriptor a batch, however many domains and tensors it has.
"""

import io
import math
import multiprocessing
import multiprocessing.queues
import multiprocessing.util
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker

import torch
from speechbrain.utils.logger import get_logger

from ..errors import InputError
from ..training.preemption import SIGNALS

logger = get_logger(__name__)

QUIET_SECONDS = 120  # without a batch, before a loader says so
SOCKET_PATH_BYTES = 107  # longest path of a UNIX socket on Linux
# Of the folder that multiprocessing makes for its sockets, and of the name of one.
FOLDER_BYTES, NAME_BYTES = len("/pymp-abcdefgh"), len("/listener-abcdefgh")
SERVER_GONE = 255  # exit code of workers whose server has ended, to Python
NOT_SENT = 70  # exit code of a worker that cannot hand over its batch

CAUSES = {  # of a worker's end, by its exit code
    -signal.SIGKILL: "it was killed, most likely because memory ran out: use fewer "
    "num_workers or a smaller global_batch_seconds, or ask for more memory",
    -signal.SIGBUS: "shared memory ran out: make /dev/shm larger (docker run "
    "--shm-size), or use fewer num_workers or a smaller global_batch_seconds",
    SERVER_GONE: "the process that starts workers was killed, too, most likely because "
    "memory ran out",
    NOT_SENT: "it could not hand over a batch; the traceback above says why",
}


class WorkerDied(RuntimeError):
    """A loader worker ended in the midst of a run; the message says which and why."""


# ------------------------------------------------------------------- start and end


def worker_options():
    """How loader workers start and end: what a ``DataLoader`` takes for it.

    They are forked in a server that has neither the run's threads, beside which a fork
    may hang, nor its signals: those that a whole process group or job gets are blocked
    there, and in the workers. They end when the run does, and when it tells them to.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        As :func:`use_short_socket_paths`.
    """
    use_short_socket_paths()
    forkserver.set_forkserver_preload(["hetero_brain.data.loaders"])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # which unblocks some of them
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return {"multiprocessing_context": "forkserver", "worker_init_fn": _begin}


def use_short_socket_paths():
    """Have ``multiprocessing`` keep its sockets in a folder whose path is short enough.

    They are in the folder for temporary files, whose path some batch systems make longer
    than that of a UNIX socket may be.

    Raises
    ------
    InputError
        Neither ``TMPDIR`` nor any of the usual folders will do.
    """
    usual, longest = tempfile.gettempdir(), SOCKET_PATH_BYTES - NAME_BYTES
    for folder in (usual, "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.fsencode(folder)) + FOLDER_BYTES > longest:
            continue
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            made = multiprocessing.util.get_temp_dir()  # once, and remembered there
        except OSError:
            continue
        finally:
            tempfile.tempdir = before
        if len(os.fsencode(made)) <= longest:
            return
    raise InputError(
        f"TMPDIR: the path {usual} is too long for the sockets of loader workers; set "
        f"TMPDIR to a folder whose path has at most {longest - FOLDER_BYTES} bytes"
    )


def _begin(worker_id):
    """In a worker, as it starts."""
    run = multiprocessing.parent_process()

    def end_when_told():
        # Python ends workers by SIGTERM, which it sends itself and which is blocked
        # here; from anybody else it is meant for the run.
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run.pid:
            pass
        os._exit(0)

    def end_with_the_run():
        # torch's workers watch their server instead, which lives as long as they do.
        run.join()
        os._exit(0)

    for end in (end_when_told, end_with_the_run):
        threading.Thread(target=end, daemon=True).start()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_not_sent)


def _not_sent(error, item):
    """In a worker whose batch cannot be sent: Python would print why, and the run would
    wait for it for ever."""
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(NOT_SENT)


# ------------------------------------------------------------------------ hand over


@dataclass
class Packed:
    """An item of a data set with all of its tensors in one piece of shared memory.

    Attributes
    ----------
    skeleton : bytes
        The item, pickled without its tensors.
    layout : list of tuple
        Offset in bytes, dtype and shape of each.
    memory : torch.Tensor
        (bytes,) of uint8.
    """

    skeleton: bytes
    layout: list
    memory: torch.Tensor

    def pin_memory(self):
        """The same in pinned memory; what a ``DataLoader`` asks for."""
        return Packed(self.skeleton, self.layout, self.memory.pin_memory())

    def unpack(self):
        """The item; its tensors share the memory."""
        tensors = [
            self.memory[at : at + math.prod(shape) * dtype.itemsize]
            .view(dtype)
            .view(shape)
            for at, dtype, shape in self.layout
        ]
        return _Unpickler(io.BytesIO(self.skeleton), tensors).load()


def pack(item):
    """In a worker, an item as :class:`Packed`; elsewhere the item itself.

    Every tensor that is handed over by itself takes a file descriptor in both processes,
    so that a few hundred domains would use up the usual 1024.
    """
    if torch.utils.data.get_worker_info() is None:
        return item
    skeleton, tensors = io.BytesIO(), []
    _Pickler(skeleton, tensors).dump(item)
    layout, end = [], 0
    for tensor in tensors:
        layout.append((end, tensor.dtype, tuple(tensor.shape)))
        end += -(-tensor.nbytes // 64) * 64
    # Shared here, where a fault reaches the run, and not as it is sent.
    memory = torch.empty(max(1, end), dtype=torch.uint8).share_memory_()
    packed = Packed(skeleton.getvalue(), layout, memory)
    for (at, dtype, shape), tensor in zip(layout, tensors):
        memory[at : at + tensor.nbytes].view(dtype).view(shape).copy_(tensor)
    return packed


class _Pickler(pickle.Pickler):
    """Writes all but tensors, which it appends to a list."""

    def __init__(self, file, tensors):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors, self.places = tensors, {}

    def persistent_id(self, thing):
        if type(thing) is not torch.Tensor or thing.layout != torch.strided:
            return None
        if id(thing) not in self.places:
            self.places[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
        return self.places[id(thing)]


class _Unpickler(pickle.Unpickler):
    """Reads what :class:`_Pickler` wrote."""

    def __init__(self, file, tensors):
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, place):
        return self.tensors[place]


# ------------------------------------------------------------------------ what happens


def blame_dead_workers(iterator, fault):
    """Raise :class:`WorkerDied` if that is why a ``DataLoader`` has raised a fault.

    Arguments
    ---------
    iterator : iterator
        The loader's, or None.
    fault : Exception
        What was raised.

    Raises
    ------
    WorkerDied
        At least one worker has ended.
    """
    workers = getattr(iterator, "_workers", ())
    if isinstance(fault, (EOFError, OSError)):  # of a connection to one that just died
        time.sleep(1)
    ended = {i: worker.exitcode for i, worker in enumerate(workers) if worker.exitcode}
    if ended:
        lines = [
            f"loader worker {i} of {len(workers)} (process {workers[i].pid}) ended with "
            f"exit code {code}: {CAUSES.get(code, 'the output above may say why')}"
            for i, code in ended.items()
        ]
        raise WorkerDied("\n".join(lines)) from fault


@contextmanager
def overdue(num_workers):
    """Warn while the block takes longer than :data:`QUIET_SECONDS`, again and again."""
    done = threading.Event()

    def watch():
        waited = 0
        while not done.wait(QUIET_SECONDS):
            waited += QUIET_SECONDS
            logger.warning(
                f"No batch for {waited} s (num_workers: {num_workers}): the storage of "
                "the audio is slow or does not answer, or batches are very long."
            )

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()

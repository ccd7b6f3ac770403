"""Loader workers: how the processes that read audio start and end, and what they report.

The workers of a loader must not outlive their run, nor keep it from ending. They leave
signals to the run, and their errors must reach it.
"""

import atexit
import multiprocessing
import multiprocessing.queues
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, resource_tracker

from speechbrain.utils.logger import get_logger

from ..errors import InputError
from ..training.preemption import SIGNALS

logger = get_logger(__name__)

QUIET_SECONDS = 120  # without a batch, after which a loader warns
SOCKET_PATH_BYTES = 107  # the longest path of a UNIX socket on Linux
# Bytes that multiprocessing appends: its folder for sockets, and the name of a socket.
FOLDER_BYTES, NAME_BYTES = len("/pymp-abcdefgh"), len("/listener-abcdefgh")
SERVER_GONE = 255  # exit code that Python gives to workers whose fork server has ended
NOT_SENT = 70  # exit code of a worker that cannot send its batch

with_workers = weakref.WeakSet()  # iterators of loaders whose workers may be alive

CAUSES = {  # why a worker ended, by its exit code
    -signal.SIGKILL: "it was killed, most likely because memory ran out: use fewer "
    "num_workers or a smaller global_batch_seconds, or ask for more memory",
    -signal.SIGBUS: "shared memory ran out: make /dev/shm larger (docker run "
    "--shm-size), or use fewer num_workers or a smaller global_batch_seconds",
    SERVER_GONE: "the process that starts workers was killed, too, most likely because "
    "memory ran out",
    NOT_SENT: "it could not send a batch; the traceback above says why",
}


class WorkerDied(RuntimeError):
    """A loader worker ended during a run; the message says which one, and why."""


# ------------------------------------------------------------------- start and end


def worker_options(start_method="forkserver", worker_init_fn=None):
    """Options of a ``DataLoader`` that determine how its workers start and end.

    By default, workers are forked from a server process. It has none of the threads of
    the run, since a fork of a process with threads may hang. Signals that a whole process
    group or job receives are blocked in the server and in the workers, as only the run
    responds to them. Workers end when the run ends, or when it asks them to.

    Arguments
    ---------
    start_method : str
        ``forkserver``, or one of ``multiprocessing``'s other start methods: ``fork`` for
        a dataset that cannot be pickled.
    worker_init_fn : callable, optional
        As for ``DataLoader``.

    Returns
    -------
    dict
        Keyword arguments of ``DataLoader``.

    Raises
    ------
    InputError
        As for :func:`use_short_socket_paths`.
    """
    options = {
        "multiprocessing_context": start_method,
        "worker_init_fn": partial(_begin, then=worker_init_fn),
    }
    use_short_socket_paths()
    if start_method != "forkserver":
        return options
    forkserver.set_forkserver_preload(preloaded())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # This unblocks some of the signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return options


def preloaded():
    """Modules that the fork server imports once, rather than each worker: those of this
    package that the run has imported, since a worker imports the script of the run again,
    and so all that this imports. That takes seconds, in every epoch."""
    package = __name__.partition(".")[0]
    imported = [name for name in sys.modules if name.partition(".")[0] == package]
    return ["hetero_brain.data.loaders", *imported]


def use_short_socket_paths():
    """Make ``multiprocessing`` keep its sockets in a folder with a short path.

    By default they are in the folder for temporary files. On some batch systems its path
    is longer than the path of a UNIX socket may be.

    Raises
    ------
    InputError
        If neither ``TMPDIR`` nor any of the usual folders can be used.
    """
    usual, longest = tempfile.gettempdir(), SOCKET_PATH_BYTES - NAME_BYTES
    for folder in (usual, "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.fsencode(folder)) + FOLDER_BYTES > longest:
            continue
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            # multiprocessing makes its folder at the first call and then keeps it.
            made = multiprocessing.util.get_temp_dir()
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


def _begin(worker_id, then=None):
    """Runs in a worker as it starts: arranges how it ends, and calls ``then``."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # without a server, not done yet
    run = multiprocessing.parent_process()

    def end_on_request():
        # The run ends its workers by SIGTERM, which is blocked here. A SIGTERM from any
        # other process is meant for the run.
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run.pid:
            pass
        os._exit(0)

    def end_with_the_run():
        # PyTorch's own check watches the parent of the worker. Here that is the server,
        # which lives as long as its workers.
        run.join()
        os._exit(0)

    for end in (end_on_request, end_with_the_run):
        threading.Thread(target=end, daemon=True).start()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_not_sent)
    if then is not None:
        then(worker_id)


def end_at_exit(iterator):
    """Have the workers of a loader end as the first of all that the run does at its exit.

    If the garbage collector found the iterator first, the run would wait for five seconds
    for each worker: the threads that ask them to end would be gone already.
    """
    with_workers.add(iterator)
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)  # as the last, which is called first


def _end_workers():
    for iterator in tuple(with_workers):
        iterator._shutdown_workers()


def _end_not_sent(error, item):
    """Runs in a worker whose batch cannot be sent: print the reason and end the worker.

    Python itself would only print the reason, and the run would wait for the batch
    forever.
    """
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(NOT_SENT)


# -------------------------------------------------------------- report what is wrong


def blame_dead_workers(iterator, error):
    """Raise :class:`WorkerDied` if dead workers are why a ``DataLoader`` raised an error.

    Arguments
    ---------
    iterator : iterator or None
        The iterator of the loader.
    error : Exception
        What it raised.

    Raises
    ------
    WorkerDied
        If at least one worker has ended with an exit code other than 0.
    """
    workers = getattr(iterator, "_workers", ())
    if isinstance(error, (EOFError, OSError)):
        # The connection to a worker broke; its exit code may not be known yet.
        time.sleep(1)
    ended = {i: worker.exitcode for i, worker in enumerate(workers) if worker.exitcode}
    if ended:
        lines = [
            f"loader worker {i} of {len(workers)} (process {workers[i].pid}) ended with "
            f"exit code {code}: {CAUSES.get(code, 'the output above may say why')}"
            for i, code in ended.items()
        ]
        raise WorkerDied("\n".join(lines)) from error


@contextmanager
def overdue(num_workers):
    """Warn every :data:`QUIET_SECONDS` until the block has ended."""
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

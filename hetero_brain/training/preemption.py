"""Preemption: saving and exiting on a signal.

SIGTERM, SIGINT and SIGUSR1 ask a run to exit. While it trains, it finishes the iteration
and saves first, on all ranks even if only one received the signal; at any other moment
there is nothing to save, and it exits at once. Either way its exit code is
:data:`REQUEUE`: the same command continues the run.

The run prints at once what it still has to do. A second SIGINT (Ctrl-C) or SIGTERM makes
it exit without saving. SIGUSR1 never counts as a second request: launchers repeat it
until the run listens, and SLURM's SIGTERM may follow it while the run saves.
"""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

REQUEUE = 75  # EX_TEMPFAIL in sysexits.h; not used by Python, bash, torchrun or SLURM
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# torchrun hides the exit codes of ranks. If this environment variable names a file, ranks
# create it to say that they have saved and are to be requeued; see templates/torchrun.py.
MARKER = "HETERO_BRAIN_REQUEUE_FILE"


class Leaving(SystemExit):
    """Exit of a run that a signal asked to leave; ``saved`` as in :func:`leave`."""

    def __init__(self, saved):
        super().__init__(REQUEUE)
        self.saved = saved


# A second SIGINT or SIGTERM within this many seconds is the same request: a terminal
# sends Ctrl-C to the run and also to its launcher, which passes it on.
SAME_REQUEST_SECONDS = 0.5

_received = []  # (signal, time in seconds), oldest first
_deferred = []  # the arguments of open ``deferred`` blocks, innermost last
_watcher = None


def listen():
    """Handle :data:`SIGNALS` from now on; to be called when a program starts."""
    global _watcher
    if threading.current_thread() is not threading.main_thread():
        return
    if _watcher is None:
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        _watcher = threading.Thread(target=_watch, args=(reader, writer), daemon=True)
        _watcher.start()
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_reset)
    for number in SIGNALS:
        signal.signal(number, _handler)


def _handler(number, frame):
    """Does nothing; Python calls it between two bytecodes of the main thread.

    That thread may be waiting for another rank, or be inside a finalizer where exceptions
    are swallowed. Python also writes the signal's number to the watcher's socket.
    """


def _watch(reader, writer):
    """Thread that records signals, prints their effect, and exits if nothing defers it.

    ``writer`` is an argument only so that the socket stays open.
    """
    while received := reader.recv(1):
        number = received[0]
        if signal.getsignal(number) is not _handler:
            continue
        first = number not in dict(_received)
        _received.append((number, time.monotonic()))
        blocks = tuple(_deferred)  # a copy: the main thread may leave a block meanwhile
        if not blocks:
            _print_exit("leaving")
            os._exit(REQUEUE)
        describe, abandon = blocks[-1]
        if _requested_twice():
            _print_exit("leaving without saving")
            abandon()
            os._exit(REQUEUE)
        if first:
            again = "" if number == signal.SIGUSR1 else "; once more to leave now"
            name = signal.Signals(number).name
            print(f"\n{name}: {describe()}{again}", file=sys.stderr, flush=True)


def _requested_twice():
    """Whether SIGINT or SIGTERM came twice."""
    times = [at for number, at in _received if number != signal.SIGUSR1]
    return bool(times) and times[-1] - times[0] > SAME_REQUEST_SECONDS


def _reset():
    """Restore default handlers in a forked child: its signals are not for the parent."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _handler:
            signal.signal(number, signal.SIG_DFL)


def _print_exit(what):
    names = dict.fromkeys(signal.Signals(number).name for number, _ in _received)
    told = f"{', '.join(names)}: {what}, code {REQUEUE}; the same command goes on"
    print(told, file=sys.stderr, flush=True)


def requested():
    """Whether this process was asked to leave; other ranks may not have been."""
    return bool(_received)


@contextmanager
def deferred(describe, abandon=lambda: None):
    """Within this block signals are only recorded, for :func:`requested`.

    Installs handlers for the block where :func:`listen` has not. If an exit was requested
    and the block has not called :func:`leave`, its end does.

    Arguments
    ---------
    describe : callable
        Returns what is still done before the exit, in words; printed on a signal.
    abandon : callable
        Called from another thread before an exit that does not wait for the block.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _deferred.append((describe, abandon))
    try:
        listen()
        yield
    finally:
        _deferred.pop()
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not _handler:
                    signal.signal(number, handler)
    if requested() and not _deferred:
        leave()


def leave(saved=False):
    """Exit with code :data:`REQUEUE`, ignoring further signals.

    Arguments
    ---------
    saved : bool
        All ranks have agreed to leave, and the run is saved. A rank that leaves alone may
        do so because torchrun terminates it after another rank failed, which is no reason
        to requeue.

    Raises
    ------
    Leaving
    """
    if saved and MARKER in os.environ:
        Path(os.environ[MARKER]).touch()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _print_exit("saved, leaving" if saved else "leaving")
    _received.clear()
    raise Leaving(saved)

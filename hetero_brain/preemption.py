"""Leaving before the machine is taken away.

SIGTERM, SIGINT and SIGUSR1 ask a run to leave. While it trains it finishes the iteration
and saves first, on all ranks although only one was told; at any other moment there is
nothing to save, and it leaves at once. Either way its exit code is :data:`REQUEUE`: start
the same command again and it goes on where it was.
"""

import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

REQUEUE = 75  # EX_TEMPFAIL in sysexits.h; not used by Python, bash, torchrun or SLURM
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Where torchrun hides the exit codes of ranks, a file of this name in the environment
# says that they saved and want to go on; see templates/torchrun.py.
MARKER = "HETERO_BRAIN_REQUEUE_FILE"


class Leaving(SystemExit):
    """A run that was asked to leave does; ``saved`` as in :func:`leave`."""

    def __init__(self, saved):
        super().__init__(REQUEUE)
        self.saved = saved


_received = []  # signals, in their order
_deferring = 0  # depth
_watcher = None


def listen():
    """Leave when one of :data:`SIGNALS` comes; what a program calls as it starts."""
    global _watcher
    if threading.current_thread() is not threading.main_thread():
        return
    if _watcher is None:
        ours, pythons = socket.socketpair()
        pythons.setblocking(False)
        _watcher = threading.Thread(target=_watch, args=(ours, pythons), daemon=True)
        _watcher.start()
        signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_reset)
    for number in SIGNALS:
        signal.signal(number, _noted)


def _noted(number, frame):
    """What Python calls for a signal, between two lines of the main thread.

    Nothing is done here: that thread may wait for another rank, or tidy up where
    exceptions are swallowed. Python also writes the number to the watcher's socket.
    """


def _watch(ours, pythons):
    """In a thread: note signals, and leave if there is nothing to finish."""
    while received := ours.recv(1):
        if signal.getsignal(received[0]) is _noted:
            _received.append(received[0])
            if not _deferring:
                _tell("leaving")
                os._exit(REQUEUE)


def _reset():
    """In a process that was forked, signals are not for its parent."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _noted:
            signal.signal(number, signal.SIG_DFL)


def _tell(what):
    names = dict.fromkeys(signal.Signals(number).name for number in _received)
    print(f"{', '.join(names)}: {what}, code {REQUEUE}", file=sys.stderr, flush=True)


def requested():
    """Whether this process was asked to leave; other ranks may not have been."""
    return bool(_received)


@contextmanager
def deferred():
    """Within this block signals are only noted, for :func:`requested`.

    Handlers that :func:`listen` did not set are set for the block. Whoever was asked to
    leave and has not when the block ends leaves there.
    """
    global _deferring
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _deferring += 1
    try:
        listen()
        yield
    finally:
        _deferring -= 1
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not _noted:
                    signal.signal(number, handler)
    if requested() and not _deferring:
        leave()


def leave(saved=False):
    """End this process with :data:`REQUEUE`, further signals notwithstanding.

    Arguments
    ---------
    saved : bool
        All ranks have agreed to leave, and what they did is saved. One that leaves alone
        may do so because torchrun ends it after another failed, which is no reason to
        start again.

    Raises
    ------
    Leaving
    """
    if saved and MARKER in os.environ:
        Path(os.environ[MARKER]).touch()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _tell("saved, leaving" if saved else "leaving")
    _received.clear()
    raise Leaving(saved)

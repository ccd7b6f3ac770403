"""Leaving before the machine is taken away.

SIGTERM, SIGINT and SIGUSR1 ask a run to leave. While it trains it finishes the iteration
and saves first, on all ranks although only one was told; at any other moment there is
nothing to save, and it leaves at once. Either way its exit code is :data:`REQUEUE`: start
the same command again and it goes on where it was.

Who asked is told at once what the run still does, and may ask again by SIGINT (Ctrl-C) or
SIGTERM: it then leaves without saving. SIGUSR1 never insists: launchers send it again and
again until a run listens, and SLURM's SIGTERM may follow it while the run saves.
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
# Where torchrun hides the exit codes of ranks, a file of this name in the environment
# says that they saved and want to go on; see templates/torchrun.py.
MARKER = "HETERO_BRAIN_REQUEUE_FILE"


class Leaving(SystemExit):
    """A run that was asked to leave does; ``saved`` as in :func:`leave`."""

    def __init__(self, saved):
        super().__init__(REQUEUE)
        self.saved = saved


# Seconds within which a second SIGINT or SIGTERM is the same wish: a terminal sends
# Ctrl-C to the run and to its launcher, which passes it on.
SAME_WISH = 0.5

_received = []  # (signal, time in seconds), in their order
_deferring = []  # what is done before leaving, innermost block last
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
    """In a thread: note signals, say what they lead to, and leave if it is at once."""
    while received := ours.recv(1):
        number = received[0]
        if signal.getsignal(number) is not _noted:
            continue
        first = number not in dict(_received)
        _received.append((number, time.monotonic()))
        blocks = tuple(_deferring)  # which the main thread may leave meanwhile
        if not blocks:
            _tell("leaving")
            os._exit(REQUEUE)
        doing, abandon = blocks[-1]
        if _insisted():
            _tell("leaving without saving")
            abandon()
            os._exit(REQUEUE)
        if first:
            again = "" if number == signal.SIGUSR1 else "; once more to leave now"
            name = signal.Signals(number).name
            print(f"\n{name}: {doing()}{again}", file=sys.stderr, flush=True)


def _insisted():
    """Whether SIGINT or SIGTERM came twice."""
    times = [at for number, at in _received if number != signal.SIGUSR1]
    return bool(times) and times[-1] - times[0] > SAME_WISH


def _reset():
    """In a process that was forked, signals are not for its parent."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _noted:
            signal.signal(number, signal.SIG_DFL)


def _tell(what):
    names = dict.fromkeys(signal.Signals(number).name for number, _ in _received)
    print(f"{', '.join(names)}: {what}, code {REQUEUE}", file=sys.stderr, flush=True)


def requested():
    """Whether this process was asked to leave; other ranks may not have been."""
    return bool(_received)


@contextmanager
def deferred(doing, abandon=lambda: None):
    """Within this block signals are only noted, for :func:`requested`.

    Handlers that :func:`listen` did not set are set for the block. Whoever was asked to
    leave and has not when the block ends leaves there.

    Arguments
    ---------
    doing : callable
        What is done before leaving, in words, for whoever asks.
    abandon : callable
        Called before leaving without it, by another thread.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _deferring.append((doing, abandon))
    try:
        listen()
        yield
    finally:
        _deferring.pop()
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

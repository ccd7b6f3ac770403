#!/usr/bin/env python3
"""torchrun that passes on what it swallows: signals to the ranks, and their exit code.

> python templates/torchrun.py --standalone --nproc-per-node 2 recipes/…/train.py …

SIGUSR1 ends torchrun itself, SIGTERM kills ranks that need more than 30 s to save, and
whatever ranks exit with, torchrun exits with 1. Here all three signals that ask a run to
leave (SIGTERM, SIGINT, SIGUSR1) reach the ranks of this node as SIGUSR1, again every
second until they have left, as one that is still starting does not listen yet; and the
exit code is 75 if they did so to go on later, also with --max-restarts, which is for
ranks that fail. A second SIGTERM or SIGINT kills them without saving. Ranks that are
started again meet in a store of their own: that of torchrun still has the addresses of
those that failed (pytorch/pytorch#135712), so that some hang. Needs nothing but Python.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REQUEUE = 75  # as in hetero_brain.training.preemption, and the name of the file there
MARKER = "HETERO_BRAIN_REQUEUE_FILE"
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
SAME_WISH = 0.5  # seconds
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def children(parent):
    """Process ids of the children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name, which may hold anything) state parent …
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def send(process, number):
    """Send a signal to a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def main(argv):
    """Run torchrun with these arguments; return the exit code."""
    asked = []  # when; None for SIGUSR1, which does not insist

    def ask(number, frame):
        asked.append(None if number == signal.SIGUSR1 else time.monotonic())

    for number in SIGNALS:
        signal.signal(number, ask)
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "requeue"
        agent = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *argv],
            env={**os.environ, MARKER: str(marker), OWN_STORE: "1"},
            start_new_session=True,  # Ctrl-C reaches this process alone
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        )
        told, stopped = {}, False  # ranks that were, and when
        while agent.poll() is None:
            ranks = children(agent.pid) if asked else ()
            for rank in ranks:
                if time.monotonic() - told.get(rank, 0.0) > 1:
                    told[rank] = time.monotonic()
                    send(rank, signal.SIGUSR1)
            times = [at for at in asked if at is not None]
            if times and times[-1] - times[0] > SAME_WISH:
                for process in (*ranks, agent.pid):
                    send(process, signal.SIGKILL)
                break
            left = marker.exists() or told.keys() - set(ranks) or (asked and not ranks)
            if left and not stopped:
                stopped = True  # torchrun would start them anew, or wait for nodes
                agent.terminate()
            time.sleep(0.1)
        agent.wait()
        saved = marker.exists()
    code = agent.returncode if agent.returncode >= 0 else 128 - agent.returncode
    return REQUEUE if code and (asked or saved) else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""A wrapper of torchrun that forwards signals to the ranks and returns their exit code.

> python templates/torchrun.py --standalone --nproc-per-node 2 recipes/…/train.py …

torchrun alone dies of SIGUSR1, kills ranks that need more than 30 s to save after
SIGTERM, and exits with 1 whatever the exit codes of its ranks. With this wrapper, all
three signals that ask a run to exit (SIGTERM, SIGINT, SIGUSR1) reach the ranks of this
node as SIGUSR1, repeated every second until they have exited, because a rank that is
still starting does not listen yet. The exit code is 75 if the run is to be requeued, also
with --max-restarts, which only restarts ranks that fail. A second SIGTERM or SIGINT kills
the ranks without saving. If ranks refuse to run, the reason of the first is said last,
and once, in place of torchrun's traceback. Restarted ranks use a new store: torchrun's
own still holds the addresses of the failed ranks, on which some hang
(pytorch/pytorch#135712).
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The first four as in hetero_brain.errors and .training.preemption, which this must not
# import.
REASONS = "HETERO_BRAIN_REASON_FILES"
REQUEUE = 75
MARKER = "HETERO_BRAIN_REQUEUE_FILE"
SAME_REQUEST_SECONDS = 0.5
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
AGENT = f"""
import glob, os, sys
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main()
except ChildFailedError:
    if not glob.glob(glob.escape(os.environ["{REASONS}"]) + ".*"):
        raise
    sys.exit(1)
"""  # torchrun, which says what has become of the ranks unless they have said it
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def children(parent):
    """Process ids of the children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name, in which any character may occur) state parent …
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def send(process, number):
    """Send a signal to a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def main(argv):
    """Run torchrun with some arguments; return the exit code."""
    received = []  # times of signals; None for SIGUSR1, never a second request

    def record(number, frame):
        received.append(None if number == signal.SIGUSR1 else time.monotonic())

    for number in SIGNALS:
        signal.signal(number, record)
    with tempfile.TemporaryDirectory() as folder:
        marker, reasons = Path(folder) / "requeue", Path(folder) / "reason"
        agent = subprocess.Popen(
            [sys.executable, "-c", AGENT, *argv],
            env={
                **os.environ,
                MARKER: str(marker),
                REASONS: str(reasons),
                OWN_STORE: "1",
            },
            start_new_session=True,  # Ctrl-C reaches this process alone
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        )
        signalled, stopped = {}, False  # rank → when it was last signalled
        while agent.poll() is None:
            ranks = children(agent.pid) if received else ()
            for rank in ranks:
                if time.monotonic() - signalled.get(rank, 0.0) > 1:
                    signalled[rank] = time.monotonic()
                    send(rank, signal.SIGUSR1)
            times = [at for at in received if at is not None]
            if times and times[-1] - times[0] > SAME_REQUEST_SECONDS:
                for process in (*ranks, agent.pid):
                    send(process, signal.SIGKILL)
                break
            exited = signalled.keys() - set(ranks) or (received and not ranks)
            if (marker.exists() or exited) and not stopped:
                stopped = (
                    True  # or torchrun would restart them, or wait for other nodes
                )
                agent.terminate()
            time.sleep(0.1)
        agent.wait()
        saved = marker.exists()
        if agent.returncode and not saved:
            for reason in sorted(Path(folder).glob("reason.*"))[:1]:
                print(reason.read_text("utf-8"), file=sys.stderr, flush=True)
    code = agent.returncode if agent.returncode >= 0 else 128 - agent.returncode
    return REQUEUE if code and (received or saved) else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

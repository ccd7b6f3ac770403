"""What the commands of an experiment are doing, in a line."""

import json
import sys
import time
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress

from ..models.run_folder import RUN_MODEL
from .learnt import chance

TERMINAL_SECONDS, LOG_SECONDS = 1, 30  # between two lines


def watch(futures, before, total):
    """Wait for commands, and show where they are until all are done.

    In a terminal the line is renewed; elsewhere a new one is printed now and then, if
    anything has changed.

    Arguments
    ---------
    futures : dict
        Future → folders that its command logs to: of a run, or of phases in their order.
    before, total : int
        Steps of the experiment that are done already, and how many there are.

    Raises
    ------
    Exception
        Of the first command that fails.
    """
    begun, pending, shown, width = time.monotonic(), {*futures}, None, 0
    in_terminal = sys.stdout.isatty()
    while pending:
        seconds = TERMINAL_SECONDS if in_terminal else LOG_SECONDS
        done, pending = wait(pending, seconds, FIRST_COMPLETED)
        for future in done:
            future.result()
        finished = before + len(futures) - len(pending)
        running = [futures[f] for f in futures if f in pending and f.running()]
        parts = [f"{finished} of {total} steps done", *map(status, running)]
        line = "; ".join(parts)
        if in_terminal:
            minutes, rest = divmod(round(time.monotonic() - begun), 60)
            line += f" [{minutes}:{rest:02d}]"
            print(f"\r{line:{width}}", end="", flush=True)
            width = len(line)
        elif line != shown:
            print(line, flush=True)
        shown = line
    if in_terminal:
        print()


def status(folders):
    """Where a command is, from the newest log in the folders that it logs to.

    Returns
    -------
    str
        Such as ``pretrain/1/CSSL.1, epoch 3 of 6, loss 4.1 (guessing: 4.16), done in
        about 1:40``; ``pretrain/1/CSSL.1 begins`` before the first entry.
    """
    logs = [log for folder in folders if (log := folder / "log.jsonl").exists()]
    log = max(logs, key=lambda path: path.stat().st_mtime, default=None)
    run = log.parent if log else folders[0]
    name, path = "/".join(run.parts[-3:]), run / RUN_MODEL
    found = list(entries(log)) if log and path.exists() else []
    epoch, loss = last_loss(found)
    if epoch is None:
        return f"{name} begins"
    record = json.loads(path.read_text("utf-8"))
    epochs, guess = record["epochs"], chance(record)
    compared = f" (guessing: {guess:.3g})" if guess else ""
    begun, written = (file.stat().st_mtime for file in (path, log))
    left = time_left(found, epochs, written - begun, time.time() - written)
    return f"{name}, epoch {epoch} of {epochs}, loss {loss:.3g}{compared}{left}"


def entries(log):
    """The entries of a log, newest first, but for one that is being written."""
    for line in reversed(log.read_text("utf-8").splitlines()):
        with suppress(ValueError):  # half written
            yield json.loads(line)


def last_loss(found):
    """Epoch and loss of the newest entry that has a loss; None, None if none has."""
    for entry in found:
        figures = entry.get("train", {}).items()
        losses = [v for k, v in figures if k.split("/")[0] in ("loss", "loss_at_phi")]
        if losses:
            return entry["epoch"], sum(losses) / len(losses)
    return None, None


def time_left(found, epochs, seconds, ago):
    """The time that a run still needs, in words; empty in the first epoch, as only the
    end of an epoch shows how many iterations it has.

    Arguments
    ---------
    found : list of dict
        Its entries, newest first.
    epochs : int
        How many it has.
    seconds, ago : float
        From its beginning to the newest entry, and from then to now.
    """
    newest = found[0]
    for entry in found:
        if entry["epoch"] < newest["epoch"]:  # the last of its epoch
            total = epochs * entry["iteration"] / entry["epoch"]
            left = seconds * (total / newest["iteration"] - 1) - ago
            minutes, seconds = divmod(max(0, round(left)), 60)
            return f", done in about {minutes}:{seconds:02d}"
    return ""

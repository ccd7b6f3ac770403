"""Right: a rank under torchrun that SIGTERM stops, and that resumes as if it had not."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from hetero_brain.training.loggers import JsonLinesLogger
from hetero_brain.training.preemption import REQUEUE

from .verdicts import Finding, at_most, equal, judged

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/VoicePrompts"
LAUNCHER = ROOT / "templates/torchrun.py"  # torchrun, and the exit code of its ranks
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    "NCCL_DEBUG": "VERSION",  # has NCCL say that it is used
}
PHASE = "CSSL.1"
PATIENCE = 120  # seconds for a run
CPU_EPOCHS, GPU_EPOCHS = 4, 6  # long enough not to end before the signal arrives


def run(device, quick):
    """Compare a stopped and resumed run with one that is not stopped.

    Arguments
    ---------
    device : str
        ``cpu``, where the rank communicates by gloo; any other: by NCCL.
    quick : bool
        Not used: there is one size only.

    Yields
    ------
    Table
    """
    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if device == "cpu" else "NCCL"
        yield judged(
            f"One rank of {backend} under torchrun, stopped by SIGTERM and resumed",
            [("VoicePrompts", stopped_and_resumed(device, Path(folder)))],
        )


def stopped_and_resumed(device, folder):
    """Findings about three runs; the first two run at the same time."""
    whole, stopped = folder / "whole", folder / "stopped"
    with rank(device, whole) as undisturbed, rank(device, stopped) as process:
        while not entries(stopped):
            if process.poll() is not None:
                raise ChildProcessError(output(stopped))
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
        yield equal("exit code after SIGTERM", REQUEUE, code)
        left_at = entries(stopped)[-1]["iteration"]
        with rank(device, stopped) as process:
            code = process.wait(PATIENCE)
        undisturbed.wait(PATIENCE)
    yield equal("exit code of the resumed run", 0, code)
    if undisturbed.returncode or code:
        raise ChildProcessError(output(whole) + output(stopped))
    if device != "cpu":
        version = re.search("NCCL version [0-9.]+", output(whole))
        shown = version[0] if version else "NCCL was not started"
        yield Finding("communication", "NCCL", shown, version is not None)
    logs = entries(whole), entries(stopped)
    last, last_resumed = (log[-1]["iteration"] for log in logs)
    text = f"{left_at} and then {last_resumed}, of {last}"
    resumed = 0 < left_at < last == last_resumed
    yield Finding("iterations before and after", "all, in two parts", text, resumed)
    final, final_resumed = (log[-1]["valid"]["loss"] for log in logs)
    error = abs(final_resumed - final) / final
    # On a GPU, sums in another order; on a CPU the bits are the same.
    yield at_most("final loss, relative error", error, 0 if device == "cpu" else 1e-2)
    yield equal("entries in the log", *map(len, logs))


@contextmanager
def rank(device, folder):
    """A run of the recipe on one rank, into a folder; asked to stop on exit.

    Its output is in a file beside the folder.
    """
    epochs = CPU_EPOCHS if device == "cpu" else GPU_EPOCHS
    options = (
        "--n_mels 20 --labels random_projection --codebook_size 16 --log_interval 1 "
        "--max_utterance_seconds 1 "
        f"--global_batch_seconds 12 --cssl_epochs {epochs} --valid_interval {epochs} "
        f"--only_phases [{PHASE}] --noprogressbar"
    ).split()
    options += ["--device", "cpu", "--size", "mini"] if device == "cpu" else []
    words = [LAUNCHER, "--standalone", "--nproc-per-node", 1]
    words += [RECIPE / "pretrain/train.py", RECIPE / "pretrain/hparams/bestrq.yaml"]
    words += ["--data_folder", RECIPE / "sample", "--output_folder", folder, *options]
    with open(folder.with_suffix(".txt"), "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**os.environ, **ENVIRONMENT},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()  # does nothing if it has ended
        process.wait(PATIENCE)


def output(folder):
    """The end of what the runs into a folder have printed."""
    return folder.with_suffix(".txt").read_text("utf-8")[-4000:]


def entries(folder):
    """What a run has logged so far."""
    log = folder / PHASE / "log.jsonl"
    return JsonLinesLogger.read(log) if log.exists() else []

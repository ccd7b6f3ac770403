"""Measuring time and peak memory, and tables of the results."""

import gc
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from functools import partial

import torch

from hetero_brain.training.devices import cpu_multiplies_in_bf16


@dataclass
class Table:
    """Results of one section of the benchmarks.

    Attributes
    ----------
    title : str
        What was compared.
    columns : list of str
        Names, with units.
    rows : list of list
        Cells: texts and numbers.
    notes : list of str
        What a reader has to know to interpret the figures.
    curves : list of dict
        For the plot: ``panel``, ``xlabel``, ``label``, ``x``, ``y``.
    failures : list of str
        Names of the checks that failed.
    """

    title: str
    columns: list
    rows: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    curves: list = field(default_factory=list)
    failures: list = field(default_factory=list)

    def add(self, *cells):
        """Add a row and print it at once, so that it is not lost with an interrupted
        run."""
        if not self.rows:
            print(f"-- {self.title}\n{' | '.join(self.columns)}")
        self.rows.append([*cells])
        print(" | ".join(map(written, cells)), flush=True)

    def markdown(self):
        """The table as Markdown, notes below."""
        lines = [f"### {self.title}", ""]
        lines += [" | ".join(["", *self.columns, ""]).strip()]
        lines += ["|" + "---|" * len(self.columns)]
        for row in self.rows:
            lines += [" | ".join(["", *map(written, row), ""]).strip()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])


def written(cell):
    """A cell as text: floats with three digits."""
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def alternate(candidates, repeats, warm_up=1, device="cpu"):
    """Time functions in interleaved rounds, so that noise affects all of them alike.

    Every other round is in reverse order, because a function starts with the cache that
    the one before it has left.

    Arguments
    ---------
    candidates : dict
        Name → function without arguments.
    repeats : int
        Timed rounds.
    warm_up : int
        Rounds before those, which are not timed.
    device : str or torch.device
        Where the functions compute: the clock is read when it has nothing left to do.

    Returns
    -------
    dict
        Name → list of seconds, one per round.
    """
    gc.collect()  # frees what earlier candidates have left
    seconds = {name: [] for name in candidates}
    for turn in range(warm_up + repeats):
        order = list(candidates.items())[:: -1 if turn % 2 else 1]
        for name, function in order:
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize(device):
    """Wait until a device has done all it was asked for; a CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def spread(values, digits=3):
    """Median and interquartile range of values, e.g. ``2.51 [2.4, 2.63]``."""
    if len(values) < 2:
        return f"{values[0]:.{digits}g}"
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def ratios(of, to):
    """Ratio of two candidates, round by round."""
    return [a / b for a, b in zip(of, to)]


def in_new_process(function, *args):
    """Call an importable function in a new process, and return its result.

    The process is forked from a server that has only imported the models.
    """
    with new_process() as pool:
        return pool.submit(function, *args).result()


def new_process():
    """A pool of one process, forked as described in :func:`in_new_process`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.models"])
    return ProcessPoolExecutor(1, mp_context=context)


def alternate_processes(function, names, repeats, *args):
    """:func:`alternate`, with each candidate in a process of its own.

    Memory that one candidate frees or keeps thus does not affect the others.

    Arguments
    ---------
    function : callable
        Importable; called as ``function(name, *args)``, each time in the name's process.
    names : list of str
        Candidates.
    repeats : int
        Timed rounds.
    """
    with ExitStack() as stack:
        pools = {name: stack.enter_context(new_process()) for name in names}

        def call(name):
            return pools[name].submit(function, name, *args).result()

        return alternate({name: partial(call, name) for name in names}, repeats)


def resident_bytes():
    """Resident memory of this process, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(function):
    """Peak resident memory while ``function`` runs, above that at its start.

    A thread samples it every millisecond; to be called in a process of its own.
    """
    gc.collect()
    start, stop = resident_bytes(), threading.Event()
    highest = start

    def watch():
        nonlocal highest
        while not stop.wait(1e-3):
            highest = max(highest, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        stop.set()
        watcher.join()
    return highest - start


def allocated_bytes(device):
    """Memory of tensors on a GPU, or resident memory of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    return resident_bytes()


def peak_allocated(device, function):
    """Peak memory of tensors on a GPU while ``function`` runs, above that at its start.

    On a CPU it is :func:`peak_bytes`.
    """
    if torch.device(device).type != "cuda":
        return peak_bytes(function)
    gc.collect()
    synchronize(device)
    start = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - start


def machine():
    """The machine and software of the measurement: name → fact."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line for line in file if line.startswith("model name")]
        model = names[0].split(":")[1].strip()
    except (OSError, IndexError):
        pass
    commit = ""
    if shutil.which("git"):
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip()
    return {
        "date": date.today().isoformat(),
        "commit": commit or "unknown",
        "processor": model,
        "multiplies in bf16": cpu_multiplies_in_bf16(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load when started": round(os.getloadavg()[0], 2),
        "accelerator": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "-",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }

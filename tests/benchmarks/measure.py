"""Times and peak memory, and what they are put into: a table with its notes."""

import gc
import multiprocessing
import os
import platform
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


@dataclass
class Table:
    """What one section of the benchmarks found.

    Attributes
    ----------
    title : str
        What was compared.
    columns : list of str
        Names, with units.
    rows : list of list
        Cells: texts and numbers.
    notes : list of str
        What has to be known beside the figures.
    curves : list of dict
        For the plot: ``panel``, ``xlabel``, ``label``, ``x``, ``y``.
    """

    title: str
    columns: list
    rows: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    curves: list = field(default_factory=list)

    def markdown(self):
        """The table as Markdown, notes below."""
        lines = [f"### {self.title}", ""]
        lines += [" | ".join(["", *self.columns, ""]).strip()]
        lines += ["|" + "---|" * len(self.columns)]
        for row in self.rows:
            cells = [f"{c:.3g}" if isinstance(c, float) else str(c) for c in row]
            lines += [" | ".join(["", *cells, ""]).strip()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])


def alternate(candidates, repeats, warm_up=1):
    """Time functions in turns, so that a noisy machine is noisy to all of them.

    Every other round goes backwards: what comes behind another has its cache to fill.

    Arguments
    ---------
    candidates : dict
        Name → function without arguments.
    repeats : int
        Rounds that count.
    warm_up : int
        Rounds before, that do not.

    Returns
    -------
    dict
        Name → list of seconds, one a round.
    """
    gc.collect()  # what earlier candidates have left
    seconds = {name: [] for name in candidates}
    for turn in range(warm_up + repeats):
        order = list(candidates.items())[:: -1 if turn % 2 else 1]
        for name, function in order:
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values, digits=3):
    """Median and the middle half of values, e.g. ``2.51 [2.4, 2.63]``."""
    if len(values) < 2:
        return f"{values[0]:.{digits}g}"
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def ratios(of, to):
    """Ratio of two candidates, round by round."""
    return [a / b for a, b in zip(of, to)]


def in_new_process(function, *args):
    """Call an importable function in a process of its own, and return its result.

    Forked from a server that has imported the models and done nothing else.
    """
    with new_process() as pool:
        return pool.submit(function, *args).result()


def new_process():
    """A pool of one process as :func:`in_new_process` says."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.models"])
    return ProcessPoolExecutor(1, mp_context=context)


def alternate_processes(function, names, repeats, *args):
    """:func:`alternate`, each candidate in a process of its own.

    What one gives back to the kernel, another need not ask for again.

    Arguments
    ---------
    function : callable
        Importable; called as ``function(name, *args)``, each time in the name's process.
    names : list of str
        Candidates.
    repeats : int
        Rounds that count.
    """
    with ExitStack() as stack:
        pools = {name: stack.enter_context(new_process()) for name in names}

        def call(name):
            return pools[name].submit(function, name, *args).result()

        return alternate({name: partial(call, name) for name in names}, repeats)


def resident_bytes():
    """Memory of this process that is resident now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(function):
    """Highest resident memory while ``function`` runs, above that at its start.

    Sampled each millisecond from a thread; to be used in a process of its own.
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


def multiplies_bf16():
    """Whether the processor has instructions for products in bf16."""
    return bool(
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def machine():
    """What the figures were measured on, in one line a fact."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line for line in file if line.startswith("model name")]
        model = names[0].split(":")[1].strip()
    except (OSError, IndexError):
        pass
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": date.today().isoformat(),
        "commit": commit or "unknown",
        "processor": model,
        "multiplies in bf16": multiplies_bf16(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load when started": round(os.getloadavg()[0], 2),
        "accelerator": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "-",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }

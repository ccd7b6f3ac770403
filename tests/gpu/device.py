"""What the sections share: cells that may fail, memory, times, and profiles."""

import copy
import gc
import statistics
import time
import traceback
from contextlib import contextmanager
from functools import partial

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hetero_brain import DomainBatch
from tests.benchmarks.measure import alternate, synchronize
from tests.benchmarks.speech import global_batch

REPEATS, REPEAT_SECONDS = 20, 0.004  # a repeat calls a function for this long


@contextmanager
def attempt(table, label):
    """Note in a table what fails inside, so that the rest is still measured.

    To run out of memory is a result; any other error counts as a failure.
    """
    error = None
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        error = "out of memory"
    except Exception as exception:
        traceback.print_exc()
        error = f"{type(exception).__name__}: {exception}".strip().split("\n")[0]
        table.failures.append(label)
    if error is not None:
        table.notes.append(f"{label}: {error}.")
        print(table.notes[-1], flush=True)
        release()


def launch_microseconds(device, count=2000):
    """How long the host takes to launch a kernel that does next to nothing, in µs."""
    x = torch.zeros(1, device=device)
    for _ in range(2):  # the first round warms up
        synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            x.add_(1)
        synchronize(device)
        taken = time.perf_counter() - start
    return 1e6 * taken / count


def release():
    """Return the memory of tensors that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def on_host(batch):
    """A copy of a batch in the memory of the host, pinned as a loader leaves it.

    ``PaddedBatch.to`` moves a batch in place, so that one which is used again would be on
    the GPU already.
    """
    twin = copy.copy(batch).to("cpu")
    return twin.pin_memory() if torch.cuda.is_available() else twin


def host_parts(n_domains, seconds):
    """Domain batches of ``seconds`` of speech each, :func:`on_host`."""
    parts = global_batch(n_domains, seconds)
    return [DomainBatch(part.domain, (on_host(part.batches[0]),)) for part in parts]


def copies(parts):
    """Domain batches to be moved to the GPU while the originals stay on the host."""
    return [DomainBatch(p.domain, tuple(map(copy.copy, p.batches))) for p in parts]


def time_limit(table, seconds):
    """A function that tells whether these seconds are over, and notes it once."""
    end, noted = time.perf_counter() + seconds, []

    def is_over():
        over = time.perf_counter() > end
        if over and not noted:
            noted.append(True)
            table.notes.append(
                f"Ended after its limit of {seconds} s: rows are missing."
            )
        return over

    return is_over


def device_events(device, function):
    """What a GPU does while ``function`` runs: kernels, copies and fills.

    Arguments
    ---------
    device : str
        Where the function computes.
    function : callable
        Without arguments; called once, under the profiler.

    Returns
    -------
    list of (float, float, str)
        Start and end in µs, and name, in the order of their start; empty on a CPU.
    """
    if torch.device(device).type != "cuda":
        return []
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        function()
        synchronize(device)
    return sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in found.events()
        # An annotation, such as the name of an optimizer, spans the kernels inside it.
        if event.device_type == DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)
        and not event.name.startswith(("Optimizer.", "ProfilerStep"))
    )


def count_kernels(events):
    """How many of the events are kernels, rather than copies and fills."""
    return sum(not name.startswith(("Memcpy", "Memset")) for _, _, name in events)


def busy_seconds(events):
    """Seconds in which at least one of the events ran."""
    total, latest = 0.0, float("-inf")
    for start, end, _ in events:
        total += max(0.0, end - max(start, latest))
        latest = max(latest, end)
    return total / 1e6


def longest_gaps(events, count):
    """The longest times in which no event ran.

    Returns
    -------
    list of (float, str, str)
        Milliseconds, and the names of the events before and after; the longest first.
    """
    gaps, (_, latest, before) = [], events[0]
    for start, end, name in events[1:]:
        if start > latest:
            gaps.append(((start - latest) / 1e3, before, name))
        if end > latest:
            latest, before = end, name
    return sorted(gaps, reverse=True)[:count]


def medians(device, functions, quick):
    """Milliseconds of functions, in interleaved rounds; median.

    A round calls a function so often that the clock's resolution and the start of the
    first kernel do not matter.

    Arguments
    ---------
    device : str
        Where the functions compute.
    functions : dict
        Name → function without arguments.
    quick : bool
        A single call per function.

    Returns
    -------
    dict
        Name → milliseconds of a call.
    """
    calls = {}
    for name, function in functions.items():
        for _ in range(2):  # the second one has no kernels to choose
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            taken = time.perf_counter() - start
        calls[name] = 1 if quick else max(1, min(20, round(REPEAT_SECONDS / taken)))

    def call(name):
        for _ in range(calls[name]):
            functions[name]()

    rounds = {name: partial(call, name) for name in functions}
    repeats = 1 if quick else REPEATS
    times = alternate(rounds, repeats, warm_up=0, device=device)
    return {n: 1e3 * statistics.median(t) / calls[n] for n, t in times.items()}


def passes(function, inputs):
    """A forward and backward pass of a function of inputs, as a function.

    The gradient that comes from behind is ones, made beforehand.
    """
    slope = torch.ones_like(function(*inputs))
    wanted = [tensor for tensor in inputs if tensor.requires_grad]

    def both():
        torch.autograd.grad(function(*inputs), wanted, slope)

    return both


def random(*shape, device, dtype=torch.float32):
    """Normally distributed numbers that need a gradient."""
    return torch.randn(*shape, device=device, dtype=dtype).requires_grad_()

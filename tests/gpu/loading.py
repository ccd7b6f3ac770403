"""The loader beside training on a GPU: how much audio a second each takes."""

import itertools
import os
import tempfile

from tests.benchmarks import speech
from tests.benchmarks.data_path import audio_of, train_from
from tests.benchmarks.formats import converted, loader_of, loader_rate
from tests.benchmarks.measure import Table
from tests.benchmarks.models import ours

from .device import attempt, busy_seconds, device_events, release, time_limit

WORKERS = (1, 2, 4, 8, 16)
TRAINING_WORKERS = 8
MODELS = (("base", False), ("base", True), ("paper", True))  # with CUDA graphs
UNIT, N_DOMAINS = 80, 3  # seconds of a domain batch
LOADED_UNIT = 16  # of the loader alone: short, so that each worker sends many
MEASURED_SECONDS = 1.0
N_PROFILED = 3  # iterations
LIMIT = 45  # seconds
MP3, FLAC = "MP3 48 kHz", "FLAC 8 kHz (the sample)"
RATES = {MP3: 16_000, FLAC: speech.RATE}  # at which the loader alone reads them, in Hz


def training_rows(table, device, size, sources, unit, workers, steps, graphs):
    """Add rows of training on batches in memory, and on those of loaders.

    Batches in memory come first and last, as the speed of a GPU may drift. With CUDA
    graphs, most shapes have come before the measurement.
    """
    settings = dict(precision="bf16", device=device, cuda_graphs=graphs)
    brain, shown = ours(size, 0, 0.1, **settings), "graphs" if graphs else "eager"
    seconds = N_DOMAINS * unit
    ready = loader_of(speech.utterances().manifest, speech.RATE, seconds, 0)
    ready = list(itertools.islice(ready, 4))
    in_memory = "memory", lambda: itertools.cycle(ready), "-"
    loaded = [
        (
            name,
            lambda r=rows: iter(loader_of(r, speech.RATE, seconds, workers)),
            workers,
        )
        for name, rows in sources.items()
    ]
    train_from(brain, itertools.cycle(ready), len(ready))  # chooses kernels
    for name, batches, count in (in_memory, *loaded, in_memory):
        with attempt(table, f"training from {name}"):
            loader = batches()
            if graphs:
                train_from(brain, loader, 3 * steps)
            rate, waiting = train_from(brain, loader, steps)
            busy = busy_share(brain, loader, rate)
            cells = [shown, name, count, steps, rate, f"{waiting:.2%}", busy]
            table.add(size, *cells)


def busy_share(brain, loader, rate):
    """The share of time in which the GPU is busy at a rate of audio seconds a second."""
    audio = []

    def train():
        for global_batch in itertools.islice(loader, N_PROFILED):
            brain.fit_batch(global_batch)
            audio.append(audio_of(global_batch))

    events = device_events(brain.device, train)
    return busy_seconds(events) / sum(audio) * rate if events else "-"


def loader_rows(table, sources, counts, unit, seconds, is_over):
    """Add rows of loaders alone, and their curves."""
    for name, rows in sources.items():
        points, rate = [], RATES[name]
        for workers in counts:
            if is_over():
                break
            with attempt(table, f"{name}, {workers} workers"):
                loader = loader_of(rows, rate, N_DOMAINS * unit, workers)
                first, speed = loader_rate(loader, workers, rate, seconds)
                table.add(name, rate, workers, speed, speed / workers, first)
                points.append((workers, speed))
        if points:
            x, y = map(list, zip(*points))
            axes = dict(panel="loader alone", xlabel="workers", ylabel="audio s / s")
            table.curves.append(dict(label=name, x=x, y=y, scale="log", **axes))


def run(device, quick):
    """Loaders alone; then training on batches of loaders and in memory."""
    models, unit, steps, training_workers = MODELS, UNIT, 15, TRAINING_WORKERS
    counts, loaded_unit, seconds, n_utterances = (
        WORKERS,
        LOADED_UNIT,
        MEASURED_SECONDS,
        45,
    )
    if quick:
        models, unit, steps, training_workers = (("mini", False),), 2, 2, 1
        counts, loaded_unit, seconds, n_utterances = (1,), 2, 0.3, 6
    training = Table(
        "Training with the loader on the GPU (bf16, CSSL, "
        f"global batches of {N_DOMAINS} × {unit} s)",
        [
            "size",
            "passes",
            "batches from",
            "workers",
            "iterations",
            "audio s/s",
            "waiting for batches",
            "GPU busy",
        ],
        notes=[
            "Waiting: time in next(loader) / total time, without the first iteration. "
            "CSSL (K = 0) needs audio fastest. Files are read at 8 kHz."
        ],
    )
    alone = Table(
        "The loader alone",
        [
            "files",
            "read at (Hz)",
            "workers",
            "audio s/s",
            "audio s/s per worker",
            "first batch (s)",
        ],
        notes=[
            f"{os.cpu_count()} cores; files in the page cache; global batches of "
            f"{N_DOMAINS} × {loaded_unit} s."
        ],
    )
    is_over = time_limit(alone, LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        sources = {}
        with attempt(alone, "mp3"):
            rows = converted(folder, ".mp3", 48_000, n_utterances)
            sources[MP3] = rows
        sources[FLAC] = speech.utterances().manifest
        loader_rows(alone, sources, counts, loaded_unit, seconds, is_over)
        yield alone
        for size, graphs in models:
            with attempt(training, f"training {size}"):
                options = unit, training_workers, steps, graphs
                training_rows(training, device, size, sources, *options)
            release()
    yield training

"""9. Reading audio: how much a core decodes and resamples, and loader workers deliver."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hetero_brain.data.audio import AudioFile, extent, read_audio
from hetero_brain.data.datasets import Utterances
from hetero_brain.data.loaders import train_loader

from . import speech
from .data_path import audio_of, copy_of, plan_of, repeated
from .measure import Table, spread

FORMATS = {  # suffix of the files, and their sample rate in Hz
    "WAV 16 kHz": (".wav", 16_000),
    "FLAC 16 kHz": (".flac", 16_000),
    "FLAC 44.1 kHz": (".flac", 44_100),
    "MP3 48 kHz": (".mp3", 48_000),
    "Opus 48 kHz": (".ogg", 48_000),
}
RATE = 16_000  # Hz, of what is read
WORKERS = (1, 2)
UNIT, N_DOMAINS = 16, 3  # seconds of a domain batch
N_UTTERANCES, ROUNDS = 60, 5
MEASURED_SECONDS = 3.0  # of each loader
LONG_EPOCH = 100_000  # seconds of audio: longer than any measurement


def converted(folder, suffix, rate, n_utterances):
    """A manifest of some utterances of the sample, converted to files of another format.

    Arguments
    ---------
    folder : str
        For the files.
    suffix : str
        Of the files, e.g. ``.mp3``.
    rate : int
        Sample rate of the files in Hz.
    n_utterances : int
        How many, evenly distributed over the sample.
    """
    sample = speech.utterances()
    rows = np.linspace(0, len(sample) - 1, n_utterances).astype(int)
    part = Utterances(sample.manifest.subset(rows), speech.RATE)
    return copy_of(part, Path(folder), suffix, rate)


def core_rates(rows, rounds):
    """Seconds of audio per second of a core, one for each round.

    Returns
    -------
    decoded, read : list of float
        Decoding alone; and decoding, checking and resampling, as a loader does.
    """

    def decode(row):
        with AudioFile(row["wav"]) as file:
            file.segment(*extent(file, row))

    def taken(function):
        start = time.process_time()
        for row in rows:
            function(row)
        return rows.duration.sum() / (time.process_time() - start)

    read_audio(rows[0], RATE)  # makes the kernel of the resampler
    rates = [
        (taken(decode), taken(lambda r: read_audio(r, RATE))) for _ in range(rounds)
    ]
    return tuple(map(list, zip(*rates)))


def loader_of(rows, rate, seconds, workers):
    """A loader with one long epoch of a manifest's rows, read at ``rate`` Hz."""
    times = int(LONG_EPOCH / rows.duration.sum()) + 1
    utterances = repeated(Utterances(rows, rate), times)
    return train_loader(utterances, plan_of(utterances.manifest, seconds), workers)


def loader_rate(loader, workers, rate, seconds):
    """Seconds until a loader's first global batch, and its audio per second after.

    Arguments
    ---------
    loader : AuditedLoader
        Its epoch is not finished.
    workers : int
        As many batches may be ready at the first, and are not counted.
    rate : int
        Sample rate of the batches in Hz.
    seconds : float
        Time of the measurement.
    """
    start = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - start
    for _ in range(workers):
        next(batches)
    start, audio, taken = time.perf_counter(), 0.0, 0.0
    for global_batch in batches:
        audio += audio_of(global_batch) * speech.RATE / rate
        taken = time.perf_counter() - start
        if taken > seconds:
            break
    return first, audio / taken


def run(quick):
    """A row for each format."""
    formats, workers, n_utterances, rounds = FORMATS, WORKERS, N_UTTERANCES, ROUNDS
    seconds = MEASURED_SECONDS
    torch.set_num_threads(1)  # as a loader worker has
    if quick:
        formats = {"MP3 48 kHz": FORMATS["MP3 48 kHz"]}
        workers, n_utterances, rounds, seconds = WORKERS[:1], 6, 1, 0.1
    table = Table(
        f"Reading audio at {RATE // 1000} kHz: seconds of audio per second",
        [
            "files",
            "a core decodes",
            "and resamples",
            *(f"loader, {n} worker{'s' * (n > 1)}" for n in workers),
        ],
        notes=[
            "A core: per second of its time, median [interquartile range]; the second "
            "of these columns includes the first, and all checks of the audio.",
            f"A loader: per second of the clock, on {os.cpu_count()} cores, of which the "
            "process that takes the batches needs a part; global batches of "
            f"{N_DOMAINS} × {UNIT} s.",
            f"{n_utterances} utterances of the sample, converted to each format; the "
            "files are in the page cache.",
        ],
    )
    for name, (suffix, rate) in formats.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = converted(folder, suffix, rate, n_utterances)
            cells = map(spread, core_rates(rows, rounds))
            loaders = (loader_of(rows, RATE, N_DOMAINS * UNIT, n) for n in workers)
            rates = [
                loader_rate(loader, n, RATE, seconds)[1]
                for loader, n in zip(loaders, workers)
            ]
            table.add(name, *cells, *rates)
    return [table]

"""5. The data path: loader compared with training, planning and resuming, manifests."""

import hashlib
import itertools
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torchaudio

from hetero_brain.data import manifest
from hetero_brain.data.audio import read_audio
from hetero_brain.data.datasets import Utterances
from hetero_brain.data.loaders import train_loader
from hetero_brain.data.plan import Plan

from . import models, speech
from .measure import (
    Table,
    alternate,
    in_new_process,
    peak_bytes,
    ratios,
    spread,
    synchronize,
)

KINDS = ((".wav", 8000, 8000), (".flac", 16000, 16000), (".flac", 16000, 8000))
ENCODED = {".mp3": None, ".ogg": "OPUS"}  # the others: 16 bits
MODELS = {"tiny": 2, "base": 1}  # size → global batches per measurement
WORKERS = (0, 2)
ROOT = Path(__file__).parents[2]
N_DOMAINS, GLOBAL_BATCH_SECONDS = 10, 320  # of the timed plans
ROWS_PER_FILE = 100  # of manifests
HELD_OUT = 10_000  # clips in each of dev and test of the synthetic Common Voice
QUICK_CLIPS = 500  # in each of its splits, if quick
CLIPS_PER_SPEAKER = 20


def run(quick):
    """The tables of the loader, the plan and the manifest."""
    planned = (1_000, 2_000) if quick else tuple(10**n for n in range(3, 8))
    clips = ((QUICK_CLIPS,), QUICK_CLIPS) if quick else ((20_000, 200_000), HELD_OUT)
    with tempfile.TemporaryDirectory() as folder:
        sources = files(Path(folder), KINDS[-1:] if quick else KINDS)
        sizes = {quick: 2} if quick else MODELS
        seconds, repeats, rounds = (8, 1, 1) if quick else (96, 4, 2)
        return [
            loader_table(sizes, sources, seconds, repeats, rounds),
            wait_table(quick or "tiny", seconds, 4 if quick else 6),
            plan_table(planned),
            manifest_table(planned[1:2] if quick else planned[1:4]),
            common_voice_table(*clips),
        ]


# ---------------------------------------------------------------------------- loader


def files(folder, kinds):
    """The speech of the sample in several file formats.

    Arguments
    ---------
    folder : Path
        For the converted files.
    kinds : sequence of tuple
        Suffix, sample rate of the file and sample rate to read it at, in Hz.

    Returns
    -------
    dict
        Name → Utterances.
    """
    sources = {"FLAC 8 kHz (the sample)": speech.utterances()}
    for suffix, rate, wanted in kinds:
        name = f"{suffix[1:].upper()} {rate // 1000} kHz"
        if wanted != rate:
            name += f", read at {wanted // 1000} kHz"
        rows = copy_of(speech.utterances(), folder, suffix, rate)
        sources[name] = Utterances(rows, wanted)
    return sources


def copy_of(utterances, folder, suffix, rate):
    """A manifest of the same speech, converted to files of another format: 16 bits, or
    what is usual for mp3 and Opus."""
    rows = []
    for number, row in enumerate(utterances.manifest):
        signal = read_audio(row, speech.RATE)
        signal = torchaudio.functional.resample(signal, speech.RATE, rate)
        wav = folder / f"{number}{suffix}"
        soundfile.write(wav, signal.clamp(-1, 1), rate, ENCODED.get(suffix, "PCM_16"))
        rows.append({**row, "wav": wav, "start": None, "stop": None})
    path = folder / f"{suffix[1:]}.csv"
    manifest.write(path, rows)
    return manifest.read(path)


def repeated(utterances, times):
    """The utterances repeated several times, for a longer epoch."""
    rows = utterances.manifest
    return Utterances(
        rows.subset(np.tile(np.arange(len(rows)), times)), utterances.sample_rate
    )


def plan_of(rows, seconds):
    """The plan of a manifest."""
    return Plan(
        rows.duration, rows.domain, rows.domains, global_batch_seconds=seconds, seed=0
    )


def epoch_seconds(rows, plan):
    """Audio in the first epoch of a plan, in seconds."""
    return sum(
        float(rows.duration[taken].sum())
        for step in range(plan.steps_per_epoch)
        for _, batches in plan[step]
        for taken in batches
    )


def load_epoch(loader):
    """Load an epoch."""
    for _ in loader:
        pass


def first_pass(loader):
    """Load an epoch, including the start of the workers.

    Returns
    -------
    float
        Seconds until the first global batch.
    """
    start = time.perf_counter()
    batches = iter(loader)
    next(batches)
    seconds = time.perf_counter() - start
    load_epoch(batches)
    return seconds


def train(brain, batches):
    """Train on global batches in memory."""
    for batch in batches:
        brain.fit_batch(batch)


def ready_batches(seconds):
    """Four global batches of the sample, in memory."""
    utterances = repeated(speech.utterances(), 2)
    loader = train_loader(utterances, plan_of(utterances.manifest, seconds))
    return list(loader)[:4]


def audio_of(global_batch):
    """Audio in a global batch, in seconds."""
    return sum(
        speech.seconds_of(domain_batch.batches[0]) for domain_batch in global_batch
    )


def loader_table(sizes, sources, seconds, repeats, rounds):
    """The loader alone compared with training alone, in interleaved rounds.

    ``sizes`` are those of the models, as in :data:`MODELS`, the fastest first.
    """
    batches = ready_batches(seconds)
    candidates, audio, startup = {}, {}, {}
    for size, n_batches in sizes.items():
        brain = models.ours(size)
        brain.fit_batch(batches[0])
        candidates[size] = partial(train, brain, batches[:n_batches])
        audio[size] = sum(map(audio_of, batches[:n_batches]))
    for (name, utterances), workers in itertools.product(sources.items(), WORKERS):
        utterances = repeated(utterances, repeats)
        plan = plan_of(utterances.manifest, seconds)
        loader = train_loader(utterances, plan, workers)
        startup[name, workers] = first_pass(loader)
        candidates[name, workers] = partial(load_epoch, loader)
        audio[name, workers] = epoch_seconds(utterances.manifest, plan)

    times = alternate(candidates, rounds, warm_up=0)
    rates = {key: [audio[key] / taken for taken in times[key]] for key in times}
    table = Table(
        f"Loader alone compared with training alone, global batches of {seconds} s",
        ["files", "workers", "audio s/s"]
        + [f"× training {size}" for size in sizes]
        + ["first batch, s"],
    )
    for size in sizes:
        cells = [f"training {size}, CSSL", "", spread(rates[size])]
        table.rows.append(cells + (len(sizes) + 1) * [""])
    for (name, workers), first in startup.items():
        rate = rates[name, workers]
        against = [spread(ratios(rate, rates[size])) for size in sizes]
        table.rows.append([name, workers, spread(rate), *against, first])
    fastest = next(iter(sizes))
    least = min(min(rates[name, 2]) for name in sources) / max(rates[fastest])
    table.notes = [
        "The slowest round of any loader with 2 workers is "
        f"{least:.3g} times as fast as the fastest round of training {fastest}.",
        f"The {len(speech.utterances())} utterances of the sample, "
        f"{speech.utterances().manifest.duration.mean():.1f} s on average, repeated "
        f"{repeats} times; the files are in the page cache.",
        "Whole epochs, with workers already running, as from the second epoch of a run. "
        "The first batch of a run has to wait for their start.",
    ]
    table.curves = [
        {
            "panel": "Loader alone, training alone",
            "xlabel": "workers",
            "ylabel": "seconds of audio per second",
            "label": name,
            "x": list(WORKERS),
            "y": [float(np.median(rates[key])) for key in keys],
        }
        for name, keys in {
            **{name: [(name, workers) for workers in WORKERS] for name in sources},
            **{f"training {size}": [size] * len(WORKERS) for size in sizes},
        }.items()
    ]
    return table


def wait_table(size, seconds, steps):
    """The time that training waits for a loader on the same cores."""
    batches = ready_batches(seconds)
    utterances = repeated(speech.utterances(), 20)
    plan = plan_of(utterances.manifest, seconds)
    table = Table(
        f"Training {size} with the loader, FLAC 8 kHz, global batches of {seconds} s",
        ["batches from", "iterations", "audio s/s", "waiting for batches"],
        notes=[
            "Waiting: time in next(loader) / total time, without the first iteration."
        ],
    )
    brain = models.ours(size)
    for name, source in {
        "memory": itertools.cycle(batches),
        "loader, 0 workers": train_loader(utterances, plan, 0),
        "loader, 2 workers": train_loader(utterances, plan, 2),
    }.items():
        rate, waiting = train_from(brain, iter(source), steps)
        table.rows.append([name, steps, rate, f"{waiting:.2%}"])
    return table


def train_from(brain, batches, steps):
    """Train on the batches of a loader.

    Returns
    -------
    rate : float
        Seconds of audio per second.
    waiting : float
        The fraction of time spent in ``next(batches)``.
    """
    brain.fit_batch(next(batches))
    synchronize(brain.device)
    audio, waited, start = 0.0, 0.0, time.perf_counter()
    for _ in range(steps):
        begin = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - begin
        brain.fit_batch(batch)
        audio += audio_of(batch)
    synchronize(brain.device)
    taken = time.perf_counter() - start
    return audio / taken, waited / taken


# ---------------------------------------------------------------------------- planning


def plan_table(sizes):
    """Time and memory of planning, by number of rows."""
    table = Table(
        f"Planning, {N_DOMAINS} domains, global batches of {GLOBAL_BATCH_SECONDS} s",
        [
            "rows",
            "steps per epoch",
            "build, s",
            "first step of an epoch, s",
            "further steps, µs each",
            "resume at step",
            "resume, s",
            "peak memory, MiB",
        ],
        notes=[
            "Durations from 0.3 s to 20 s, lognormal, 5.9 s on average.",
            "The first step requested in an epoch cuts the whole epoch into batches.",
            "Resume: a new plan is asked for one late step, and gives the same rows as a "
            "plan that went through all steps before. No audio is read.",
            "Memory besides durations and domains, each size in its own process.",
        ],
    )
    table.rows = [[size, *in_new_process(plan_figures, size)] for size in sizes]
    table.curves = [
        curve("Planning", "seconds", label, table, column)
        for label, column in {"build": 2, "first step": 3, "resume": 6}.items()
    ] + [curve("Memory", "MiB", "plan", table, 7)]
    return table


def plan_figures(n_rows):
    """The columns of :func:`plan_table` for one number of rows."""
    rng = np.random.default_rng(0)
    durations = np.clip(rng.lognormal(1.5, 0.8, n_rows), 0.3, 20).astype(np.float32)
    domain_of = rng.integers(N_DOMAINS, size=n_rows).astype(np.int16)

    def build():
        return Plan(
            durations,
            domain_of,
            [f"domain{i}" for i in range(N_DOMAINS)],
            global_batch_seconds=GLOBAL_BATCH_SECONDS,
            seed=0,
        )

    def use():
        plan = build()
        for step in range(1000):
            plan[step]

    memory = peak_bytes(use)
    plan, build_seconds = timed(build)
    _, cut_seconds = timed(lambda: plan[0])
    n_steps = plan.steps_per_epoch

    def walk(steps):
        for step in steps:
            rows = plan[step]
        return rows

    _, walk_seconds = timed(lambda: walk(range(1, n_steps)))
    late = max(2, min(20, 2_000_000 // n_rows)) * n_steps - 2
    walked = walk(range(n_steps, late + 1))
    resumed, resume_seconds = timed(lambda: build()[late])
    if not is_same(resumed, walked):
        raise AssertionError(f"{n_rows} rows: step {late} differs after resuming")
    step_micros = 1e6 * walk_seconds / (n_steps - 1)
    times = (build_seconds, cut_seconds, step_micros, late, resume_seconds)
    return n_steps, *times, memory / 2**20


def timed(function):
    """The result of a function, and the seconds that it takes."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def is_same(one, other):
    """Whether two global batches of plans have the same rows."""
    rows = [
        [(domain, [taken.tolist() for taken in batches]) for domain, batches in plan]
        for plan in (one, other)
    ]
    return rows[0] == rows[1]


def curve(panel, ylabel, label, table, column):
    """The plot of a column of a table over its first column."""
    return {
        "panel": panel,
        "xlabel": "manifest rows",
        "ylabel": ylabel,
        "label": label,
        "x": [row[0] for row in table.rows],
        "y": [row[column] for row in table.rows],
        "scale": "log",
    }


# ---------------------------------------------------------------------------- manifest


def manifest_table(sizes):
    """Time and memory of the manifest, by number of rows."""
    table = Table(
        "The manifest",
        ["rows", "MiB", "write, s", "read and check, s", "µs per row", "peak, MiB"],
        notes=[
            f"{ROWS_PER_FILE} rows per audio file; reading checks that each file exists. "
            "Writing includes a check of what was written. µs per row: access to a row.",
            "Peak: memory of reading, each size in its own process.",
        ],
    )
    table.rows = [[size, *in_new_process(manifest_figures, size)] for size in sizes]
    table.curves = [
        curve("Planning", "seconds", "read the manifest", table, 3),
        curve("Memory", "MiB", "manifest", table, 5),
    ]
    return table


def manifest_figures(n_rows):
    """The columns of :func:`manifest_table` for one number of rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        for number in range(n_rows // ROWS_PER_FILE):
            (Path(folder) / f"{number:07}.flac").touch()
        _, write_seconds = timed(lambda: manifest.write(path, rows_of(n_rows)))
        kept = []

        def read():
            kept.append(timed(lambda: manifest.read(path, folder)))

        memory = peak_bytes(read)
        ((rows, read_seconds),) = kept
        wanted = np.random.default_rng(0).integers(n_rows, size=5000).tolist()
        _, row_seconds = timed(lambda: [rows[index] for index in wanted])
        row_micros = 1e6 * row_seconds / len(wanted)
        size = path.stat().st_size / 2**20
    return size, write_seconds, read_seconds, row_micros, memory / 2**20


def rows_of(n_rows):
    """Rows of a manifest, one at a time."""
    for number in range(n_rows):
        file, place = divmod(number, ROWS_PER_FILE)
        yield {
            "ID": f"utterance-{number:08}",
            "duration": 4.5,
            "wav": f"{{data_root}}/{file:07}.flac",
            "start": 36000 * place,
            "stop": 36000 * (place + 1),
            "domain": f"domain{number % N_DOMAINS}",
            "spk_id": f"speaker{file}",
            "wrd": "the words of an utterance of some seconds",
        }


# ---------------------------------------------------------------------------- corpora


def common_voice_table(sizes, held_out):
    """Time and memory of preparing a release of Common Voice, by number of clips; there
    are ``held_out`` in each of dev and test."""
    table = Table(
        "Preparing Common Voice",
        ["clips in train", "wall-clock time, s", "CPU time, s", "peak, MiB"],
        notes=[
            "A synthetic release: one language, 9-word sentences, clip durations, and "
            f"{held_out} more clips in each of dev and test. Its mp3 files have a size "
            "but no content, and are in memory where /dev/shm exists.",
            "From the TSVs to all manifests in one process, including the normalisation "
            "of the words.",
            "Peak: memory above that at the start, each size in its own process.",
        ],
    )
    table.rows = [
        [size, *in_new_process(prepare_figures, size, held_out)] for size in sizes
    ]
    return table


def prepare_figures(n_clips, held_out):
    """The columns of :func:`common_voice_table` for one number of clips."""
    sys.path.append(str(ROOT / "recipes/CommonVoice"))
    from common_voice_prepare import prepare_common_voice

    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory_disk if memory_disk.is_dir() else None
    ) as folder:
        synthetic_release(Path(folder) / "en", n_clips, held_out)
        kept = []

        def prepare():
            languages = {"pretrain_domains": ["en"]}
            save_folder = Path(folder) / "manifests"
            kept.append(
                timed(lambda: prepare_common_voice(folder, save_folder, **languages))
            )

        before = time.process_time()
        memory = peak_bytes(prepare)
        processor = time.process_time() - before
    ((summary, seconds),) = kept
    if summary.totals["en", "pretrain"].transcribed != n_clips:
        raise AssertionError(f"some of {n_clips} clips were lost:\n{summary.table()}")
    return seconds, processor, memory / 2**20


def synthetic_release(folder, n_clips, held_out):
    """A language of Common Voice: tables, and audio files of zeros."""
    clips = folder / "clips"
    clips.mkdir(parents=True)
    columns = "client_id path sentence_id sentence sentence_domain up_votes down_votes "
    columns += "age gender accents variant locale segment"
    header = columns.replace(" ", "\t")
    first = 0
    with open(folder / "clip_durations.tsv", "w", encoding="utf-8") as durations:
        durations.write("clip\tduration[ms]\n")
        for split, n_rows in {
            "train": n_clips,
            "dev": held_out,
            "test": held_out,
        }.items():
            with open(folder / f"{split}.tsv", "w", encoding="utf-8") as table:
                table.write(f"{header}\n")
                for number in range(first, first + n_rows):
                    name = f"common_voice_en_{number:08}.mp3"
                    speaker = str(number // CLIPS_PER_SPEAKER).encode()
                    speaker = hashlib.sha512(speaker).hexdigest()
                    sentence = (
                        f"“The {number_in_words(number)} clip’s sentence, as read.”"
                    )
                    rest = "\t2\t0\t\t\t\t\ten\t"
                    table.write(
                        f"{speaker}\t{name}\t{speaker[:64]}\t{sentence}\t{rest}\n"
                    )
                    durations.write(f"{name}\t{3000 + number % 6000}\n")
                    (clips / name).touch()
                    os.truncate(clips / name, 30_000)
            first += n_rows


def number_in_words(number):
    """The last five digits of a number, spelt out one by one."""
    names = "zero one two three four five six seven eight nine".split()
    return " ".join(names[int(digit)] for digit in f"{number:05}"[-5:])

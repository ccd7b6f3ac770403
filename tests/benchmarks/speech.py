"""The speech of the benchmarks: the VoicePrompts sample that ships in the repository."""

import functools
import importlib.util
import tempfile
from pathlib import Path

import numpy as np

from hetero_brain import DomainBatch
from hetero_brain.data import manifest
from hetero_brain.data.datasets import Utterances

RECIPE = Path(__file__).parents[2] / "recipes/VoicePrompts"
RATE = 8000  # Hz
MANIFESTS = tempfile.TemporaryDirectory()  # exists until the process ends


@functools.cache
def utterances():
    """The training utterances of the sample, all languages."""
    spec = importlib.util.spec_from_file_location(
        "voice_prompts_prepare", RECIPE / "voice_prompts_prepare.py"
    )
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    domains = ["en", "es", "fr"]
    prepare.prepare_voice_prompts(RECIPE / "sample", MANIFESTS.name, domains)
    rows = manifest.read(f"{MANIFESTS.name}/train.csv", RECIPE / "sample", domains)
    return Utterances(rows, RATE)


@functools.cache
def batch(seconds, seed=0, like=None):
    """A batch of about ``seconds`` of speech: five utterances of similar length repeated.

    1 to 12 % of it is padding; batches of the VoicePrompts recipe have 5 to 6 %.

    Arguments
    ---------
    seconds : float
        Audio of the batch.
    seed : int
        Different seeds give different utterances.
    like : float
        Approximate length of the utterances in seconds; drawn if not given.
    """
    durations = utterances().manifest.duration
    rng = np.random.default_rng(seed)
    like = durations[rng.integers(len(durations))] if like is None else like
    pool = np.argsort(np.abs(durations - like))[:5]
    rows, total = [], 0.0
    while total < seconds:
        row = pool[len(rows) % len(pool)]
        rows.append(int(row))
        total += durations[row]
    return utterances().batch(rows, step=seed)[0]


def seconds_of(batch):
    """Seconds of audio in a batch, without padding."""
    return float(batch.sig.lengths.sum()) * batch.sig.data.shape[1] / RATE


def padding_of(batch):
    """Fraction of a batch that is padding."""
    return 1 - seconds_of(batch) * RATE / batch.sig.data.numel()


def global_batch(n_domains, seconds):
    """A global batch of ``n_domains`` domain batches of ``seconds`` of speech each."""
    return [DomainBatch(f"domain{i}", (batch(seconds, i),)) for i in range(n_domains)]

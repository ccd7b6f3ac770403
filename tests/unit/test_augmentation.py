"""Augmentation of waveforms: lengths, labels, and a function of seed and iteration."""

import math
import random

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from speechbrain.augment import time_domain
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.dataio.batch import PaddedBatch

from hetero_brain.data import augmentation
from hetero_brain.data.augmentation import WaveformAugmentation
from hetero_brain.data.datasets import GlobalBatches, Utterances
from hetero_brain.data.loaders import make_plan, train_loader
from hetero_brain.errors import InputError

SAMPLES = 8000, 6001, 3517  # of the utterances of a batch


def batch_of(*samples):
    """Noise with labels; utterance i has i + 1 tokens."""
    generator = torch.Generator().manual_seed(0)
    return PaddedBatch(
        [
            {
                "id": f"u{i}",
                "sig": torch.randn(n, generator=generator),
                "tokens": torch.arange(i + 1) + 1,
            }
            for i, n in enumerate(samples)
        ]
    )


def augmented(augmenter, step=0, seed=1, samples=SAMPLES):
    """A batch after augmentation."""
    batch = batch_of(*samples)
    WaveformAugmentation(augmenter, seed)(batch, step)
    return batch


def speeds(*percent, **settings):
    """SpeechBrain's augmenter with some speeds."""
    perturb = SpeedPerturb(8000, [*percent])
    return Augmenter(augmentations=[perturb], **settings)


# ------------------------------------------------------------------- lengths and labels


@pytest.mark.parametrize("percent", [90, 95, 110])
def test_lengths_follow_the_speed(percent):
    """What comes out is what resampling makes of each utterance alone."""
    before = batch_of(*SAMPLES)
    wavs, lengths = augmented(speeds(percent)).sig
    assert lengths.tolist() == before.sig.lengths.tolist()
    found = (lengths * wavs.shape[1]).round().long()
    for i, n in enumerate(SAMPLES):
        assert abs(int(found[i]) - n * 100 / percent) < 2
        assert not wavs[i, found[i] :].any()
        alone = torchaudio.functional.resample(before.sig.data[i, :n], percent, 100)
        assert abs(len(alone) - int(found[i])) < 2
        inner = len(alone) - 50  # the ends have other neighbours
        torch.testing.assert_close(wavs[i, :inner], alone[:inner])


def test_labels_are_repeated_with_the_utterances():
    batch = augmented(speeds(90, concat_original=True))
    assert len(batch.sig.data) == 2 * len(SAMPLES)
    (wavs, lengths), (tokens, counts) = batch.sig, batch.tokens
    found = (lengths * wavs.shape[1]).round().long().tolist()
    wanted = [*SAMPLES, *(math.ceil(n * 100 / 90) for n in SAMPLES)]
    assert found == pytest.approx(wanted, abs=1.01)
    assert tokens.tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3]] * 2
    assert counts.tolist() == pytest.approx([1 / 3, 2 / 3, 1] * 2)


def test_a_speed_of_100_changes_nothing():
    batch = augmented(speeds(100))
    assert torch.equal(batch.sig.data, batch_of(*SAMPLES).sig.data)


# -------------------------------------------------------------------------- randomness


@pytest.fixture
def noisy(tmp_path):
    """A factory of augmenters that draw from Python, NumPy, PyTorch and files."""
    for kind, seconds in (("noise", 1.5), ("reverb", 0.02)):
        lines = ["ID,duration,wav,wav_format,wav_opts"]
        for i in range(20):
            path = tmp_path / f"{kind}{i}.wav"
            samples = np.random.default_rng(i).normal(0, 0.1, int(8000 * seconds))
            soundfile.write(path, samples, 8000)
            lines.append(f"{i},{seconds},{path},wav,")
        (tmp_path / f"{kind}.csv").write_text("\n".join(lines))
    rates = {"clean_sample_rate": 8000}

    def make(module=augmentation):
        noise = module.AddNoise(
            tmp_path / "noise.csv", snr_high=10, noise_sample_rate=8000, **rates
        )
        reverb = module.AddReverb(
            tmp_path / "reverb.csv", reverb_sample_rate=8000, **rates
        )
        perturb = SpeedPerturb(8000, [90, 95, 100, 105, 110])
        return Augmenter(
            augmentations=[perturb, noise, reverb],
            min_augmentations=2,
            shuffle_augmentations=True,
        )

    return make


def test_it_is_a_function_of_seed_step_and_batch(noisy):
    """Whatever was augmented before; other random numbers stay as they are."""
    wanted = [augmented(noisy(), step).sig for step in range(6)]
    one = WaveformAugmentation(noisy(), seed=1)
    for step in (4, 1, 5, 0, 3, 2):
        one(batch_of(999), step)  # a batch of another size comes first
        batch = batch_of(*SAMPLES)
        torch.manual_seed(7)
        random.seed(7)
        one(batch, step)
        drawn = torch.rand(1), random.random()
        torch.manual_seed(7)
        random.seed(7)
        assert (torch.rand(1), random.random()) == drawn
        assert all(map(torch.equal, batch.sig, wanted[step]))
    others = [augmented(noisy(), 0, seed=2).sig, *wanted[1:]]
    for other in others:
        same = other.data.shape == wanted[0].data.shape
        assert not same or not torch.equal(other.data, wanted[0].data)


@pytest.mark.parametrize("name", ["AddNoise", "AddReverb"])
def test_files_in_an_order_are_refused(noisy, name):
    stock = noisy(time_domain).augmentations
    kept = [m for m in stock.values() if type(m).__name__ == name]
    with pytest.raises(InputError, match=rf"wav_augment: .*{name} reads .*{name}, wh"):
        WaveformAugmentation(Augmenter(augmentations=kept), 1)


@pytest.mark.parametrize("name", ["AddNoise", "AddReverb"])
def test_a_file_that_cannot_be_used_is_named(name, tmp_path):
    kind, path = getattr(augmentation, name), tmp_path / "noise.csv"
    with pytest.raises(InputError, match=f"^{name}: {path}: no such file"):
        kind(path)
    path.write_text("ID,duration,wav\n")
    with pytest.raises(InputError, match=f"{path}: no column wav_format, wav_opts$"):
        kind(path)
    path.write_text("ID, duration, wav, wav_format, wav_opts\n")
    kind(path)


def test_white_noise_is_not_refused():
    augmented(Augmenter(augmentations=[time_domain.AddNoise()]))


def test_ranks_and_workers_have_the_same_batches(sample, noisy):
    rows, before = sample("train", ["en", "es"]), torch.get_num_threads()
    rows = rows.subset([i for i in range(len(rows)) if rows.duration[i] < 1.5])

    def utterances():
        augment = WaveformAugmentation(noisy(), seed=1)
        return Utterances(rows, 8000, augment=augment)

    plan = make_plan(rows, 1, global_batch_seconds=8, replicas_per_domain=2)
    torch.set_num_threads(2)  # a worker has one
    try:
        alone = [*train_loader(utterances(), plan)]
    finally:
        torch.set_num_threads(before)
    assert len(alone) >= 2
    signals = [
        {part.unit: part.batches[0].sig for part in global_batch}
        for global_batch in alone
    ]
    with_workers = [*train_loader(utterances(), plan, num_workers=2)]
    of_ranks = [
        [GlobalBatches(utterances(), plan, rank, 2)[t][0] for t in range(len(alone))]
        for rank in (1, 0)
    ]
    for run in (with_workers, *of_ranks):
        for wanted, global_batch in zip(signals, run):
            for part in global_batch:
                found = part.batches[0].sig
                assert all(map(torch.equal, found, wanted[part.unit])), part.unit

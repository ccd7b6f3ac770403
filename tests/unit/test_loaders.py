"""Audio as in the manifest, batches that depend on t alone, and bad audio reported."""

import logging
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from speechbrain.dataio.batch import PaddedBatch

from hetero_brain import DomainBatch
from hetero_brain.data import manifest
from hetero_brain.data.audio import BadAudio, read_audio
from hetero_brain.data.audited_loader import AuditedLoader
from hetero_brain.data.datasets import DevBatches, GlobalBatches, Utterances
from hetero_brain.data.loaders import EpochSampler, dev_loader, make_plan, train_loader
from hetero_brain.data.resampling import resampler
from hetero_brain.data.splits import labelled
from hetero_brain.errors import InputError
from hetero_brain.models.frame_count import FrameCount
from hetero_brain.objectives.masking import MaskDrawer

RATE = 8000


def tone(seconds, rate=RATE, hertz=200.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def row_of(path, seconds, start=None, stop=None):
    return {"wav": str(path), "duration": seconds, "start": start, "stop": stop}


# ------------------------------------------------------------------------ read_audio


@pytest.fixture
def ramp(tmp_path):
    """Two seconds in which every sample tells its place."""
    samples = (np.arange(2 * RATE) + 1).astype("int16")
    soundfile.write(tmp_path / "ramp.wav", samples, RATE)
    return tmp_path / "ramp.wav"


def places(signal):
    return (signal * 32768 - 1).round().long().tolist()


def test_a_whole_file(ramp):
    signal = read_audio(row_of(ramp, 2.0), RATE)
    assert signal.dtype == torch.float32 and places(signal) == list(range(2 * RATE))


def test_a_segment(ramp):
    signal = read_audio(row_of(ramp, 0.25, 3000, 5000), RATE)
    assert places(signal) == list(range(3000, 5000))


def test_channels_are_averaged(tmp_path):
    left, right = tone(0.5), tone(0.5, hertz=310)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, "FLOAT")
    signal = read_audio(row_of(tmp_path / "a.wav", 0.5), RATE)
    np.testing.assert_allclose(signal, (left + right) / 2, atol=1e-6)


def test_the_channel_of_the_row_is_read(tmp_path):
    both = np.stack([tone(0.5), tone(0.5, hertz=310)], 1)
    soundfile.write(tmp_path / "a.wav", both, RATE, "FLOAT")
    row = row_of(tmp_path / "a.wav", 0.25, 1000, 3000)
    for channel in (0, 1):
        signal = read_audio({**row, "channel": channel}, RATE)
        np.testing.assert_allclose(signal, both[1000:3000, channel], atol=1e-6)
    average = read_audio({**row, "channel": None}, RATE)
    np.testing.assert_allclose(average, both[1000:3000].mean(axis=1), atol=1e-6)
    with pytest.raises(BadAudio, match="a.wav: no channel 2, there are 2"):
        read_audio({**row, "channel": 2}, RATE)


def test_a_silent_channel_is_bad_though_the_other_is_not(tmp_path):
    both = np.stack([tone(0.5), np.zeros(RATE // 2)], 1)
    soundfile.write(tmp_path / "bad.wav", both, RATE, "FLOAT")
    with pytest.raises(BadAudio, match="bad.wav: silent"):
        read_audio({**row_of(tmp_path / "bad.wav", 0.5), "channel": 1}, RATE)


@pytest.mark.parametrize("rate", [16000, 11025, 48000, 12000, 6000])
def test_other_rates_are_resampled(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate)
    signal = read_audio(row_of(tmp_path / "a.wav", 1.0), RATE)
    assert len(signal) == RATE
    original = torch.from_numpy(soundfile.read(tmp_path / "a.wav", dtype="float32")[0])
    expected = torchaudio.functional.resample(original, rate, RATE)
    torch.testing.assert_close(signal, expected, rtol=0, atol=1e-6)
    assert resampler(rate, RATE) is resampler(rate, RATE)  # made once
    inner = slice(200, -200)
    np.testing.assert_allclose(signal[inner], tone(1.0)[inner], atol=5e-3)


def test_start_and_stop_are_samples_of_the_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0, 16000), 16000)
    signal = read_audio(row_of(tmp_path / "a.wav", 0.5, 4000, 12000), RATE)
    assert len(signal) == 4000
    inner = slice(200, -200)
    np.testing.assert_allclose(signal[inner], tone(1.0)[2000:6000][inner], atol=5e-3)


@pytest.mark.parametrize("start, stop", [(None, None), (1000, 9000)])
def test_a_longer_recording_gives_a_window(ramp, start, stop):
    row = row_of(ramp, 2.0 if stop is None else 1.0, start, stop)
    first, last = start or 0, stop or 2 * RATE
    begins = []
    for seed in range(40):
        signal = read_audio(row, RATE, 0.5, np.random.default_rng(seed))
        found = places(signal)
        assert found == list(range(found[0], found[0] + RATE // 2))
        begins.append(found[0])
    assert min(begins) >= first and max(begins) + RATE // 2 <= last
    # drawn from all of it
    assert min(begins) < first + 900 and max(begins) + RATE // 2 > last - 900
    again = read_audio(row, RATE, 0.5, np.random.default_rng(0))
    assert places(again)[0] == begins[0]


def test_the_last_window_can_be_drawn(ramp):
    """A recording one sample too long has two windows."""
    row = row_of(ramp, 2.0, 0, 4001)
    begins = {
        places(read_audio(row, RATE, 0.5, np.random.default_rng(seed)))[0]
        for seed in range(20)
    }
    assert begins == {0, 1}


def test_a_recording_that_is_short_enough_draws_nothing(ramp):
    assert len(read_audio(row_of(ramp, 2.0), RATE, max_seconds=2.0)) == 2 * RATE


def gone(path):
    path.unlink()


def empty_file(path):
    path.write_bytes(b"")


def no_samples(path):
    soundfile.write(path, np.zeros(0), RATE)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: 44 + RATE])  # half of its 16-bit samples


def silent(path):
    soundfile.write(path, np.zeros(RATE), RATE)


def text(path):
    path.write_text("Not Found\n" * 1000)


def not_finite(path):
    soundfile.write(path, np.full(RATE, np.nan), RATE, "FLOAT")


DAMAGES = [gone, empty_file, no_samples, cut_short, silent, text, not_finite]


@pytest.mark.parametrize("spoil", DAMAGES)
def test_bad_audio_is_named(tmp_path, spoil):
    path = tmp_path / "bad.wav"
    soundfile.write(path, tone(1.0), RATE)
    assert len(read_audio(row_of(path, 1.0), RATE)) == RATE
    spoil(path)
    with pytest.raises(BadAudio, match="bad.wav: ."):
        read_audio(row_of(path, 1.0), RATE)


@pytest.mark.parametrize("start, stop", [(7000, 9000), (9000, 10000)])
def test_a_segment_behind_the_end_is_bad(tmp_path, start, stop):
    soundfile.write(tmp_path / "bad.wav", tone(1.0), RATE)
    with pytest.raises(BadAudio, match="bad.wav: .* samples where the manifest has"):
        read_audio(row_of(tmp_path / "bad.wav", 0.25, start, stop), RATE)


def test_a_duration_that_is_nearly_right_will_do(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0), RATE)
    assert len(read_audio(row_of(tmp_path / "a.wav", 1.1), RATE)) == RATE
    assert len(read_audio(row_of(tmp_path / "a.wav", 0.95), RATE)) == 0.95 * RATE


# -------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixty recordings of two domains, 0.2 s to 0.8 s; every third has no words."""
    folder = tmp_path_factory.mktemp("corpus")
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        seconds = round(float(rng.uniform(0.2, 0.8)), 3)
        soundfile.write(folder / f"{i}.wav", tone(seconds, hertz=100 + 7 * i), RATE)
        row = {"ID": f"u{i}", "duration": seconds, "wav": f"{{data_root}}/{i}.wav"}
        row |= {"domain": "fr" if i % 3 else "en", "wrd": f"word {i}" if i % 4 else ""}
        rows.append(row)
    manifest.write(folder / "train.csv", rows)
    return folder


@pytest.fixture
def spoilt(corpus, tmp_path):
    """A copy of the corpus, to be spoiled."""
    return shutil.copytree(corpus, tmp_path / "spoilt")


def load(folder, tokenizer=None, max_seconds=None, **plan):
    rows = manifest.read(folder / "train.csv", folder)
    utterances = Utterances(rows, RATE, tokenizer, max_seconds, seed=3)
    return utterances, make_plan(rows, 3, **{"global_batch_seconds": 4.0} | plan)


def plain(parts):
    """A global batch in a form that compares by value."""
    return [
        (
            part.domain,
            [
                (b.id, b.domain, b.wrd, b.sig.data.tolist(), b.sig.lengths.tolist())
                for b in part.batches
            ],
        )
        for part in parts
    ]


def test_items_are_global_batches_of_padded_batches(corpus):
    utterances, plan = load(corpus, tokenizer=lambda words: list(words.encode()))
    parts, problems, n_rows = GlobalBatches(utterances, plan)[0]
    assert not problems
    assert [part.domain for part in parts] == ["en", "fr"]
    assert n_rows == sum(len(b.id) for part in parts for b in part.batches)
    for part, (domain, (rows,)) in zip(parts, plan[0]):
        assert isinstance(part, DomainBatch) and part.domain == domain
        (batch,) = part.batches
        assert isinstance(batch, PaddedBatch)
        assert batch.id == [utterances.manifest[int(row)]["ID"] for row in rows]
        assert set(batch.domain) == {domain}
        for i, row in enumerate(rows):
            row = utterances.manifest[int(row)]
            signal = batch.sig.data[
                i, : round(float(batch.sig.lengths[i]) * batch.sig.data.shape[1])
            ]
            assert torch.equal(signal, read_audio(row, RATE))
            assert batch.wrd[i] == row["wrd"]
            tokens = batch.tokens.data[i, : len(row["wrd"])]
            assert bytes(tokens.int().tolist()).decode() == row["wrd"]


def test_a_global_batch_depends_on_t_alone(corpus):
    def fresh():
        return GlobalBatches(*load(corpus, max_seconds=0.4))

    expected = [plain(fresh()[t][0]) for t in range(8)]
    other = fresh()
    for t in (5, 0, 7, 5, 3):
        assert plain(other[t][0]) == expected[t]
    assert all(a != b for a, b in zip(expected, expected[1:]))


def test_windows_are_drawn_anew_in_another_epoch(corpus):
    utterances, plan = load(corpus, max_seconds=0.3)
    batches, windows = GlobalBatches(utterances, plan), {}
    for t in range(2 * plan.steps_per_epoch):
        for part in batches[t][0]:
            for key, signal in zip(part.batches[0].id, part.batches[0].sig.data):
                windows.setdefault(key, []).append(signal)
    durations = {row["ID"]: row["duration"] for row in utterances.manifest}
    twice = [w for key, w in windows.items() if len(w) == 2 and durations[key] > 0.4]
    other = [not torch.equal(first, second) for first, second in twice]
    assert len(twice) > 10 and sum(other) > 0.8 * len(other)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_gives_the_plan_from_any_iteration(corpus, num_workers):
    utterances, plan = load(corpus, max_seconds=0.4)
    n = plan.steps_per_epoch
    assert n > 3
    batches = GlobalBatches(*load(corpus, max_seconds=0.4))
    loader = train_loader(utterances, plan, num_workers, drawer=DRAWER)
    assert len(loader) == n
    loader.sampler.start_at(n + 2)  # in the middle of the second epoch
    items, steps = list(loader), range(n + 2, 2 * n)
    assert [plain(parts) for parts in items] == [plain(batches[t][0]) for t in steps]
    for parts, t in zip(items, steps):
        assert_drawn(parts, t)
    loader.sampler.start_at(0)
    assert [plain(parts) for parts in loader] == [
        plain(batches[t][0]) for t in range(n)
    ]


DRAWER = MaskDrawer(3, FrameCount(((1, 80),)), mask_prob=0.3, mask_span=2)


def assert_drawn(parts, iteration):
    """The batches came with what is drawn for them."""
    for batch in (batch for part in parts for batch in part.batches):
        key, (n_frames, masked) = batch.drawn_ahead
        expected = DRAWER(batch, iteration)
        assert key == (DRAWER, iteration) and n_frames == expected[0]
        assert torch.equal(masked, expected[1]) and len(masked)


def test_batches_of_a_validation_come_with_what_is_drawn(corpus):
    utterances, _ = load(corpus)
    parts = list(dev_loader(utterances, 3.0, drawer=DRAWER))
    assert parts
    assert_drawn(parts, -1)


def test_epoch_sampler():
    sampler = EpochSampler(4)
    assert list(sampler) == [0, 1, 2, 3]
    sampler.start_at(6)
    assert list(sampler) == [6, 7]
    sampler.start_at(8)
    assert list(sampler) == [8, 9, 10, 11]


def test_fresh_batches_for_every_local_step(corpus):
    batches = GlobalBatches(*load(corpus, batches_per_iteration=2))
    for t in range(2):
        for part in batches[t][0]:
            first, second = part.batches
            assert not set(first.id) & set(second.id)


# -------------------------------------------------------------------------- bad audio


def spoil(folder, *numbers):
    for i, number in enumerate(numbers):
        DAMAGES[1 + i % (len(DAMAGES) - 1)](folder / f"{number}.wav")


def test_bad_files_are_left_out_counted_and_warned_of_once(spoilt, caplog):
    utterances, plan = load(spoilt)
    spoil(spoilt, 0, 1)
    loader = train_loader(utterances, plan, max_bad_audio_fraction=0.2)
    with caplog.at_level(logging.WARNING, "hetero_brain.data.audited_loader"):
        for epoch in range(3):
            loader.sampler.start_at(epoch * plan.steps_per_epoch)
            seen = {
                i for parts in loader for p in parts for b in p.batches for i in b.id
            }
            assert seen and not seen & {"u0", "u1"}
    warned = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(warned) == 2
    # Each of three epochs counts, so that a longer run is no more lenient.
    assert (loader.bad, loader.rows) == (3 * 2, 3 * 60)
    for number in (0, 1):
        (message,) = [m for m in warned if f"{number}.wav" in m]
        assert f"train.csv, u{number}: " in message


def test_too_many_bad_files_stop_the_run_and_are_named_once(spoilt, caplog):
    utterances, plan = load(spoilt)
    for number in range(1, 13):
        gone(spoilt / f"{number}.wav")
    seen = dev_loader(utterances, 2.0, max_bad_audio_fraction=0.2)
    assert sum(len(part.batches[0].id) for part in seen) == 48  # 12 of 60 are 20 %
    caplog.clear()
    with pytest.raises(InputError) as error:
        list(dev_loader(utterances, 2.0, max_bad_audio_fraction=0.19))
    for words in ("12 of 60", "max_bad_audio_fraction: 0.19", "such as"):
        assert words in str(error.value)
    named = [f"/{number}.wav: " for number in range(1, 13)]
    assert sum(name in str(error.value) for name in named) == 1  # an example
    for name in named:
        assert sum(name in message for message in caplog.messages) == 1


def test_a_few_bad_files_do_not_stop_a_small_run(spoilt):
    utterances, _ = load(spoilt)
    for number in range(9):
        gone(spoilt / f"{number}.wav")
    loader = dev_loader(utterances, 2.0)  # 1 %
    for _ in range(3):  # the same nine files, however often they are read
        assert sum(len(part.batches[0].id) for part in loader) == 51
    gone(spoilt / "9.wav")
    with pytest.raises(InputError, match="recordings read could not be used"):
        list(loader)


def test_a_run_without_any_good_file_stops(spoilt):
    utterances, _ = load(spoilt)
    few = Utterances(utterances.manifest.subset([0, 1, 2]), RATE)
    for number in range(3):
        gone(spoilt / f"{number}.wav")
    with pytest.raises(InputError, match="3 of 3"):
        list(dev_loader(few, 2.0))


def test_too_many_bad_files_stop_the_run_once_there_are_100_rows():
    parts, bad = [DomainBatch("en", ("a batch",))], [*"abcdefghij"]
    items = [(parts, bad, 99), (parts, [], 1), (parts, [], 1)]
    passed = []
    with pytest.raises(InputError, match="10 of 100"):
        passed.extend(AuditedLoader(items, max_bad_audio_fraction=0.05))
    assert passed == [parts]
    assert list(AuditedLoader(items, max_bad_audio_fraction=0.1)) == [parts] * 3


@pytest.mark.parametrize("first, stops", [(10, True), (11, False)])
def test_a_run_stops_at_once_if_none_of_its_first_ten_rows_is_usable(first, stops):
    """A run in debug mode reads no more than a few."""
    parts = [DomainBatch("en", ("a batch",))]
    loader = iter(AuditedLoader([([], [*"abcdefghij"], first), (parts, [], 500)]))
    with pytest.raises(InputError, match="10 of 10") if stops else nullcontext():
        assert next(loader) == []


def test_a_domain_with_nothing_but_bad_rows_is_left_out(spoilt):
    utterances, plan = load(spoilt)
    (_, (rows,)), _ = plan[0]
    for row in rows:
        gone(spoilt / f"{utterances.manifest[int(row)]['ID'][1:]}.wav")
    parts, problems, n_rows = GlobalBatches(utterances, plan)[0]
    assert [part.domain for part in parts] == ["fr"]
    assert len(problems) == len(rows) < n_rows


def test_an_iteration_with_nothing_at_all_counts(spoilt):
    utterances, plan = load(spoilt)
    for _, (rows,) in plan[0]:
        for row in rows:
            gone(spoilt / f"{utterances.manifest[int(row)]['ID'][1:]}.wav")
    loader = train_loader(utterances, plan, max_bad_audio_fraction=1.0)
    assert [len(parts) for parts in loader] == [0] + [2] * (plan.steps_per_epoch - 1)


# -------------------------------------------------------------------------------- dev


@pytest.mark.parametrize("batch_seconds", [0.1, 1.5, 3.0, 1000.0])
def test_dev_batches_cover_all_once_one_domain_each(corpus, batch_seconds):
    utterances, _ = load(corpus)
    batches, seen = DevBatches(utterances, batch_seconds), []
    for i in range(len(batches)):
        (part,), problems, n_rows = batches[i]
        (batch,) = part.batches
        assert not problems and n_rows == len(batch.id)
        assert set(batch.domain) == {part.domain}
        padded = batch.sig.data.numel() / RATE
        assert padded <= batch_seconds + 1e-3 or len(batch.id) == 1
        seen += batch.id
    assert sorted(seen) == sorted(f"u{i}" for i in range(60))
    if batch_seconds == 1000.0:
        assert len(batches) == 2
    if batch_seconds == 3.0:
        assert len(batches) < 20


def test_dev_loader_gives_single_parts(corpus):
    utterances, _ = load(corpus)
    parts = list(dev_loader(utterances, 3.0))
    assert all(isinstance(part, DomainBatch) for part in parts)
    assert sum(len(part.batches[0].id) for part in parts) == 60


# ----------------------------------------------------------------- subset and labels


def test_subset(corpus):
    rows = manifest.read(corpus / "train.csv", corpus)
    some = rows.subset([7, 2, 2])
    assert len(some) == 3 and some.domains == rows.domains
    assert [row["ID"] for row in some] == ["u7", "u2", "u2"]
    assert some[0] == rows[7]
    assert some.duration.tolist() == rows.duration[[7, 2, 2]].tolist()
    assert some.domain.tolist() == rows.domain[[7, 2, 2]].tolist()
    assert len(rows) == 60 and len(rows.subset([])) == 0


def ids(rows):
    return {row["ID"] for row in rows}


def test_a_dev_set_without_rows(corpus):
    rows = manifest.read(corpus / "train.csv", corpus)
    assert list(dev_loader(Utterances(rows.subset([]), RATE), 60)) == []


def test_labelled_skips_the_untranscribed(corpus):
    rows = manifest.read(corpus / "train.csv", corpus)
    assert ids(labelled(rows, seed=1)) == {f"u{i}" for i in range(60) if i % 4}


@pytest.mark.parametrize("seed", range(5))
def test_labelled_keeps_to_its_hours_and_nests(corpus, seed):
    rows = manifest.read(corpus / "train.csv", corpus)
    kept = {cap: labelled(rows, seed, cap / 3600) for cap in np.arange(1.0, 12.0, 0.5)}
    for cap, some in kept.items():
        seconds = np.bincount(some.domain, some.duration)
        assert (seconds <= cap + 1e-6).all()
        assert cap > 6 or (seconds > cap - 0.8).all()  # no more than one is missing
        assert all(row["wrd"] for row in some)
    for smaller, larger in zip(kept, list(kept)[1:]):
        assert ids(kept[smaller]) <= ids(kept[larger])
    assert ids(labelled(rows, seed, 3 / 3600)) == ids(kept[3.0])


def test_labelled_draws_by_its_seed(corpus):
    rows = manifest.read(corpus / "train.csv", corpus)
    assert ids(labelled(rows, 1, 3 / 3600)) != ids(labelled(rows, 2, 3 / 3600))


def test_a_domain_without_labels_is_named(spoilt):
    path = spoilt / "train.csv"
    rows = [
        row | {"wrd": ""} if row["domain"] == "en" else row
        for row in manifest.read(path, spoilt)
    ]
    manifest.write(path, rows)
    with pytest.raises(ValueError, match=r"train.csv.*\['en'\]"):
        labelled(manifest.read(path, spoilt), seed=1)
    with pytest.raises(ValueError, match=r"\['en', 'fr'\].*max_finetune_hours: 2e-06"):
        labelled(manifest.read(path, spoilt), 1, max_finetune_hours=2e-6)


def test_labelled_takes_hours_by_domain(corpus):
    rows = manifest.read(corpus / "train.csv", corpus)
    some = labelled(rows, 1, {"fr": 3 / 3600})
    for domain, cap in (("en", None), ("fr", 3 / 3600)):
        i = rows.domains.index(domain)
        wanted = labelled(rows, 1, cap)
        assert ids(some.subset(np.flatnonzero(some.domain == i))) == ids(
            wanted.subset(np.flatnonzero(wanted.domain == i))
        )

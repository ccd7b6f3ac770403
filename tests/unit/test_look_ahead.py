"""What is logged before a run trains, and what of its settings does not suit its data."""

import logging
import re
from functools import partial

import numpy as np
import pytest
import soundfile

from hetero_brain.data import manifest
from hetero_brain.data.plan import Plan
from hetero_brain.errors import InputError
from hetero_brain.pipelines import look_ahead as module
from hetero_brain.pipelines.look_ahead import (
    Length,
    Pace,
    doubts,
    equally_long,
    in_words,
    long_recordings,
    look_ahead,
)
from hetero_brain.pipelines.phases import alternation
from hetero_brain.pipelines.rounds import run_phases
from hetero_brain.pipelines.sampled_headers import (
    resampling,
    sampled_headers,
    sampled_rates,
)
from tests.unit.test_rounds import CSSL, PTLOC, Toy, loader, make_hparams


def plan_of(durations, seconds):
    """A plan of one domain."""
    which = np.zeros(len(durations), dtype=int)
    return Plan(durations, which, ["en"], global_batch_seconds=seconds, seed=1)


def doubts_about(durations, seconds, *phases):
    plan = plan_of(durations, seconds)
    return [*doubts(plan.summary(), plan.steps_per_epoch, phases)]


EVEN = [2.0] * 200  # 400 s


def test_settings_that_suit_the_data():
    assert doubts_about(EVEN, 10, Length("CSSL.1", 5, 100)) == []


def test_a_single_iteration_an_epoch():
    (doubt,) = doubts_about(EVEN, 400)
    assert "single iteration: lower global_batch_seconds to 16 or less" in doubt
    assert doubts_about(EVEN, 200) == []


def test_padding():
    lengths = np.tile([1.0, 20.0], 20)
    doubts = doubts_about(lengths, 140)  # three batches
    (doubt,) = (each for each in doubts if "padding" in each)
    padding = plan_of(lengths, 140).summary()["en"]["padding"]
    assert padding > 0.2
    assert f"en: {padding:.0%} of its 3 batches" in doubt
    assert "global_batch_seconds to 17 or less" in doubt
    assert "max_utterance_seconds" in doubt
    assert doubts_about(np.tile([1.0, 1.2], 20), 14) == []


def test_recordings_that_are_hardly_read():
    durations = np.float32([48, 600, 5])
    assert [*long_recordings(durations, np.inf)] == []
    (told,) = long_recordings(durations, 12)
    assert told.startswith(
        "1 recording, 0.17 h, is more than 4 times as long as max_utt"
    )
    assert "reads 12 s of it; " in told and "split it by start and stop" in told
    (told,) = long_recordings(np.tile(durations, 2), 10)
    assert told.startswith("4 recordings, 0.36 h, are") and "10 s of each; " in told


def test_phases_of_a_length_are_named_together_in_their_order():
    lengths = ("CSSL.1", 34, 100), ("PTLOC.1", 9, 100), ("CSSL.2", 34, 100)
    assert [*equally_long([Length(*each) for each in lengths])] == [
        ("CSSL.1, CSSL.2", 34, 100),
        ("PTLOC.1", 9, 100),
    ]


@pytest.mark.parametrize(
    "warmup, said", [(100, None), (101, "more than half of"), (201, "longer than all")]
)
def test_a_warmup_that_is_long_for_the_phase(warmup, said):
    phases = [Length("CSSL.1", 5, warmup), Length("PTLOC.1", 50, 100)]
    doubts = doubts_about(EVEN, 10, *phases, Length("CSSL.2", 5, warmup))
    assert len(doubts) == (said is not None)
    if said:  # in all phases of a kind, once
        assert doubts[0].startswith(f"CSSL.1, CSSL.2: warmup_iterations is {warmup}")
        assert said in doubts[0] and "200 iterations of 5 epochs" in doubts[0]
        assert "to 20 for a tenth" in doubts[0]


# --------------------------------------------------------------------------- headers

SETTINGS = {"global_batch_seconds": 18, "seed": 1}


@pytest.fixture
def rows(tmp_path):
    """Three domains; the recordings of one have different rates, one is not audio."""
    rates = {"a": [8000, 8000, 48000], "b": [16000], "c": [None]}
    rows = []
    for domain, of_domain in rates.items():
        for i, rate in enumerate(of_domain):
            name = f"{domain}{i}.wav"
            if rate is None:
                (tmp_path / name).write_bytes(b"no audio")
            else:
                soundfile.write(tmp_path / name, np.zeros(18 * rate // 5), rate)
            row = {"ID": name, "duration": 3.6, "domain": domain}
            rows.append({**row, "wav": f"{{data_root}}/{name}"})
    manifest.write(tmp_path / "train.csv", rows)
    return manifest.read(tmp_path / "train.csv", tmp_path)


def test_hours_of_each_sample_rate(rows):
    rates = sampled_rates(sampled_headers(rows), rows)
    assert rates["a"] == pytest.approx({8000: 0.002, 48000: 0.001})
    assert rates["b"] == pytest.approx({16000: 0.001})
    assert rates["c"] == {}


def test_a_sample_of_the_headers_is_read(rows, monkeypatch):
    opened = []
    info = soundfile.info
    monkeypatch.setattr("hetero_brain.pipelines.sampled_headers.FILES", 2)
    monkeypatch.setattr(soundfile, "info", lambda p: opened.append(p) or info(p))
    rates = sampled_rates(sampled_headers(rows), rows)
    assert len(opened) == 4  # of a two, of b and c all
    assert sum(rates["a"].values()) == pytest.approx(0.003)  # of all three


def test_what_resampling_costs(rows):
    above, below = resampling(sampled_rates(sampled_headers(rows), rows), 16000)
    assert above.startswith(
        "About 0.001 h are sampled above the model's sample_rate of 16"
    )
    assert "(a 48 kHz)" in above and "above 8 kHz is thrown away" in above
    assert below.startswith(
        "About 0.002 h are sampled below the model's sample_rate of 16"
    )
    assert "(a 8 kHz)" in below
    assert [*resampling({"en": {16000: 3.0}}, 16000)] == []
    (many,) = resampling({"en": {44100: 350.2}}, 16000)
    assert many.startswith("About 350 h are sampled above")


def test_what_is_logged(rows, caplog):
    caplog.set_level(logging.INFO)
    plan = Plan(rows.duration, rows.domain, rows.domains, **SETTINGS)
    look_ahead(plan, rows, 16000, [Length("CSSL.1", 3, 1), Length("PTLOC.1", 2, 1)])
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    text = "\n".join(levels)
    assert "train.csv: 1 iteration an epoch, over 0.005 h with 0% padding" in text
    assert "CSSL.1: 3 epochs, 3 iterations, 1 of them of warm-up" in text
    assert re.search(r"^domain +hours .*padding\na +0.003 .*0%\nb ", text, re.M)
    assert "sampled above" in text and "sampled below" in text
    warnings = [line for line, level in levels.items() if level == "WARNING"]
    assert len(warnings) == 1 and "single iteration" in warnings[0]


def test_durations_in_another_unit_are_refused(rows, tmp_path):
    wrong = [
        {**row, "duration": (1000 if row["domain"] == "a" else 1) * row["duration"]}
        for row in rows
    ]
    manifest.write(tmp_path / "ms.csv", wrong)
    wrong = manifest.read(tmp_path / "ms.csv", tmp_path)
    plan = Plan(wrong.duration, wrong.domain, wrong.domains, **SETTINGS)
    said = (
        "ms.csv: the durations of a are about 1000 times the length .* row a[012].wav"
    )
    with pytest.raises(InputError, match=said):
        look_ahead(plan, wrong, 16000, [])


def test_a_long_recording_is_told_of(rows, caplog):
    plan = Plan(
        rows.duration, rows.domain, rows.domains, **SETTINGS, max_utterance_seconds=0.5
    )
    look_ahead(plan, rows, 16000, [])
    assert any("5 recordings, 0.005 h, are" in line for line in caplog.messages)


# ------------------------------------------------------------------------------ time


@pytest.mark.parametrize(
    "seconds, words",
    [(0.4, "0 s"), (42, "42 s"), (75, "1 min"), (3590, "1 h 0 min")],
)
def test_a_duration_in_words(seconds, words):
    assert in_words(seconds) == words


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by seconds that the test gives."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return partial(now.__setitem__, 0), lambda: now[0]


def test_the_time_is_estimated_once(clock, caplog):
    caplog.set_level(logging.INFO)
    set_clock, read_clock = clock
    pace = Pace("PTLOC.1", 6000)
    for iteration in range(1001, 1101):  # goes on from a checkpoint
        set_clock(read_clock() + (30.0 if iteration <= 1005 else 2.0))
        pace.tick(iteration)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "about 2 h 46 min left for PTLOC.1: 4980 more iterations"
    )
    assert "2 s each" in record.getMessage()


@pytest.mark.parametrize("n_epochs, said", [(8, ["CSSL.1"]), (6, [])])
def test_phases_say_how_long_they_take(tmp_path, caplog, n_epochs, said):
    """At three iterations an epoch."""
    caplog.set_level(logging.INFO)
    phases = alternation(1, {**CSSL, "epochs": n_epochs}, PTLOC)
    options = {"device": "cpu", "noprogressbar": True}
    run_phases(make_hparams(tmp_path, phases=phases), options, Toy, loader())
    lines = [record.getMessage() for record in caplog.records]
    lines = [line for line in lines if "not counting validations" in line]
    assert [line.split(" for ")[1].split(":")[0] for line in lines] == said
    assert all(": 4 more iterations of" in line for line in lines)

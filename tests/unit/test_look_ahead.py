"""What is logged before a run trains."""

import logging
import re
from functools import partial

import numpy as np
import pytest
import soundfile
from speechbrain.utils.run_opts import RunOptions

from hetero_brain.data import manifest
from hetero_brain.data.plan import Plan
from hetero_brain.errors import InputError
from hetero_brain.pipelines import look_ahead as module
from hetero_brain.pipelines.look_ahead import (
    Length,
    Pace,
    in_words,
    look_ahead,
)
from hetero_brain.pipelines.phases import alternation
from hetero_brain.pipelines.rounds import run_phases
from hetero_brain.pipelines.sampled_headers import (
    refuse_impossible,
    resampling,
    sampled_headers,
    sampled_rates,
)
from tests.unit.test_rounds import CSSL, PTLOC, Toy, loader, make_hparams

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


@pytest.mark.parametrize(
    "given, said",
    [
        (
            {},
            "each has 2 epochs of 1 iteration, and validates on no more than 2 batches",
        ),
        ({"debug_epochs": 0}, "each has all epochs of 1 iteration"),
        (
            {"debug_epochs": 1, "debug_batches": 1},
            "1 epoch of 1 iteration, and .* 1 bat",
        ),
    ],
)
def test_debug_mode_says_what_it_runs(rows, caplog, given, said):
    caplog.set_level(logging.INFO)
    plan = Plan(rows.duration, rows.domain, rows.domains, **SETTINGS)
    for debug in (True, False):
        caplog.clear()
        run_opts = RunOptions(debug=debug, **given)
        look_ahead(plan, rows, 16000, [Length("CSSL.1", 3, 1)], run_opts)
        assert bool(re.search(f"--debug: instead, .*{said}", caplog.text)) == debug


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


def retimed(rows, folder, factor):
    """A manifest of the rows whose durations in domain a are ``factor`` times as long."""
    wrong = [
        {**row, "duration": (factor if row["domain"] == "a" else 1) * row["duration"]}
        for row in rows
    ]
    manifest.write(folder / "retimed.csv", wrong)
    return manifest.read(folder / "retimed.csv", folder)


def test_durations_that_leave_out_most_of_a_domain_are_refused(rows, tmp_path):
    wrong = retimed(rows, tmp_path, 2)
    plan = Plan(wrong.duration, wrong.domain, wrong.domains, **SETTINGS)
    said = (
        "retimed.csv: the durations of a are about 2 times the length of its files, as "
        "in row a1.wav, 7.2 s, whose file has 3.6 s, .* computed with another sample rate"
    )
    with pytest.raises(InputError, match=said):
        look_ahead(plan, wrong, 16000, [])


def test_durations_are_judged_by_the_whole_file_where_a_header_is_wrong(
    rows, tmp_path, monkeypatch
):
    """As of an mp3 whose length libsndfile can only guess."""
    right = retimed(rows, tmp_path, 1)
    info = soundfile.info

    def guess(path):
        found = info(path)
        found.duration /= 3
        return found

    monkeypatch.setattr(soundfile, "info", guess)
    refuse_impossible(sampled_headers(right), right)


@pytest.mark.parametrize("factor", [1.1, 0.2])
def test_durations_that_can_be_read_are_taken(rows, tmp_path, factor):
    nearly = retimed(rows, tmp_path, factor)
    refuse_impossible(sampled_headers(nearly), nearly)


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

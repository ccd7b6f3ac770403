"""Counting rows, and choosing them."""

import itertools

import numpy as np
import pytest

from hetero_brain.data.corpora.selection import (
    hours_cap,
    keyed_hash,
    without_speakers,
)
from hetero_brain.data.corpora.summary import Summary, markdown


def cells(table):
    """A Markdown table as lists of stripped cells, its rule left out."""
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in line] for line in lines[:1] + lines[2:]]


def test_table_counts_everything():
    summary = Summary()
    summary.add("libri", "pretrain", 1800.0, True)
    summary.add("libri", "pretrain", 3600.0, 5, utterances=10)
    summary.add("ami", "pretrain", 900.0, False)
    summary.add("ami", "test", 36.0, np.int64(2), utterances=np.int64(2))
    summary.untranscribed("ami", "pretrain", "no transcript")
    summary.leave_out("libri", "pretrain", "empty")
    summary.leave_out("libri", "pretrain", "unreadable", 7)
    summary.leave_out("gone", "test", "no such file", 3)
    summary.leave_out("ami", "test", "never", 0)
    summary.note("ami", "test", "overlaps another", 2)
    what, why = summary.table().split("\n\n")
    assert cells(what) == [
        ["domain", "split", "utterances", "transcribed", "hours"],
        ["libri", "pretrain", "11", "6", "1.50"],
        ["ami", "pretrain", "1", "0", "0.25"],
        ["ami", "test", "2", "2", "0.01"],
        ["gone", "test", "0", "0", "0.00"],
        ["all", "pretrain", "12", "6", "1.75"],
        ["all", "test", "2", "2", "0.01"],
    ]
    assert cells(why) == [
        ["domain", "split", "left out", "without transcript", "noted"],
        ["libri", "pretrain", "7 unreadable, 1 empty", "", ""],
        ["ami", "pretrain", "", "1 no transcript", ""],
        ["ami", "test", "", "", "2 overlaps another"],
        ["gone", "test", "3 no such file", "", ""],
    ]


def test_tables_of_a_hundred_domains_stay_narrow():
    summary = Summary()
    for i, split in itertools.product(range(100), ("train", "test")):
        summary.add(f"language {i}", split, 1e6, 10, utterances=100)
        summary.leave_out(f"language {i}", split, "unreadable", 3)
    table = summary.table()
    assert len(table.splitlines()) == 2 * (2 + 200) + 2 + 1
    assert max(map(len, table.splitlines())) < 88


def test_markdown_is_aligned():
    lines = markdown(("a", "long"), [("x|y", 1), ("z", 22)]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2] == "| x\\|y | 1    |"


def test_caps_nest_and_do_not_depend_on_order():
    rng = np.random.default_rng(0)
    durations = rng.uniform(1, 20, size=5000)
    ids = [f"common_voice_en_{i}.mp3" for i in range(5000)]
    hours = durations.sum() / 3600
    caps = [0.1, 0.5, 3, hours / 2, hours + 1]
    masks = [hours_cap(ids, durations, cap, seed=1) for cap in caps]
    for cap, mask in zip(caps[:-1], masks):
        kept = durations[mask].sum() / 3600
        assert cap - 20 / 3600 < kept <= cap
    for smaller, larger in itertools.pairwise(masks):
        assert not (smaller & ~larger).any()
    assert masks[-1].all() and hours_cap(ids, durations, None, seed=1).all()

    order = rng.permutation(5000)
    shuffled = hours_cap([ids[i] for i in order], durations[order], 3, seed=1)
    np.testing.assert_array_equal(shuffled, masks[2][order])
    other = hours_cap(ids, durations, 3, seed=2)
    assert (other & masks[2]).sum() < 0.7 * masks[2].sum()
    # a fair draw: long and short alike, from everywhere
    assert np.flatnonzero(masks[3]).mean() == pytest.approx(2500, abs=150)
    assert durations[masks[3]].mean() == pytest.approx(durations.mean(), rel=0.05)


@pytest.mark.parametrize("hours", [0, -1, float("nan")])
def test_a_cap_that_is_none(hours):
    with pytest.raises(ValueError, match="more than 0 hours"):
        hours_cap(["a"], [1.0], hours, seed=1)


HASHES = [12583898540453431300, 14650255881352351513, 2414784839769236523]


def test_hashes_stay_what_they_are():
    """Or a cap would choose other clips after an update of the library."""
    assert keyed_hash(1, "hours", ["a", "é", "\udcff"]).tolist() == HASHES
    assert keyed_hash(1, "other", ["a"])[0] != HASHES[0]
    assert keyed_hash(1, "hours", []).shape == (0,)


def test_speakers_who_are_held_out():
    speakers = ["a", "b", "", "a", "c"]
    assert without_speakers(speakers, ["a", "", "z"]).tolist() == [
        False,
        True,
        True,
        False,
        True,
    ]

"""The plan: a pure function, fair to domains and utterances, with little padding."""

import os
import pickle
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from hetero_brain.data.bucketing import cut_into_buckets
from hetero_brain.data.plan import Plan
from tests.processes import python

NAMES = ("read", "talks", "phone")


def short_speech(n, seed=0):
    """Voice prompts: median 1.4 s, from 0.3 s to 20 s."""
    durations = 1.4 * np.exp(0.8 * np.random.default_rng(seed).standard_normal(n))
    return np.clip(durations, 0.3, 20.0)


def read_speech(n, seed=0):
    """LibriSpeech: most utterances have 10 s to 16 s."""
    return np.random.default_rng(seed).uniform(10.0, 16.0, n)


DURATIONS = short_speech(1600)
DOMAIN_OF = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [300, 500, 800]))


def make(**changed):
    arguments = {
        "durations": DURATIONS,
        "domain_of": DOMAIN_OF,
        "domains": NAMES,
        "global_batch_seconds": 100.0,
        "seed": 1234,
    } | changed
    return Plan(**arguments)


def plain(global_batch):
    """A global batch as lists, which compare by value."""
    return [(name, [rows.tolist() for rows in taken]) for name, taken in global_batch]


def epoch_batches(plan, epoch=0):
    """domain -> its batches of an epoch, in the order they are taken."""
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    taken = {name: [] for name in plan.domains}
    for step in steps:
        for name, batches in plan[step]:
            taken[name] += batches
    return taken


def compositions(batches):
    return {frozenset(rows.tolist()) for rows in batches}


VARIANTS = [{}, {"domains_per_iteration": 2}, {"batches_per_iteration": 3}]


# A pure function of (seed, step)


@pytest.mark.parametrize("changed", VARIANTS)
def test_a_step_does_not_depend_on_what_was_asked_before(changed):
    plan = make(**changed)
    in_order = [plain(plan[step]) for step in range(3 * plan.steps_per_epoch)]
    for step in np.random.default_rng(0).permutation(len(in_order))[:20]:
        assert plain(plan[step]) == in_order[step]
        assert plain(make(**changed)[int(step)]) == in_order[step]


def test_changing_a_batch_leaves_the_plan_alone():
    plan = make()
    before = plain(plan[3])
    (rows,) = plan[3][0].batches
    assert rows.dtype == np.int64
    rows[:] = -1
    assert plain(plan[3]) == before


def test_a_fresh_process_plans_the_same():
    script = (
        "from test_plan import make, plain;"
        "plan = make(domains_per_iteration=2);"
        "print([plain(plan[step]) for step in (40, 3)])"
    )
    plan = make(domains_per_iteration=2)
    here = str([plain(plan[step]) for step in (40, 3)])
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parents[1])])
    there = subprocess.run(
        [python(), "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_a_pickled_plan_is_the_same_and_has_no_cache():
    plan = make()
    unused = len(pickle.dumps(plan))
    expected = plain(plan[5])
    pickled = pickle.dumps(plan)
    assert len(pickled) == unused
    assert plain(pickle.loads(pickled)[5]) == expected


def test_a_seed_and_an_epoch_have_their_own_batches():
    plan = make()
    one = epoch_batches(plan, 0)
    for other in (epoch_batches(plan, 1), epoch_batches(make(seed=1235), 0)):
        for name in NAMES:
            kept = compositions(one[name]) & compositions(other[name])
            # A few that are alone with their lengths may meet again.
            assert len(kept) < 0.3 * len(one[name])
    # An epoch does not begin with its shortest utterances.
    first = [plan[epoch * plan.steps_per_epoch][0].batches[0] for epoch in range(9)]
    assert len({len(rows) for rows in first}) > 5


def test_a_domain_keeps_its_batches_when_domains_are_reordered():
    reordered = make(domains=NAMES[::-1], domain_of=2 - DOMAIN_OF)
    assert plain(reordered[7]) == plain(make()[7])[::-1]


def test_steps_count_from_zero():
    with pytest.raises(IndexError, match="from 0"):
        make()[-1]


# Who is seen, and how often


@pytest.mark.parametrize("sampling", ["proportional", "equal"])
@pytest.mark.parametrize("changed", VARIANTS)
def test_an_utterance_is_seen_once_an_epoch_or_skipped(changed, sampling):
    plan = make(domain_sampling=sampling, **changed)
    summary = plan.summary(epoch=1)
    for code, name in enumerate(NAMES):
        batches = epoch_batches(plan, 1)[name]
        seen = np.concatenate(batches)
        assert len(np.unique(seen)) == len(seen)
        assert np.all(DOMAIN_OF[seen] == code)
        skipped = summary[name]["batches"] - len(batches)
        assert summary[name]["skipped"] == pytest.approx(
            skipped / summary[name]["batches"], abs=1e-12
        )
        if skipped == 0:
            assert len(seen) == np.sum(DOMAIN_OF == code)
    if not changed:
        assert min(row["skipped"] for row in summary.values()) == 0


def test_skipping_takes_other_batches_each_epoch():
    plan = make(domain_sampling="equal")
    assert plan.summary()["phone"]["skipped"] > 0.5
    seen = [set(np.concatenate(epoch_batches(plan, e)["phone"])) for e in range(20)]
    # Long and short utterances alike: after 20 epochs next to nothing is left.
    assert len(set.union(*seen)) > 0.99 * 800
    assert all(len(one & other) < 0.7 * len(one) for one, other in zip(seen, seen[1:]))


@pytest.mark.parametrize(
    "sampling, temperature, power",
    [("proportional", 1.0, 1.0), ("equal", 1.0, 0.0), ("temperature", 2.0, 0.5)],
)
@pytest.mark.parametrize("drawn", [2, 3])
def test_audio_is_shared_as_asked(sampling, temperature, power, drawn):
    plan = make(
        domain_sampling=sampling,
        temperature=temperature,
        domains_per_iteration=drawn,
        global_batch_seconds=60.0,
    )
    totals = [DURATIONS[DOMAIN_OF == code].sum() for code in range(3)]
    weights = [total**power for total in totals]
    means = []
    for name, total, weight in zip(NAMES, totals, weights):
        share = 60.0 * weight / sum(weights) * 3 / drawn
        n_batches = int(total / share)
        row = plan.summary()[name]
        assert row["batches"] == n_batches
        assert row["batch_seconds"] == pytest.approx(total / n_batches)
        assert row["hours"] == pytest.approx(total / 3600)
        seconds = [DURATIONS[rows].sum() for rows in epoch_batches(plan)[name]]
        means.append(np.mean(seconds))
        assert means[-1] == pytest.approx(share, rel=0.1)
    # An iteration has the audio that was asked for, however many domains it has.
    assert np.mean(means) * drawn == pytest.approx(60.0, rel=0.1)


def test_an_epoch_ends_with_the_fewest_batches():
    plan = make(domain_sampling="equal")
    fewest = min(row["batches"] for row in plan.summary().values())
    assert plan.steps_per_epoch == fewest
    assert make(domain_sampling="equal", batches_per_iteration=4).steps_per_epoch == (
        fewest // 4
    )


def test_whole_counts_lose_no_batch_to_rounding():
    # 1.1 is no binary fraction: the quotients come out just below 7.
    plan = make(
        durations=np.full(210, 1.1),
        domain_of=np.repeat([0, 1, 2], [30, 70, 110]),
        global_batch_seconds=float(np.float32(1.1)) * 30,
    )
    assert [row["batches"] for row in plan.summary().values()] == [7, 7, 7]


@pytest.mark.parametrize("n_domains, drawn", [(3, 1), (3, 2), (5, 3), (10, 4)])
def test_domains_take_turns(n_domains, drawn):
    plan = make(
        domain_of=np.arange(1600) % n_domains,
        domains=[f"d{i}" for i in range(n_domains)],
        domains_per_iteration=drawn,
    )
    counts = dict.fromkeys(plan.domains, 0)
    for step in range(plan.steps_per_epoch):
        names = [name for name, _ in plan[step]]
        assert len(set(names)) == len(names) == drawn
        assert names == [name for name in plan.domains if name in names]
        for name in names:
            counts[name] += 1
        assert max(counts.values()) - min(counts.values()) <= 1
    # No more turns than the smallest has batches, and not a whole turn fewer.
    fewest = min(row["batches"] for row in plan.summary().values())
    assert fewest - 1 <= min(counts.values()) <= max(counts.values()) <= fewest


def test_domains_are_drawn_anew_each_epoch():
    plan = make(domains_per_iteration=1)
    n = plan.steps_per_epoch
    one, other = ([plan[e * n + s][0].domain for s in range(n)] for e in (0, 1))
    assert one != other


def test_a_step_has_fresh_batches():
    plan = make(batches_per_iteration=3)
    for _, batches in plan[2]:
        assert len(batches) == 3
        rows = np.concatenate(batches)
        assert len(np.unique(rows)) == len(rows)


# Batches


@pytest.mark.parametrize("speech, seconds", [(short_speech, 30), (read_speech, 100)])
def test_batches_have_about_equal_seconds(speech, seconds):
    durations = speech(500)
    plan = Plan(
        durations, np.zeros(500, int), ["a"], global_batch_seconds=seconds, seed=0
    )
    for rows in epoch_batches(plan)["a"]:
        assert abs(durations[rows].sum() - seconds) < durations[rows].max() + 2.0


@pytest.mark.parametrize(
    "speech, size, seconds, most",
    [
        (short_speech, 500, 37.0, 0.10),  # 25 batches
        (short_speech, 2000, 100.0, 0.10),
        (short_speech, 20000, 100.0, 0.05),
        (read_speech, 500, 30.0, 0.03),
        (read_speech, 500, 100.0, 0.04),
        (read_speech, 50, 60.0, 0.06),
        # Ten batches from 0.3 s to 20 s: the documented exception.
        (short_speech, 500, 95.0, 0.25),
    ],
)
def test_padding_is_bounded(speech, size, seconds, most):
    durations = speech(4 * size)
    plan = Plan(
        durations,
        np.arange(4 * size) % 4,
        list("abcd"),
        global_batch_seconds=4 * seconds,
        seed=0,
    )
    audio = padded = 0.0
    for name, batches in epoch_batches(plan, 2).items():
        one = sum(durations[rows].sum() for rows in batches)
        other = sum(durations[rows].max() * len(rows) for rows in batches)
        row = plan.summary(2)[name]
        if row["skipped"] == 0:
            assert row["padding"] == pytest.approx(1 - one / other, abs=1e-6)
        audio, padded = audio + one, padded + other
    assert 0 < 1 - audio / padded < most


@pytest.mark.parametrize(
    "durations",
    [
        [1.0] * 10 + [100.0],  # one utterance is most of the audio
        [1.0] + [50.0] * 10,  # each is longer than a batch
        [0.5, 30.0, 30.0, 30.0],
        [7.0],
    ],
)
@pytest.mark.parametrize("seconds", [1.0, 11.0, 1000.0])
def test_no_batch_is_empty(durations, seconds):
    n = len(durations)
    plan = Plan(durations, [0] * n, ["a"], global_batch_seconds=seconds, seed=3)
    batches = epoch_batches(plan)["a"]
    assert len(batches) == min(n, max(1, int(sum(durations) / seconds)))
    assert min(len(rows) for rows in batches) >= 1
    assert sorted(np.concatenate(batches)) == list(range(n))


def test_no_batch_is_empty_where_one_utterance_is_a_batch():
    # Jitter puts some longer than a batch before some shorter ones.
    durations = np.random.default_rng(0).uniform(1.0, 1.02, 5000)
    seconds = durations.sum() / 4990
    plan = Plan(
        durations, np.zeros(5000, int), ["a"], global_batch_seconds=seconds, seed=0
    )
    sizes = [len(rows) for rows in epoch_batches(plan)["a"]]
    assert len(sizes) == 4990
    assert set(sizes) == {1, 2}


def test_an_utterance_belongs_to_the_batch_of_its_middle():
    durations = np.array([2.0, 3.0, 3.0], np.float32)  # middles at 1, 3.5 and 6.5 of 8
    buckets = cut_into_buckets(durations, 2, np.random.default_rng(0))
    assert buckets.edges.tolist() == [0, 2, 3]


def test_equal_lengths_are_mixed():
    plan = Plan(
        np.full(1000, 2.0), np.zeros(1000, int), ["a"], global_batch_seconds=40, seed=0
    )
    one, other = (compositions(epoch_batches(plan, e)["a"]) for e in (0, 1))
    assert not one & other


def test_long_utterances_count_as_their_window():
    plan = make(max_utterance_seconds=2.0)
    hours = np.minimum(DURATIONS[DOMAIN_OF == 1], 2.0).sum() / 3600
    assert plan.summary()["talks"]["hours"] == pytest.approx(hours)


def test_a_million_rows_take_few_bytes_each():
    n = 1_000_000
    durations = short_speech(n).astype(np.float32)
    domain_of = np.arange(n, dtype=np.int16) % 10
    tracemalloc.start()
    try:
        plan = Plan(
            durations,
            domain_of,
            [f"d{i}" for i in range(10)],
            global_batch_seconds=1000.0,
            seed=0,
        )
        plan[0]
        plan[plan.steps_per_epoch]
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Kept: a row number, a duration and a place in the epoch, 4 bytes each.
    assert kept < 14 * n
    assert peak < 24 * n


# Errors


def test_all_errors_are_raised_at_once():
    with pytest.raises(ValueError) as error:
        make(
            global_batch_seconds=0,
            domain_sampling="fair",
            temperature=-1.0,
            domains_per_iteration=4,
            batches_per_iteration=0,
            max_utterance_seconds=0,
            durations=np.where(np.arange(1600) == 5, np.nan, DURATIONS),
            domain_of=np.where(DOMAIN_OF == 2, 1, DOMAIN_OF),
        )
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "global_batch_seconds",
        "domain_sampling",
        "temperature",
        "domains_per_iteration",
        "batches_per_iteration",
        "max_utterance_seconds",
        "durations",
        "domains",
    ]
    for line, value in zip(lines, ["0", "'fair'", "-1.0", "4", "0", "0", "", "phone"]):
        assert line.endswith(value)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"global_batch_seconds": float("nan")}, "global_batch_seconds: must be pos"),
        ({"temperature": 2.0}, "temperature: must be 1.0 unless"),
        ({"domains_per_iteration": 0}, "domains_per_iteration: must be from 1 to 3"),
        ({"domains": ("a", "b", "a")}, "domains: names must be unique"),
        ({"domain_of": DOMAIN_OF + 1}, "domain_of: indices must be from 0 to 2"),
        ({"domain_of": DOMAIN_OF - 1}, "domain_of: indices must be from 0 to 2"),
        ({"domain_of": DOMAIN_OF[:-1]}, r"domain_of: .* \(1599,\) and \(1600,\)"),
        ({"durations": DURATIONS - 0.3}, "durations: must be positive"),
        ({"durations": DURATIONS + np.inf}, "durations: must be positive and finite"),
    ],
)
def test_a_wrong_argument_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        make(**changed)


def test_an_epoch_without_steps_says_what_to_change():
    with pytest.raises(ValueError) as error:
        make(
            domain_sampling="equal",
            global_batch_seconds=1200.0,
            batches_per_iteration=2,
        )
    (line,) = str(error.value).splitlines()
    assert (
        "takes 2 batches of a domain, but read has only 1 in an epoch, of 400.0 s"
        in (line)
    )
    assert "lower global_batch_seconds (1200.0), batches_per_iteration or re" in line


def test_smaller_batches_are_not_advised_where_a_domain_has_no_more_rows():
    with pytest.raises(ValueError) as error:
        Plan(
            [2.0] * 101,
            [0] * 100 + [1],
            ["read", "Read"],
            global_batch_seconds=10,
            seed=1,
            replicas_per_domain=2,
        )
    (line,) = str(error.value).splitlines()
    assert "but Read has only 1 in an epoch" in line
    assert "global_batch_seconds" not in line and line.endswith("has no more rows")

"""What of a run's settings does not suit its data."""

import numpy as np
import pytest

from hetero_brain.data.plan import Plan
from hetero_brain.errors import InputError
from hetero_brain.pipelines.doubts import doubts, equally_long, long_recordings
from hetero_brain.pipelines.look_ahead import Length


def plan_of(durations, seconds):
    """A plan of one domain."""
    which = np.zeros(len(durations), dtype=int)
    return Plan(durations, which, ["en"], global_batch_seconds=seconds, seed=1)


def doubts_about(durations, seconds, *phases):
    plan = plan_of(durations, seconds)
    return [*doubts(plan, phases)]


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
    assert f"{padding:.0%} of the 3 batches of en is padding" in doubt
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
    if said:
        assert doubts[0].startswith(f"warmup_iterations is {warmup}, {said}")
        assert "CSSL.1, CSSL.2 (200 iterations): lower it" in doubts[0]
        assert "to 20 for a tenth" in doubts[0]


def test_one_warning_names_all_phases_with_a_long_warmup():
    lengths = ("CSSL.1", 4), ("PTLOC.1", 1), ("CSSL-continued.1", 2)
    phases = [Length(name, epochs, 100) for name, epochs in lengths]
    (doubt,) = doubts_about(EVEN, 10, *phases)
    assert doubt == (
        "warmup_iterations is 100, longer than all of PTLOC.1 (40 iterations), "
        "CSSL-continued.1 (80 iterations) and more than half of CSSL.1 (160 iterations): "
        "lower it, to 4 for a tenth of the shortest, or train for more epochs"
    )


# --------------------------------------------------------------------------- domains


def doubts_of(domains, seconds, phases=(), **settings):
    """Doubts about domains: name → durations."""
    durations = np.concatenate([*map(np.asarray, domains.values())])
    which = np.repeat(np.arange(len(domains)), [*map(len, domains.values())])
    settings = {"seed": 1, "global_batch_seconds": seconds, **settings}
    return [*doubts(Plan(durations, which, [*domains], **settings), phases)]


def test_one_warning_names_all_domains_with_padding():
    lengths = np.tile([1.0, 20.0], 10)
    (doubt,) = doubts_of({"a": lengths, "b": lengths, "c": [10.0] * 20}, 140)
    assert "of the 4 batches of a, " in doubt and "of the 4 batches of b is" in doubt
    assert "batches of c" not in doubt
    assert "global_batch_seconds to 31 or less, for 20 or more" in doubt


MANY = {"german": [4.0] * 200, "english": [3.0] * 300}


def test_a_domain_of_few_rows_that_ends_an_epoch():
    """An epoch of one iteration, which no size of a batch changes."""
    ended, single = doubts_of({**MANY, "other": [3.6]}, 80)
    assert ended.startswith(
        "other has only 1 row, 3.6 s, in 1 batch, and an epoch ends with the last of "
        "them: 95% of the 0.47 h of all other domains is left out of every epoch. No"
    )
    assert "No global_batch_seconds helps" in ended and "leave it out" in ended
    assert single == "An epoch is a single iteration, since other has a single row"


def test_a_domain_that_may_be_a_misspelling():
    doubts = doubts_of({**MANY, "germam": [3.6, 4.0]}, 80)
    assert len(doubts) == 1
    assert "germam has only 2 rows" in doubts[0]
    assert "Is it a misspelling of german?" in doubts[0]


@pytest.mark.parametrize("name", ["German", "german ", "GERMAN", "ger-man"])
@pytest.mark.parametrize("rows", [1, 190])
def test_a_domain_spelt_in_another_way_is_refused(name, rows):
    said = rf"^domains german \(200 rows\) and {name} \({rows} rows?\) are spelt in"
    with pytest.raises(InputError, match=said):
        doubts_of({**MANY, name: [3.6] * rows}, 80)


def test_each_domain_that_would_end_an_epoch_is_named():
    """One after the other: without the first, the second would."""
    told = doubts_of({**MANY, "x": [3.0], "yy": [3.0, 3.0]}, 80)
    assert [line.split(" has ")[0] for line in told[:2]] == ["x", "yy"]


def test_a_small_domain_with_an_equal_share():
    """What it leaves out is wanted, perhaps; other settings of it would take all."""
    few, many = {"few": [4.0] * 40}, {"many": [4.0] * 400}
    assert doubts_of({**few, **many}, 44) == []
    (doubt,) = doubts_of({**few, **many}, 16, domain_sampling="equal")
    assert doubt.startswith("few has only 40 rows, 160 s, in 20 batches")
    assert "90% of the 0.44 h" in doubt and "drawn anew in each epoch" in doubt
    assert "domain_sampling: proportional" in doubt and "correct" not in doubt


def test_the_advice_for_equal_shares_is_that_of_the_smallest_domain():
    domains = {"few": [4.0] * 40, "many": [4.0] * 60}
    (doubt,) = doubts_of(domains, 320, domain_sampling="equal")
    assert "single iteration: lower global_batch_seconds to 13 or less" in doubt
    told = doubts_of(domains, 13, domain_sampling="equal")
    assert not any("iteration" in line for line in told)


def test_batches_of_less_than_an_utterance_end_an_epoch_early():
    """A tenth of an iteration's 16 s is less than one utterance of the small domain."""
    domains = {"few": [4.0] * 40, "many": [4.0] * 400}
    (doubt,) = doubts_of(domains, 16)
    assert doubt.startswith("few has only 40 rows") and "in 40 batches" in doubt
    assert "64% of the 0.44 h" in doubt
    assert doubt.endswith(
        "With global_batch_seconds of 44, none has more batches than that"
    )
    assert doubts_of(domains, 44) == []

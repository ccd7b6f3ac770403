"""Reports: intervals equal to SciPy's, and tables of synthetic runs."""

import csv
import json
import re

import numpy as np
import pytest
import scipy.stats

from hetero_brain.pipelines.report import gather, write_tables
from hetero_brain.pipelines.tables import (
    INTERVALS,
    MARKED,
    UNMARKED,
    note,
    overview,
    table,
)
from hetero_brain.recognition.error_rates import bootstrap_interval, describe


@pytest.mark.parametrize("n", [40, 400])
def test_bootstrap_is_scipys(n):
    rng = np.random.default_rng(n)
    totals = rng.integers(1, 30, n)
    errors = rng.binomial(totals, np.where(totals > 15, 0.1, 0.5))  # long ones easier
    rate, low, high = bootstrap_interval(errors, totals)
    reference = scipy.stats.bootstrap(
        (errors, totals),
        lambda e, t, axis=-1: 100 * e.sum(axis) / t.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert rate == pytest.approx(100 * errors.sum() / totals.sum())
    width = reference.high - reference.low
    assert low == pytest.approx(reference.low, abs=0.06 * width)
    assert high == pytest.approx(reference.high, abs=0.06 * width)


def test_bootstrap_is_deterministic():
    errors, totals = np.arange(20) % 7, np.full(20, 9)
    first = bootstrap_interval(errors, totals)
    np.random.seed(3)
    assert bootstrap_interval(errors, totals) == first


def test_bootstrap_of_equal_utterances_has_no_width():
    assert bootstrap_interval([1] * 9, [4] * 9) == (25.0, 25.0, 25.0)


def utterance(name, word_errors, words, char_errors, chars):
    return {
        "id": name,
        "domain": name.rpartition("/")[0],
        "word_errors": word_errors,
        "words": words,
        "char_errors": char_errors,
        "chars": chars,
    }


@pytest.fixture
def runs(tmp_path):
    """Two models judged by a probe on two domains with two seeds, one run missing."""
    errors = {
        ("probe", "scratch", "1", "en"): [3, 1],
        ("probe", "scratch", "2", "en"): [2, 0],
        ("probe", "scratch", "1", "fr"): [4, 4],
        ("probe", "PTLOC.1", "1", "en"): [1, 0],
        ("probe", "PTLOC.1", "2", "en"): [0, 0],
        ("full", "scratch", "1", "en"): [0, 0],
    }
    for keys, (a, b) in errors.items():
        folder = tmp_path.joinpath(*keys)
        folder.mkdir(parents=True)
        run = [
            utterance(f"{keys[3]}/a", a, 4, 2 * a, 30),
            utterance(f"{keys[3]}/b", b, 6, 2 * b, 20),
        ]
        (folder / "dev.json").write_text(json.dumps(run))
    (folder / "test.json").write_text(json.dumps(run))
    (tmp_path / "probe" / "stray.txt").touch()
    return tmp_path


def test_gather(runs):
    rows = {(r["judge"], r["model"], r["domain"]): r for r in gather(runs, "dev")}
    assert len(rows) == 5
    row = rows["probe", "scratch", "en"]
    assert row["split"] == "dev"
    assert row["WER"] == pytest.approx(100 * 6 / 20)
    assert row["CER"] == pytest.approx(100 * 12 / 100)
    assert row["WER_seeds"] == pytest.approx([40.0, 20.0])
    assert row["CER_seeds"] == pytest.approx([16.0, 8.0])
    # Each of the two utterances is resampled with both its seeds: the ends of the
    # interval are one utterance alone, with 5 errors in 8 words or 1 in 12.
    assert row["WER_low"] == pytest.approx(100 * 1 / 12)
    assert row["WER_high"] == pytest.approx(100 * 5 / 8)
    assert row["CER_low"] == pytest.approx(100 * 2 / 40)
    assert row["CER_high"] == pytest.approx(100 * 10 / 60)
    assert rows["probe", "scratch", "fr"]["WER_seeds"] == [80.0]
    assert [r["judge"] for r in gather(runs, "test")] == ["full"]
    # French has one seed, so both domains together have one: 12 errors in 20 words.
    assert rows["probe", "scratch", "all"]["WER_seeds"] == pytest.approx([60.0])


def test_test_sets_of_a_domain_have_columns_of_their_own(tmp_path):
    """Fine-tuned on libri: its two test sets, and a domain that it was not tuned on."""
    folder = tmp_path / "ctc/CSSL.1/1/libri"
    folder.mkdir(parents=True)
    names = ["libri/clean/a", "libri/other/a", "libri/other/b", "edacc/a"]
    run = [utterance(name, i, 4, i, 20) for i, name in enumerate(names)]
    (folder / "test.json").write_text(json.dumps(run))
    rates = {row["domain"]: row["WER"] for row in gather(tmp_path, "test")}
    assert rates == {
        "libri/clean": 0.0,
        "libri/other": pytest.approx(100 * 3 / 8),
        "libri → edacc": pytest.approx(75.0),
        "all": pytest.approx(100 * 6 / 16),
    }


def test_many_domains_stand_in_rows():
    rows = [
        {
            "judge": "ctc",
            "model": m,
            "domain": f"d{i}",
            "WER": i,
            "WER_low": 0,
            "WER_high": 9,
        }
        for m in ("a", "b")
        for i in range(100)
    ]
    lines = table(rows, "ctc", "WER").markdown().splitlines()
    assert lines[0] == "| ctc, WER % | a | b |"
    assert len(lines) == 102 and lines[-1].startswith("| d99 | 99.0 [0.0, 9.0] | 99.0")
    few = table([r for r in rows if r["domain"] in ("d1", "d2")], "ctc", "WER")
    assert few.markdown().splitlines()[0] == "| ctc, WER % | d1 | d2 |"


def test_relative_changes_are_of_the_baselines_errors(runs):
    rows = gather(runs, "dev", baselines=["scratch"])
    (row,) = (r for r in rows if (r["model"], r["domain"]) == ("PTLOC.1", "en"))
    # 1 error instead of 6; by utterance it is −4 of 5 and −1 of 1.
    assert row["WER relative to scratch"] == pytest.approx(-100 * 5 / 6)
    assert row["WER relative to scratch_low"] == pytest.approx(-100)
    assert row["WER relative to scratch_high"] == pytest.approx(-80)


def test_differences_are_paired(runs):
    rows = {
        (r["judge"], r["model"], r["domain"]): r
        for r in gather(runs, "dev", baselines=["scratch", "CSSL.1"])
    }
    row = rows["probe", "PTLOC.1", "en"]
    # 1 and 0 errors instead of 5 and 1: differences of −4 in 8 words and −1 in 12.
    assert row["WER - scratch"] == pytest.approx(100 * -5 / 20)
    assert row["WER - scratch_low"] == pytest.approx(100 * -4 / 8)
    assert row["WER - scratch_high"] == pytest.approx(100 * -1 / 12)
    assert not any("CSSL.1" in key for key in row), "no such run"
    assert "WER - scratch" not in rows["probe", "scratch", "en"]
    path = runs / "probe/PTLOC.1/1/en/dev.json"
    path.write_text(path.read_text().replace("en/a", "en/c"))
    (row,) = (
        r
        for r in gather(runs, "dev", baselines=["scratch"])
        if (r["model"], r["domain"]) == ("PTLOC.1", "en")
    )
    assert "WER - scratch" not in row, "other utterances"
    text = table(list(rows.values()), "probe", "WER - scratch", ["scratch", "PTLOC.1"])
    assert text.markdown().splitlines()[2:] == ["| PTLOC.1 | **-25.0 [-50.0, -8.3]** |"]


def test_a_run_in_words():
    run = [utterance("a", 3, 4, 6, 30), utterance("b", 1, 6, 2, 20)]
    run = [{**u, "domain": "fr"} for u in run] + [
        {**utterance("c", 1, 4, 1, 8), "domain": "en"}
    ]
    assert describe(run).splitlines() == [
        "en: CER 12.5 [12.5, 12.5] %, WER 25.0 [25.0, 25.0] % (1 utterances)",
        "fr: CER 16.0 [10.0, 20.0] %, WER 40.0 [16.7, 75.0] % (2 utterances)",
    ]


def test_table(runs):
    rows = gather(runs, "dev")
    text = table(rows, "probe", "WER", models=["scratch", "PTLOC.1", "CSSL.1"])
    assert text.markdown().splitlines() == [
        "| probe, WER % | en | fr | all |",
        "|---|---|---|---|",
        "| scratch | 30.0 [8.3, 62.5] | 80.0 [66.7, 100.0] | 60.0 [29.2, 88.9] |",
        "| PTLOC.1 | 5.0 [0.0, 12.5] | – | – |",
    ]
    text = table(rows, "full")
    assert text.markdown().splitlines()[::2] == [
        "| full, CER % | en |",
        "| scratch | 0.0 [0.0, 0.0] |",
    ]
    both = table(rows, "probe").markdown().splitlines()[2:]
    assert sorted(line.split(" | ")[0] for line in both) == ["| PTLOC.1", "| scratch"]


def test_a_difference_is_marked_if_its_interval_excludes_0(runs):
    """Both sides of 0 are marked; what touches 0, and a rate itself, is not."""
    rate = "CER - scratch"
    intervals = {
        "a": (-2, -0.1),
        "b": (0.1, 2),
        "c": (-2, 0),
        "d": (0, 2),
        "e": (-1, 1),
    }
    rows = [
        {"judge": "probe", "model": "m", "domain": domain}
        | {name + end: v for name in (rate, "CER") for end, v in values}
        for domain, (low, high) in intervals.items()
        for values in [[("", 1.0), ("_low", low), ("_high", high)]]
    ]
    cells = table(rows, "probe", rate).markdown().splitlines()[-1].split(" | ")[1:]
    assert [cell.startswith("**") for cell in cells] == [True, True] + [False] * 3
    assert cells[0] == "**1.0 [-2.0, -0.1]**"
    assert "**" not in table(rows, "probe", "CER").markdown()
    latex = table(rows, "probe", rate).latex("dev split")
    assert latex.count(r"\textbf{") == 2


def test_latex(runs):
    rows = gather(runs, "dev", ["scratch"])
    for row in rows:
        row["model"] = row["model"].replace("PTLOC.1", "K_3 & 5 %")
    text = table(rows, "probe", "WER - scratch").latex("dev split, 5 %")
    assert text.splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{dev split, 5 \%}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"probe, WER - scratch \% & en \\",
        r"\midrule",
        r"K\_3 \& 5 \% & \textbf{$-$25.0 [$-$50.0, $-$8.3]} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    assert r"a $\to$ b" in table(
        [{**row, "domain": "a → b"} for row in rows], "probe"
    ).latex("")
    assert r"& -- \\" in table(gather(runs, "dev"), "probe").latex("")


def test_the_tables_of_an_experiment_are_written(runs, capsys):
    (runs / "finetune").mkdir()
    for judge in ("probe", "full"):
        (runs / judge).rename(runs / "finetune" / judge)
    spec = {"eval_splits": ["dev"], "judges": {"probe": {}}, "baselines": ["scratch"]}
    spec["models"] = ["scratch", "PTLOC.1"]
    write_tables(spec, runs)
    printed = capsys.readouterr().out
    markdown = (runs / "table.md").read_text("utf-8")
    assert "| PTLOC.1 | **-" in markdown and MARKED.format("In bold") in markdown
    for text in (printed, markdown):
        assert text.count("dev split") == 1, "one heading"
    assert MARKED.format("*") in " ".join(printed.split()) and "|" not in printed
    assert printed.count("CER in %, and its change from scratch") == 1
    assert re.search(r"\nPTLOC.1 +2.0 \(-10.0\*\) +", printed)
    assert "WER relative" not in printed and f"{runs / 'table.md'}" in printed
    latex = (runs / "table.tex").read_text("utf-8")
    assert latex.startswith("% \\usepackage{booktabs}\n")
    assert latex.count(r"\begin{table}") == 4 and r"95 \% interval" in latex
    with open(runs / "table.csv", encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 2 * (3 + 1) + 2  # CER and WER of two models, two differences
    (record,) = (r for r in records if r["rate"] == "WER relative to scratch")
    place = ("split", "judge", "model", "domain", "excludes_0")
    assert [record[key] for key in place] == ["dev", "probe", "PTLOC.1", "en", "True"]
    figures = [float(record[key]) for key in ("percent", "low", "high")]
    assert figures == pytest.approx([-100 * 5 / 6, -100, -80])
    assert all(r["excludes_0"] == "" for r in records if r["rate"] == "WER")
    write_tables({**spec, "baselines": []}, runs)
    assert "interval excludes" not in (runs / "table.md").read_text("utf-8")


def test_what_is_marked_is_explained_only_where_something_is(runs):
    rows = gather(runs, "dev", ["scratch"])
    rate, difference = (table(rows, "probe", r) for r in ("WER", "WER - scratch"))
    assert note([rate, difference]) == MARKED.format("In bold")
    assert note([rate]) == INTERVALS and note([]) == ""
    for row in rows:
        row["WER - scratch_high"] = 1
    assert note([rate, table(rows, "probe", "WER - scratch")]) == UNMARKED


def test_many_domains_of_an_overview_are_its_rows():
    rows = [
        {
            "judge": "probe",
            "model": model,
            "domain": f"d{i}",
            "CER": 10.0 + i,
            "WER": 95,
        }
        | ({"CER - a": 1.0, "CER - a_low": low, "CER - a_high": 2.0} if low else {})
        for model, low in (("a", None), ("b", 0.5), ("c", -0.5))
        for i in range(9)
    ]
    text, excluding = overview(rows, "probe", ["a", "b"], ["c", "a", "b"])
    title, header, first, *others = text.splitlines()
    assert title == "probe: CER in %, and its change from a and from b"
    assert header.split() == ["c", "a", "b"] and len(others) == 8
    assert first.split("  ") == ["d0", "10.0 (+1.0, –)", "10.0", "10.0 (+1.0*, –)"]
    assert sum(excluding) == 9 and len(excluding) == 18

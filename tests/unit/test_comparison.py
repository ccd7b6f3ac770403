"""Comparison of any fine-tuned runs: the same utterances, or an error that says so."""

import json
from textwrap import fill

import pytest

from hetero_brain.commands.compare import main
from hetero_brain.commands.report import main as report
from hetero_brain.errors import InputError
from hetero_brain.pipelines.comparison import compare, names
from hetero_brain.pipelines.tables import INTERVALS, MARKED
from hetero_brain.recognition.error_rates import describe
from tests.unit.test_report import utterance

NOTE = MARKED.format("In bold")


def results(*errors, words=10):
    """Utterances en/a, en/b, … and the last one fr/z, with these errors."""
    keys = [f"en/{letter}" for letter in "abcdefgh"[: len(errors) - 1]] + ["fr/z"]
    return [
        {**utterance(key, n, words, 2 * n, 50), "reference": key}
        for key, n in zip(keys, errors)
    ]


@pytest.fixture
def write(tmp_path):
    """write(run, utterances, split) → the folder of a fine-tuned run."""

    def write(name, utterances, split="test"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True, parents=True)
        (folder / f"{split}.json").write_text(json.dumps(utterances), "utf-8")
        return folder

    return write


def cells(text):
    """Header → model → domain → the cell of a table, without its interval."""
    found = {}
    for note in (NOTE, INTERVALS):
        text = text.removesuffix(f"\n\n{note}")
    for part in text.split("\n\n"):
        header, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
        ]
        found[header[0]] = {
            row[0]: dict(zip(header[1:], (cell.split(" ")[0] for cell in row[1:])))
            for row in rows
        }
    return found


def test_rates_and_paired_differences(write):
    a = write("x/ctc", results(4, 2, 6))
    b = write("x/attention", results(3, 1, 6)[::-1])  # in any order
    text = compare([a, b], markdown=True)
    tables = cells(text)
    assert [*tables] == [
        "test, CER %",
        "test, WER %",
        "test, CER - ctc %",
        "test, WER relative to ctc %",
    ]
    assert tables["test, WER %"] == {
        "ctc": {"en": "30.0", "fr": "60.0", "all": "40.0"},
        "attention": {"en": "20.0", "fr": "60.0", "all": "33.3"},
    }
    # Each English utterance has two fewer characters wrong of 50: no width.
    assert "| attention | **-4.0 [-4.0, -4.0]** | 0.0 [0.0, 0.0] |" in text
    assert text.endswith(NOTE)
    relative = tables["test, WER relative to ctc %"]
    assert relative == {"attention": {"en": "**-33.3", "fr": "0.0", "all": "-16.7"}}


def test_a_terminal_has_a_table_of_each_split(write, capsys):
    a = write("x/ctc", results(4, 2, 6))
    b = write("x/attention", results(3, 1, 6))
    main([str(a), str(b)])
    table, note = capsys.readouterr().out.strip().split("\n\n")
    title, *lines = table.splitlines()
    assert title == "test: CER in %, and its change from ctc"
    assert [line.split() for line in lines] == [
        ["en", "fr", "all", "WER"],
        ["ctc", "12.0", "24.0", "16.0", "40.0"],
        ["attention", "8.0", "(-4.0*)", "24.0", "(+0.0)", "13.3", "(-2.7)", "33.3"],
    ]
    assert note == fill(MARKED.format("*"), 88) and "over the utterances" in note
    # A WER of 100 % says nothing, and a run alone has nothing to be compared with.
    alone = write("y", results(10, 9, 10))
    title, header, row, _, note = compare([alone]).splitlines()[:5]
    assert title == "test: CER in %, with 95 % intervals" and "WER" not in header
    assert row.split("  ")[1] == "38.0 [36.0, 40.0]" and INTERVALS.startswith(note)


def test_runs_on_different_domains_are_compared_on_those_they_share(write):
    a = write("a", results(1, 2, 3))
    b = write("b", [u for u in results(2, 2, 3) if u["domain"] == "en"])
    table, note, told = compare([a, b]).split("\n\n")
    assert table.splitlines()[1].split() == ["en", "WER"]
    assert told.startswith("test: left out, as not all runs") and told.endswith(": fr")
    c = write("c", [u for u in results(2, 2, 3) if u["domain"] == "fr"])
    with pytest.raises(InputError, match="on other utterances of test than"):
        compare([b, c])


def test_a_run_has_the_intervals_of_its_log(write):
    run = [
        utterance(f"en/{key}", n, 4, n, 20)
        for key, n in zip(
            "hcagfbed", (5, 0, 3, 4, 4, 6, 1, 2)
        )  # in the order of batches
    ]
    (told,) = describe(run).splitlines()
    row = compare([write("a", run)], markdown=True).splitlines()[-3]
    assert f", WER {row.split(' | ')[1].removesuffix(' |')} % (" in told


def test_one_run_alone_and_the_splits_that_all_have(write, capsys):
    a = write("a", results(1, 2))
    write("a", results(0, 0), "dev")
    assert NOTE not in compare([a], markdown=True)
    assert [*cells(compare([a], markdown=True))] == [
        "dev, CER %",
        "dev, WER %",
        "test, CER %",
        "test, WER %",
    ]
    b = write("b", results(3, 3))
    assert {x.split(",")[0] for x in cells(compare([a, b], markdown=True))} == {"test"}
    with pytest.raises(InputError, match="b/dev.json: No such file.*eval_splits"):
        compare([a, b], ["dev"])
    main([str(a), "--split", "dev", "--markdown"])
    assert [*cells(capsys.readouterr().out.strip())] == ["dev, CER %", "dev, WER %"]


def test_runs_over_different_utterances(write):
    a, b = write("a", results(1, 1, 1)), write("b", results(1, 1))
    with pytest.raises(InputError) as error:
        compare([a, b])
    assert str(error.value) == (
        "b was evaluated on other utterances of test than a: 2 and 3, of which they "
        "share 2; only one of them has en/b"
    )


def test_of_three_runs_the_one_that_differs_is_named(write):
    a, *others = (write(name, results(1, 1, n)) for n, name in enumerate("abc"))
    write("a", results(1, 1))
    for runs in ([a, *others], [*others, a]):
        told = "^a was evaluated on other utterances of test than b and c: 2 and 3"
        with pytest.raises(InputError, match=told):
            compare(runs)
    wrong = results(1, 1, 1)
    wrong[1] |= {"reference": "x"}
    write("a", wrong)
    told = "^a was evaluated on other transcripts of test than b and c: en/b is 'x' and"
    with pytest.raises(InputError, match=told):
        compare([a, *others])


@pytest.mark.parametrize("changed", [{"reference": "x"}, {"words": 9}])
def test_runs_over_different_transcripts(write, changed):
    a, b = results(1, 1, 1), results(1, 1, 1)
    b[1] |= changed
    with pytest.raises(InputError, match="other transcripts of test than a: en/b is"):
        compare([write("a", a), write("b", b)])


@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', "[{}]", "no JSON"])
def test_what_is_no_result(tmp_path, content):
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(InputError, match="test.json does not hold the results"):
        compare([tmp_path])


def test_a_run_without_results_or_given_twice(tmp_path, write):
    a = write("a", results(1, 1))
    for runs in ([tmp_path / "new"], [a, tmp_path / "new"]):
        told = "no results .neither dev.json nor test.json. in [^,]*/new; a fine-tuning"
        with pytest.raises(InputError, match=told):
            compare(runs)
    b = write("b", results(1, 1), "dev")
    with pytest.raises(InputError, match="different splits: .*/a on test, .*/b on dev"):
        compare([a, b])
    with pytest.raises(InputError, match="a is given twice"):
        compare([a, tmp_path / "x/../a"])


def test_names_are_distinct(tmp_path):
    folders = [tmp_path / "full/PTLOC.1/es", tmp_path / "full/scratch/es", tmp_path]
    assert [*names(folders[:2])] == ["PTLOC.1/es", "scratch/es"]
    assert len(names(folders)) == 3
    assert [*names([tmp_path / "a/b"])] == ["b"]


# ------------------------------------------------------------------- of an experiment


def test_report_of_an_experiment_that_has_not_finished(tmp_path, write, capsys):
    (tmp_path / "hyperparams.yaml").write_text(
        "eval_splits: [dev]\nseeds: [1]\nmodels: [scratch, PTLOC.1]\n"
        "baselines: [scratch]\njudges: {full: {}}\n"
    )
    with pytest.raises(InputError, match="no run has been evaluated yet .no dev.json"):
        report([str(tmp_path)])
    write("finetune/full/scratch/1/en", results(1, 1, 1)[:2], "dev")
    report([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "\nscratch  4.0  10.0\n" in printed and "table.md" in printed
    table = (tmp_path / "table.md").read_text("utf-8")
    assert "| scratch | 4.0 [4.0, 4.0] |" in table
    assert json.loads((tmp_path / "table.json").read_text("utf-8"))[0]["CER"] == 4.0
    assert not (tmp_path / "phases.png").exists()

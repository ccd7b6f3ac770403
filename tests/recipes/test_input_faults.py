"""A file that a user names and that cannot be used: one message, no traceback."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_brain.data import manifest
from hetero_brain.errors import InputError
from tests.processes import python
from tests.recipes.common_voice_fixture import make_release

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = ROOT / "recipes/MultiDomainEnglish"
PREPARE = ENGLISH / "multi_domain_english_prepare.py"
EXPERIMENT = "hetero_brain.experiment"
TRAIN = sorted(ROOT.glob("recipes/*/*/train.py"))


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """refused(script or module, word, …) → what a command says that is refused.

    Python prints what ``sys.exit`` is given on standard error, and exits with code 1.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def refused(script, *words):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, words)])
        run = runpy.run_path if isinstance(script, Path) else runpy.run_module
        with pytest.raises(SystemExit) as end:
            run(str(script), run_name="__main__")
        assert isinstance(end.value.code, str)
        return end.value.code

    return refused


def test_a_refusal_is_printed_without_a_traceback(tmp_path):
    done = subprocess.run(
        [python(), PREPARE, "nowhere.yaml", "manifests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "nowhere.yaml: No such file or directory\n"


@pytest.fixture
def files(tmp_path):
    """{kind of fault: path}."""
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes("domains: [grüße]".encode("latin-1"))
    (tmp_path / "broken.yaml").write_text("domains: [a\nb: c")
    (tmp_path / "other.yaml").write_text("domain: []")
    (tmp_path / "list.yaml").write_text("- name: a\n")
    told = {
        "missing": "No such file or directory",
        "folder": "Is a directory",
        "latin": "not UTF-8 text",
        "broken": "not YAML: line 2",
        "other": "no key 'domains'; is this YAML meant for this command?",
        "list": "a list instead of a mapping",
    }
    return {tmp_path / f"{kind}.yaml": text for kind, text in told.items()}


@pytest.mark.parametrize("script", TRAIN, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_whose_yaml_cannot_be_used(refused, files, script):
    for path, told in [*files.items()][:4]:
        assert refused(script, path, "--data_folder", "d").startswith(f"{path}: {told}")
    words = ["--data_folder", "data", "--output_folder", "out"]
    told = refused(script, ENGLISH / "experiment.yaml", *words)
    assert "no key " in told or "no such key" in told


def test_an_experiment_whose_yaml_is_of_something_else(refused, tmp_path):
    assert refused(EXPERIMENT, tmp_path) == f"{tmp_path}: Is a directory"
    domains = ENGLISH / "domains.yaml"
    told = refused(EXPERIMENT, domains, "--data_root", "/data")
    assert told == f"{domains}: no key 'pretrain'; is this YAML meant for this command?"


def test_an_experiment_names_what_its_steps_lack(refused, tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(
        "output_folder: out\ndata_folder: data\npretrain: {hparams: a.yaml}\n"
        "judges: {ctc: {hparams: b.yaml, seeds: [1], options: ''}, attention: null}\n"
    )
    assert refused(EXPERIMENT, path).splitlines() == [
        f"{path}:",
        "  pretrain: no options",
        "  judges: ctc: no finetune_domains",
        "  judges: attention: no hparams",
        "  judges: attention: no seeds",
        "  judges: attention: no finetune_domains",
        "  judges: attention: no options",
    ]


def test_an_experiment_names_wrong_models_with_the_rest(refused):
    recipe = ROOT / "recipes/VoicePrompts/experiment.yaml"
    judge = {"hparams": "finetune/hparams/ctc.yaml", "finetune_domains": []}
    judge |= {"seeds": [1], "options": ""}
    words = ["--judges", json.dumps({"mine": judge}), "--models", "[scratch,PTLOC1]"]
    told = refused(EXPERIMENT, recipe, *words, "--data_folder", "data").splitlines()
    assert (
        "  judges: mine: finetune_domains is empty: list those to fine-tune on" in told
    )
    assert told[-1].startswith(
        "  models: ['PTLOC1'] are none of scratch, public, CSSL.1"
    )
    assert told[-1].endswith("; did you mean PTLOC.1?")


def test_an_experiment_whose_finetuning_yaml_is_missing(refused, tmp_path):
    recipe = ROOT / "recipes/VoicePrompts/experiment.yaml"
    judges = "{full: {hparams: finetune/nowhere.yaml}}"
    told = refused(EXPERIMENT, recipe, "--judges", judges, "--data_folder", "data")
    assert told.endswith("finetune/nowhere.yaml: No such file or directory")
    assert not list(tmp_path.rglob("results"))  # before anything is trained or written


def test_a_list_of_domains(refused, files):
    for path, told in files.items():
        assert refused(PREPARE, path, "manifests").startswith(f"{path}: {told}")


@pytest.mark.parametrize("step, yaml", [("pretrain", "tiny"), ("finetune", "ctc")])
def test_a_list_of_domains_of_a_run(refused, files, tmp_path, step, yaml):
    words = [ENGLISH / step / "train.py", ENGLISH / step / f"hparams/{yaml}.yaml"]
    words += ["--data_folder", "data", "--size", "tiny"]
    path, told = list(files.items())[-2]
    assert refused(*words, "--domains_file", path).startswith(f"{path}: {told}")
    assert not (tmp_path / "results").exists()
    (tmp_path / "results").mkdir()  # what was there stays
    assert refused(*words, "--domains_file", path).startswith(f"{path}: {told}")
    assert not [*(tmp_path / "results").iterdir()]
    (tmp_path / "out").mkdir()
    words += ["--output_folder", "out", "--domains_file", path]
    assert refused(*words).startswith(f"{path}: {told}")
    log = next(tmp_path.glob("out/log.txt")).read_text("utf-8")
    assert "Traceback" in log  # for whoever wants to know where


def test_a_run_that_has_begun_is_not_removed(refused, tmp_path, monkeypatch):
    """Nothing of it is, whatever stops it then: the log names the files."""
    tested = "hetero_brain.pipelines.recipe_run.RecipeRun.end_iteration"

    def stop(*args):
        raise InputError("all audio is bad")

    monkeypatch.setattr(tested, stop)
    recipe = ROOT / "recipes/VoicePrompts"
    words = [recipe / "pretrain/train.py", recipe / "pretrain/hparams/bestrq.yaml"]
    words += ["--data_folder", recipe / "sample", "--size", "mini", "--device", "cpu"]
    words += ["--labels", "random_projection", "--output_folder", "out"]
    assert refused(*words) == "all audio is bad"
    assert (tmp_path / "out/log.txt").exists() and (tmp_path / "out/CSSL.1").exists()


def test_a_run_that_is_refused_by_its_data_leaves_the_manifests_as_they_were(
    refused, tmp_path, monkeypatch
):
    recipe, copy = ROOT / "recipes/VoicePrompts", tmp_path / "prompts"
    shutil.copytree(recipe / "sample", copy)
    words = [recipe / "finetune/train.py", recipe / "finetune/hparams/ctc.yaml"]
    words += ["--size", "mini", "--device", "cpu", "--finetune_domains", "[es]"]
    words += ["--epochs", "1", "--eval_splits", "[dev]", "--output_folder", "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--data_folder", str(copy)])
    runpy.run_path(str(words[0]), run_name="__main__")
    before = {
        path.name: path.read_bytes() for path in (tmp_path / "out/manifests").iterdir()
    }
    assert {"train.csv", "dev.csv"} <= {*before}
    for path in sorted(copy.glob("es/*.flac"))[5:30]:
        path.unlink()
    assert "another run" in refused(*words, "--data_folder", copy)
    assert before == {
        path.name: path.read_bytes() for path in (tmp_path / "out/manifests").iterdir()
    }
    assert not [*(tmp_path / "out").glob(".manifests*")]


def test_manifests_that_cannot_be_used(refused, tmp_path):
    folder = tmp_path / "manifests"
    folder.mkdir()
    words = [ENGLISH / "pretrain/train.py", ENGLISH / "pretrain/hparams/tiny.yaml"]
    words += ["--data_folder", "data", "--manifest_folder", folder]
    path = folder / "pretrain.csv"
    assert refused(*words) == f"{path}: no such file"
    with path.open("w") as file:
        csv.writer(file).writerows([manifest.COLUMNS, ["a", 1, "no.wav"] + [""] * 5])
    assert "row 2: " in refused(*words)


def test_languages_that_are_not_there(refused, tmp_path):
    data = make_release(tmp_path / "data", ["en"])
    prepare = ROOT / "recipes/CommonVoice/common_voice_prepare.py"
    told = refused(prepare, data, "save", "--pretrain_domains", "en", "fr")
    assert f"fr: no folder {data}/fr" in told
    told = refused(prepare, data, "save", "--pretrain_domains", "enn")
    assert f"enn: no folder {data}/enn; did you mean en?" in told
    prompts = ROOT / "recipes/VoicePrompts/voice_prompts_prepare.py"
    told = refused(prompts, data, "save", "--languages", "xx")
    assert told.startswith(
        "languages (pretrain_domains or finetune_domains) ['xx'] are unknown; known"
    )
    told = refused(prompts, data, "save", "--languages", "enn")
    assert told.endswith("; did you mean en?")
    for step, yaml in (("pretrain", "tiny"), ("finetune", "ctc")):
        words = [ENGLISH / step / "train.py", ENGLISH / step / f"hparams/{yaml}.yaml"]
        words += ["--data_folder", "data", f"--{step}_domains", "[libry]"]
        told = refused(*words, "--size", "mini")
        assert told.startswith(f"{step}_domains: no entry ['libry'] with {step} among")
        assert told.endswith("did you mean libri?")


RANK = """
import os, sys
from hetero_brain.errors import InputError, reported
with reported():
    {}
"""


@pytest.mark.parametrize(
    "does, told",
    [
        (
            "raise InputError('because of this:\\n  and that')",
            "because of this:\n  and that",
        ),
        ("sys.exit('no such file')", "no such file"),
        ("os.environ['RANK'] == '1' and sys.exit('rank 1')", "rank 1"),
    ],
)
def test_ranks_say_why_they_do_not_run_once_and_last(does, told, tmp_path):
    done = ranks(tmp_path, does)
    assert done.returncode == 1 and done.stderr.endswith(f"\n{told}\n")
    assert done.stderr.count(told) == 1
    assert "Traceback" not in done.stderr and "ChildFailed" not in done.stderr


def test_torchrun_says_what_ranks_do_not(tmp_path):
    done = ranks(tmp_path, "raise RuntimeError('a fault of the program')")
    assert done.returncode == 1
    assert "a fault of the program" in done.stderr and "ChildFailedError" in done.stderr


def ranks(folder, does):
    """Two ranks that do something, by templates/torchrun.py."""
    (folder / "rank.py").write_text(RANK.format(does), "utf-8")
    command = [python(), ROOT / "templates/torchrun.py", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", "2", folder / "rank.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

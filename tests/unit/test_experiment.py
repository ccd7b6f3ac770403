"""Experiments: which steps run, what a step's end means, and leaving on a signal."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hetero_brain.errors import InputError
from hetero_brain.pipelines import experiment
from hetero_brain.pipelines.experiment_checks import check, check_models, in_words
from hetero_brain.pipelines.recipe import read_recipe
from hetero_brain.training.preemption import REQUEUE
from tests import processes

ROOT = Path(__file__).resolve().parents[2]


def python(code):
    return [sys.executable, "-c", code]


def test_a_step_that_is_done_does_not_run_again(tmp_path):
    appends = python("open('ran', 'a').write('x')")
    for options in ([], [], ["other"]):
        step = [*appends[:-1], f"import os; os.chdir({str(tmp_path)!r}); {appends[-1]}"]
        experiment.run([*step, *options], tmp_path / "step", threads=1)
    assert (tmp_path / "ran").read_text() == "xx"


def test_threads_of_a_step_wait_idly_unless_told_otherwise(tmp_path, monkeypatch):
    step = python("import os; print(os.environ['OMP_WAIT_POLICY'])")
    for policy in ("PASSIVE", "ACTIVE"):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if policy == "ACTIVE":
            monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        experiment.run(step, tmp_path / policy, threads=1)
        assert (tmp_path / policy / "output.txt").read_text() == f"{policy}\n"


def test_a_step_that_fails_is_named_with_its_output(tmp_path):
    with pytest.raises(
        RuntimeError, match="(?s)failed with .*; see .*step/output.txt.*why"
    ):
        experiment.run(python("exit('why')"), tmp_path / "step", threads=1)
    assert not (tmp_path / "step/done").exists()


def test_a_step_that_left_has_the_experiment_leave(tmp_path):
    left, long = python(f"exit({REQUEUE})"), python("import time; time.sleep(2)")
    steps = {tmp_path / "a": left, tmp_path / "b": long, tmp_path / "c": long}
    with pytest.raises(SystemExit) as end:
        experiment.run_all(steps, 1)
    assert end.value.code == REQUEUE
    assert not (tmp_path / "a/done").exists()
    assert not (tmp_path / "c").exists()  # b may have begun


def test_a_signal_reaches_the_steps_and_the_rest_does_not_begin(tmp_path):
    step = python("open('begun', 'a').write('x'); import time; time.sleep(100)")
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from hetero_brain.pipelines import experiment\n"
        "from hetero_brain.training import preemption\n"
        "with preemption.deferred(lambda: 'waiting'):\n"
        f"    experiment.run_all({{Path(n): {step!r} for n in 'abc'}}, 2)\n"
    )
    process = subprocess.Popen([processes.python(), "-c", script], cwd=tmp_path)
    begun = tmp_path / "begun"
    while not begun.exists() or begun.read_text() != "xx":
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == REQUEUE
    assert sorted(path.parent.name for path in tmp_path.glob("*/output.txt")) == [
        "a",
        "b",
    ]
    assert not list(tmp_path.glob("*/done"))


def runs(process, text):
    """Whether the command line of a process, as in /proc, has a text."""
    try:
        return text in (process / "cmdline").read_text(errors="replace")
    except OSError:
        return False


def test_a_second_signal_kills_the_steps(tmp_path):
    step = python(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open('begun', 'w'); time.sleep(100)"
    )
    script = (
        "from pathlib import Path\n"
        "from hetero_brain.pipelines import experiment\n"
        "from hetero_brain.training import preemption\n"
        "with preemption.deferred(lambda: 'waiting', experiment.abandon):\n"
        f"    experiment.run_all({{Path('a'): {step!r}}}, 1)\n"
    )
    process = subprocess.Popen(
        [processes.python(), "-c", script],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    lines = iter(process.stderr.readline, "")  # others print there, too
    assert "SIGTERM: waiting; once more to leave now\n" in lines
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == REQUEUE
    assert not [p for p in Path("/proc").glob("[0-9]*") if runs(p, step[-1])]


def test_phases_that_start_from_the_same_run_at_once(tmp_path):
    spec = {
        "data_folder": "/data",
        "seeds": [1, 2],
        "pretrain": {
            "hparams": "pretrain/hparams/bestrq.yaml",
            "options": "--n_rounds 2 --n_mels 20 --codebook_size 16",
        },
    }
    recipe = ROOT / "recipes/VoicePrompts"
    first, second = experiment.pretraining_commands(spec, recipe, tmp_path)
    assert {str(folder.relative_to(tmp_path)) for folder in first} == {
        "pretrain/1/CSSL.1",
        "pretrain/2/CSSL.1",
    }
    assert {
        str(folder.relative_to(tmp_path)): c[-1] for folder, c in second.items()
    } == {
        f"pretrain/{seed}/{names[0]}": str(list(names)).replace("'", '"')
        for seed in (1, 2)
        for names in (("PTLOC.1", "CSSL.2", "PTLOC.2"), ("CSSL-continued.1",))
    }
    folder = tmp_path / "pretrain/1/PTLOC.1"
    assert experiment.log_folders(second[folder], folder) == [
        tmp_path / "pretrain/1" / name for name in ("PTLOC.1", "CSSL.2", "PTLOC.2")
    ]
    assert experiment.log_folders(["train.py", "--seed", "1"], folder) == [folder]
    assert not list(tmp_path.iterdir())


def spec_of(*words):
    path = ROOT / "recipes/VoicePrompts/experiment.yaml"
    return read_recipe([str(path), "--data_folder", "x", *words])[0]


@pytest.mark.parametrize(
    "words, told",
    [
        ([], None),
        (["--judges", "{full: {seeds: []}}"], None),
        (["--models", "[scratch]", "--seeds", "[]"], None),
        (
            ["--judges", "{full: {seeds: [1, 3]}}"],
            "full: seeds: [3] are not pre-trained",
        ),
        (["--seeds", "[1]"], "probe: seeds: [2] are not pre-trained (seeds: [1])"),
    ],
)
def test_judges_have_seeds_that_are_pretrained(words, told):
    spec = spec_of(*words)
    if told is None:
        return check(spec)
    with pytest.raises(InputError) as error:
        check(spec)
    (_, line) = str(error.value).splitlines()
    assert line.startswith(f"  judges: {told}")


def test_models_are_phases_and_the_other_phases_are_named(caplog):
    phases = ["CSSL.1", "PTLOC.1", "CSSL-continued.1"]
    check_models({"models": ["scratch", "public", *phases]}, phases)
    assert not caplog.records
    check_models({"models": ["scratch", "CSSL.1", "PTLOC.1"]}, phases)
    assert caplog.messages == [
        "CSSL-continued.1: pre-trained, but not among models, so not fine-tuned"
    ]
    with pytest.raises(
        InputError, match=r"models: \['PTLOC.2'\] are none of scratch, pub"
    ):
        check_models({"models": ["scratch", "PTLOC.2"]}, phases)


def test_an_experiment_says_what_it_finetunes():
    spec = spec_of("--judges", "{full: {seeds: []}}", "--models", "[scratch, PTLOC.1]")
    assert in_words(spec) == (
        "Fine-tunes scratch, PTLOC.1 by probe (seeds [1, 2], domains ['en', 'es', 'fr', "
        "'it', 'ru']); seeds: [] leaves one out"
    )

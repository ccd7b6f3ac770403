"""Preempted runs: when they exit, with which code, and how they continue."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from hetero_brain.data.workers import worker_options
from hetero_brain.models.transfer import find_checkpoint
from hetero_brain.training import preemption
from hetero_brain.training.preemption import MARKER, REQUEUE
from hetero_brain.training.saved import STATE
from tests.processes import python

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).parent / "preempted_run.py"
TORCHRUN = ROOT / "templates/torchrun.py"
RECIPE = ROOT / "recipes/VoicePrompts"
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
PRETRAIN = (
    f"{RECIPE}/pretrain/train.py {RECIPE}/pretrain/hparams/bestrq.yaml --n_mels 20 "
    "--max_utterance_seconds 0.6 --global_batch_seconds 9 --codebook_size 16 "
    "--size mini --cssl_epochs 2 --only_phases [CSSL.1] --log_interval 1"
)
FINETUNE = (
    f"{RECIPE}/finetune/train.py {RECIPE}/finetune/hparams/ctc.yaml "
    "--finetune_domains [es] --max_finetune_hours 0.015 --global_batch_seconds 6 "
    "--size mini --epochs 2 --log_interval 1 --valid_interval 1 "
    "--freeze_encoder_iterations 2"
)


def start(*words, real=False, **options):
    """Start a Python program; with ``real`` not by ``tests/processes.py``."""
    return subprocess.Popen(
        [sys.executable if real else python(), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def run(*words, **options):
    """Exit code and output of a Python program."""
    process = start(*words, **options)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def run_to_the_end(*words, **options):
    """Exit codes of a program that is restarted as long as its code is REQUEUE."""
    codes, outputs = [REQUEUE], []
    while codes[-1] == REQUEUE and len(codes) < 6:
        code, output = run(*words, **options)
        codes.append(code)
        outputs.append(output)
    assert codes[-1] == 0, "\n".join(outputs)
    return codes[1:], outputs


def result(folder):
    """Logs and contents of the last checkpoints of all phases of a run."""
    logs = sorted(folder.glob("**/log.jsonl"))
    assert logs
    tensors = []
    for log in logs:
        checkpoint = find_checkpoint(log.parent)
        for path in sorted(checkpoint.glob("*.ckpt")):
            if path.read_bytes()[:2] != b"PK":  # not torch's format: text
                tensors.append(path.read_text())
            elif path.name != STATE:  # it has the sizes of events files, too
                tensors += tree_leaves(torch.load(path, weights_only=True))
    return [log.read_text() for log in logs], tensors


def assert_same(one, other):
    """Two finished runs have the same logs and weights."""
    (logs, tensors), (other_logs, other_tensors) = result(one), result(other)
    assert logs == other_logs
    assert len(tensors) == len(other_tensors)
    for a, b in zip(tensors, other_tensors):
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("never")
    assert run(TOY, folder, "never")[0] == 0
    return folder


@pytest.mark.parametrize(
    "when, times, entries",  # of the log: three iterations and a validation an epoch
    [
        ("train 3", 2, 3),  # the last iteration of an epoch, in both phases
        ("valid 1,never", 1, 5),  # the validation is finished, an iteration begun
        ("between", 1, 8),
    ],
)
def test_a_second_signal_and_any_moment(when, times, entries, tmp_path, undisturbed):
    words = (TOY, tmp_path, when, "SIGUSR1", "SIGTERM")
    code, output = run(*words)
    assert code == REQUEUE, output
    assert ("saved" in output) == (when != "between")
    assert lines(tmp_path / "one/log.jsonl") == entries
    codes, _ = run_to_the_end(*words)
    assert codes == [REQUEUE] * (times - 1) + [0]
    assert_same(tmp_path, undisturbed)


def test_signals_to_the_group_leave_loader_workers_alone(tmp_path, undisturbed):
    words = (TOY, tmp_path, "load", *(f"group:{name}" for name in SIGNALS))
    code, output = run(*words, real=True, start_new_session=True)
    assert code == REQUEUE, output
    assert not re.search("worker|tracker", output), output
    assert run(*words)[0] == 0
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_whoever_asks_is_told_and_may_insist(second, tmp_path, undisturbed):
    words = (TOY, tmp_path, "train 2,never", "SIGINT", "pause", second)
    code, output = run(*words)
    assert code == REQUEUE, output
    told = "SIGINT: finishing iteration 2 and saving; once more to leave now"
    left = f"{', '.join(dict.fromkeys(['SIGINT', second]))}: leaving without saving"
    assert told in output and output.index(left) > output.index(told)
    assert not list(tmp_path.glob("one/save/CKPT*"))
    run_to_the_end(*words)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(
    "signals",
    [
        (
            "SIGUSR1",
            "pause",
            "SIGUSR1",
        ),  # a launcher, until it is heard
        ("SIGUSR1", "pause", "SIGTERM"),  # SLURM, before the time limit and at it
        ("SIGINT", "SIGINT"),  # of the terminal, and passed on
    ],
)
def test_what_does_not_insist(signals, tmp_path):
    code, output = run(TOY, tmp_path, "valid 1", *signals)
    assert code == REQUEUE, output
    assert "finishing the validation of epoch 1 and saving" in output
    assert "saved, leaving" in output and "without saving" not in output


def test_torchrun_whoever_insists_has_all_ranks_leave(tmp_path):
    """The wrapper and torchrun are real processes, which find ranks by their parent; with
    ranks that are real, too, the tests of the SLURM templates do so."""
    words = (TORCHRUN, "--standalone", "--nproc-per-node", 2, "--no-python", python())
    process = start(*words, TOY, tmp_path, "sleep 2", real=True)
    while not (tmp_path / "one/disturbed").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == REQUEUE, output
    assert "finishing iteration 2 and saving" in output and "saved" not in output


def test_signals_are_not_blocked_where_workers_were_started():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    worker_options()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_loader_workers_end_with_a_run_that_is_killed(tmp_path):
    process = start(TOY, tmp_path, "train 2", "SIGKILL")
    process.communicate(timeout=180)  # until no worker holds the output any more
    assert process.returncode == -signal.SIGKILL


def test_torchrun_one_rank_told_all_leave(tmp_path, undisturbed):
    words = (TORCHRUN, "--standalone", "--nproc-per-node", 2, "--max-restarts", 1)
    words = (*words, TOY, tmp_path, "train 2,never", "SIGUSR1")
    code, output = run(*words)
    assert code == REQUEUE, output
    assert output.count("saved, leaving") == 2
    assert lines(tmp_path / "one/log.jsonl") == 2
    assert run(*words)[0] == 0
    assert_same(tmp_path, undisturbed)


def test_torchrun_a_rank_that_fails_is_no_reason_to_requeue(tmp_path, undisturbed):
    """Nor a reason to hang, even if the other ranks wait for its checkpoint."""
    words = (TORCHRUN, "--standalone", "--nproc-per-node", 2)
    words = (*words, TOY, tmp_path, "fail 2,full")
    for full in (False, True):
        code, output = run(*words)
        assert code == 1, output
        assert ("disk is full" in output) == full
    assert run(*words)[0] == 0
    assert_same(tmp_path, undisturbed)


def test_torchrun_starts_ranks_again_where_they_were(tmp_path, undisturbed):
    """The beginning of the first phase; the second's checkpoint at iteration 3."""
    words = (TORCHRUN, "--standalone", "--nproc-per-node", 2, "--max-restarts", 2)
    code, output = run(*words, TOY, tmp_path, "fail 2,train 5", "SIGKILL")
    assert code == 0, output
    assert all((tmp_path / phase / "disturbed").exists() for phase in ("one", "two"))
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(
    "recipe, signals", [(PRETRAIN, SIGNALS[:2]), (FINETUNE, SIGNALS[2:])]
)
def test_recipe_leaves_after_the_iteration_and_goes_on(recipe, signals, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    sample = RECIPE / "sample"
    words = (*recipe.split(), "--data_folder", sample, "--noprogressbar")
    assert run(*words, "--output_folder", one)[0] == 0
    (log,) = (path.relative_to(one) for path in one.glob("**/log.jsonl"))
    words = (*words, "--output_folder", other)
    for i, name in enumerate(signals):
        process = start(*words)
        wanted = 2 * (i + 1)
        while not (other / log).exists() or lines(other / log) < wanted:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        output, _ = process.communicate(timeout=60)
        assert process.returncode == REQUEUE, output
        assert f"{name}: saved, leaving, code {REQUEUE}" in output
        assert wanted <= lines(other / log) <= wanted + 2
    assert run(*words)[0] == 0
    assert_same(one, other)


def lines(path):
    return len(path.read_text().splitlines())


def test_ranks_are_not_started_again_in_the_store_of_those_before():
    words = ("-m", "torch.distributed.run", "--standalone", "--max-restarts", 1)
    store = "import os; from hetero_brain.pipelines import recipe; "
    store += "recipe.refuse_used_store(); "
    store += "os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and os._exit(9)"
    code, output = run(*words, "--no-python", python(), "-c", store)
    assert code != 0 and "use templates/torchrun.py" in output
    code, output = run(TORCHRUN, *words[2:], "--no-python", python(), "-c", store)
    assert code == 0, output


def test_the_launcher_has_the_same_code_and_name():
    spec = importlib.util.spec_from_file_location("launcher", TORCHRUN)
    launcher = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launcher)
    assert (launcher.REQUEUE, launcher.MARKER) == (REQUEUE, MARKER)
    assert launcher.SIGNALS == preemption.SIGNALS


@pytest.fixture
def someone_elses_handlers():
    """The handlers of a program that never called ``listen``, unlike other tests here."""
    ours = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in ours.items():
        signal.signal(number, handler)


def test_handlers_are_as_before_behind_a_fit(someone_elses_handlers):
    with preemption.deferred(lambda: "saving"):
        os.kill(os.getpid(), signal.SIGUSR1)
        while not preemption.requested():
            time.sleep(0.01)
        with pytest.raises(SystemExit) as left:
            preemption.leave()
    assert left.value.code == REQUEUE
    assert not preemption.requested()
    handlers = {signal.getsignal(number) for number in preemption.SIGNALS}
    assert handlers == {signal.default_int_handler}


def test_a_forked_process_is_not_asked_for_its_parent(someone_elses_handlers):
    """For example a worker of a plain DataLoader."""
    with preemption.deferred(lambda: "saving"):
        if not (child := os.fork()):
            handlers = {signal.getsignal(number) for number in preemption.SIGNALS}
            alone = signal.set_wakeup_fd(-1) == -1 and handlers == {signal.SIG_DFL}
            os._exit(0 if alone else 1)
        assert os.waitpid(child, 0)[1] == 0

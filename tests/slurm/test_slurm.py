"""The templates on a real SLURM of two nodes on this machine; see mini_slurm.sh."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from hetero_brain.loggers import JsonLinesLogger
from hetero_brain.transfer import find_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "templates/sbatch").glob("*.sbatch"))
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "mungekey")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
needs_slurm = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0,
    reason=f"needs root and Debian's slurmctld slurmd slurm-client munge: no {MISSING}",
)
OPTIONS = (
    "--global_batch_seconds 40 --codebook_size 16 --n_mels 20 --log_interval 1 "
    "--cssl_epochs 3 --ptloc_epochs 1 --only_phases [CSSL.1,PTLOC.1] --noprogressbar"
)
PHASES = ("CSSL.1", "PTLOC.1")


@pytest.fixture(scope="module")
def slurm():
    """mini_slurm(command, node) while SLURM runs; the clients find it."""
    folder = tempfile.mkdtemp(prefix="slurm", dir="/tmp")  # sockets want short paths
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
    patch.setenv("OMP_NUM_THREADS", "1")

    def mini_slurm(command, *node):
        script = [Path(__file__).parent / "mini_slurm.sh", command, folder, *node]
        subprocess.run([*map(str, script)], check=True, timeout=60)

    try:
        mini_slurm("start")
        yield mini_slurm
    finally:
        mini_slurm("stop")
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def edited(template, folder, lines=(), **values):
    """A copy of a template as a user of this machine edits it: no GPU, no module."""
    text = (ROOT / "templates/sbatch" / template).read_text("utf-8")
    head, below = (
        text.split("# ---- nothing", 1)
        if "# ---- nothing" in text
        else (re.split(r"(?=# -+ nothing to edit below)", text, maxsplit=1))
    )
    head = re.sub(r"#SBATCH --(gpus-per-node|mem)=.*\n", "", head)
    values = {
        "DATA": "recipes/VoicePrompts/sample",
        "BACKEND": "gloo",
        "setup": f"() {{ PATH={Path(sys.executable).parent}:$PATH; }}",
        **values,
    }
    for line in ("#SBATCH --cpus-per-task=1", "#SBATCH --time=10", *lines):
        option = line.split("=")[0]
        head, found = re.subn(f"{option}=.*", line, head)
        assert found == 1, line
    for name, value in values.items():
        new = f"{name}{value}" if value.startswith("()") else f"{name}={value}"
        head = re.sub(rf"^{name}(=|\(\)).*", new.replace("\\", r"\\"), head, flags=re.M)
    for name in ("recipes", "templates"):
        (folder / name).symlink_to(ROOT / name)
    path = folder / template
    path.write_text(head + below, "utf-8")
    return path


def run(*command, cwd=None):
    """Output of a command that succeeds."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def submit(path, *options):
    """Submit from the folder of the file; return the job's id."""
    return run("sbatch", "--parsable", *options, path, cwd=path.parent).strip()


def show(job):
    """Field → value of each of a job's tasks."""
    lines = run("scontrol", "show", "job", "--oneliner", job).splitlines()
    return [dict(w.split("=", 1) for w in line.split() if "=" in w) for line in lines]


def wait_until(true, seconds, folder):
    """Wait for something to become true; its value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            logs = [p.read_text("utf-8")[-3000:] for p in folder.glob("*.out")]
            raise AssertionError("\n".join([run("squeue"), *logs]))
        time.sleep(0.25)
    return value


def ended(job, folder, seconds=180):
    """Wait for a job to end; its fields, by task."""

    def all_ended():
        tasks = show(job)
        over = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
        return tasks if all(task["JobState"] in over for task in tasks) else None

    return wait_until(all_ended, seconds, folder)


def iterations(folder, phase="CSSL.1"):
    """How many iterations a run has logged."""
    path = folder / "results/pretrain/1" / phase / "log.jsonl"
    return len(JsonLinesLogger.read(path)) if path.exists() else 0


def assert_same(one, other, phases=PHASES):
    """Every tensor and every log line of two finished runs is the same."""
    for phase in phases:
        files = [find_checkpoint(run / phase) for run in (one, other)]
        names = {path.name for path in files[0].glob("*.ckpt")}
        assert {"encoder.ckpt", "optimizer.ckpt", "brain.ckpt"} <= names
        for name in names - {"brain.ckpt"}:  # that one holds sizes of events files
            ours, theirs = (tree_leaves(load(path / name)) for path in files)
            assert len(ours) == len(theirs), name
            for a, b in zip(ours, theirs):
                assert torch.equal(a, b) if torch.is_tensor(a) else a == b, (
                    phase,
                    name,
                )
        logs = [(run / phase / "log.jsonl").read_text() for run in (one, other)]
        assert logs[0] == logs[1]


def load(path):
    """What a file of a checkpoint holds."""
    try:
        return torch.load(path, weights_only=True)
    except Exception:  # SpeechBrain writes the counter as text
        return path.read_text()


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory):
    """Folder of a run on one node, of two ranks, that nothing disturbs."""
    folder = tmp_path_factory.mktemp("single")
    path = edited(
        "pretrain_single_node.sbatch", folder, RANKS="2", OPTIONS=f"({OPTIONS})"
    )
    job = submit(path, "--cpus-per-task=2")
    (fields,) = ended(job, folder)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "0")
    return folder / "results/pretrain/1"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_is_short_and_its_syntax_right(path):
    run("bash", "-n", path)
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) < 60
    if shutil.which("shellcheck"):
        run("shellcheck", path)


@needs_slurm
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_slurm_takes_the_template(path, slurm, tmp_path):
    run("sbatch", "--test-only", edited(path.name, tmp_path))


def signal_ranks(job, slurm):
    run("scancel", "--signal=USR1", job)


def requeue(job, slurm):
    run("scontrol", "requeue", job)


def kill_node(job, slurm):
    slurm("kill", "2")
    time.sleep(1)
    slurm("node", "2")


@needs_slurm
@pytest.mark.parametrize("disturb", [signal_ranks, requeue, kill_node])
def test_two_nodes_disturbed_give_the_undisturbed_model(
    disturb, slurm, undisturbed, tmp_path
):
    path = edited(
        "pretrain_multi_node.sbatch", tmp_path, RANKS="1", OPTIONS=f"({OPTIONS})"
    )
    job = submit(path)
    wait_until(lambda: iterations(tmp_path) >= 4, 90, tmp_path)
    disturb(job, slurm)
    (fields,) = ended(job, tmp_path)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    assert_same(undisturbed, tmp_path / "results/pretrain/1")


@needs_slurm
def test_a_time_limit_that_strikes(slurm, undisturbed, tmp_path):
    """A limit of a minute, with the warning within the first half of it."""
    path = edited(
        "pretrain_multi_node.sbatch",
        tmp_path,
        ["#SBATCH --time=1", "#SBATCH --signal=B:USR1@30"],
        RANKS="1",
        OPTIONS=f"({OPTIONS})",
    )
    (fields,) = ended(submit(path), tmp_path, 300)
    assert fields["JobState"] == "COMPLETED"
    assert int(fields["Restarts"]) >= 1
    assert_same(undisturbed, tmp_path / "results/pretrain/1")

"""The templates on a real SLURM of two nodes on this machine; see mini_slurm.sh."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from hetero_brain.models.transfer import find_checkpoint
from hetero_brain.training.loggers import JsonLinesLogger
from hetero_brain.training.saved import STATE
from tests.processes import python

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "templates/sbatch").glob("*.sbatch"))
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "mungekey")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
needs_slurm = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0,
    reason=f"needs root and Debian's slurmctld slurmd slurm-client munge: no {MISSING}",
)
SMALL = (
    "--max_utterance_seconds 0.6 --global_batch_seconds 9 --codebook_size 16 --n_mels 20 "
    "--size mini --log_interval 1 --ptloc_epochs 1 --noprogressbar"
)
OPTIONS = f"{SMALL} --cssl_epochs 1 --only_phases [CSSL.1,PTLOC.1]"
PHASES = ("CSSL.1", "PTLOC.1")
# A run that waits for what disturbs it, so that it has not ended by then: until it is
# asked to stop, or the test goes on.
WAITED = 4  # iterations before
PAUSED = f"""
import pathlib, runpy, time
from hetero_brain import HeteroBrain
from hetero_brain.training import preemption

def fit_batch(brain, parts, fit_batch=HeteroBrain.fit_batch):
    while brain.iteration == {WAITED} and not preemption.requested():
        if pathlib.Path("disturbed").exists():
            break
        time.sleep(0.05)
    return fit_batch(brain, parts)

HeteroBrain.fit_batch = fit_batch
runpy.run_path("recipes/VoicePrompts/pretrain/train.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def slurm():
    """Starts SLURM for the session; yields a function that calls mini_slurm.sh."""
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
    """A template in a copy of the repository, edited for this machine without GPUs.

    Arguments
    ---------
    template : str
        Its file's name.
    folder : Path
        Of the copy.
    lines : sequence of str
        ``#SBATCH`` lines in place of those there with the same option.
    **values
        Of the variables; ``setup`` is a function.
    """
    text = (ROOT / "templates/sbatch" / template).read_text("utf-8")
    head, below = re.split(r"(?=# -+ nothing to edit below)", text, maxsplit=1)
    head = re.sub(r"#SBATCH --(gpus-per-node|mem)=.*\n", "", head)
    setup = f"PATH={Path(python()).parent}:$PATH"
    values = {
        "DATA": "recipes/VoicePrompts/sample",
        "setup": f"() {{ {setup}; }}",
        **values,
    }
    for line in ("#SBATCH --cpus-per-task=1", "#SBATCH --time=10", *lines):
        option = line.split("=")[0]
        head, found = re.subn(f"{option}=.*", line, head)
        assert found == 1, line
    for name, value in values.items():
        new = value if value.startswith("()") else f"={value}"
        head, found = re.subn(rf"^({name})(=|\(\)).*", rf"\g<1>{new}", head, flags=re.M)
        assert found, name
    path = folder / "templates/sbatch" / template
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        for name in ("recipes", "templates/torchrun.py"):
            (folder / name).symlink_to(ROOT / name)
    path.write_text(head + below, "utf-8")
    return path


def run(*command, cwd=None):
    """Output of a command that succeeds."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def submit(path, *options):
    """Submit from the copy of the repository; return the job's id."""
    return run("sbatch", "--parsable", *options, path, cwd=path.parents[2]).strip()


def show(job):
    """Field → value of each of a job's tasks."""
    lines = run("scontrol", "show", "job", "--oneliner", job).splitlines()
    return [dict(w.split("=", 1) for w in line.split() if "=" in w) for line in lines]


def wait_until(true, seconds, folder=None):
    """Wait until a function returns a true value, and return it.

    If it does not in time, the logs in a folder are shown.
    """
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            paths = folder.glob("*.out") if folder else ()
            logs = [path.read_text("utf-8")[-3000:] for path in paths]
            raise AssertionError("\n".join([run("squeue"), *logs]))
        time.sleep(0.1)
    return value


def ended(job, folder, seconds=600):
    """Wait for a job to end; its fields, by task."""

    def all_ended():
        tasks = show(job)
        over = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
        return tasks if all(task["JobState"] in over for task in tasks) else None

    return wait_until(all_ended, seconds, folder)


def entries(folder):
    """How many entries the log in a folder has."""
    path = folder / "log.jsonl"
    return len(JsonLinesLogger.read(path)) if path.exists() else 0


def assert_same(one, other, phases=PHASES):
    """Every tensor and every log line of two finished runs is the same."""
    for phase in phases:
        files = [find_checkpoint(run / phase) for run in (one, other)]
        names = {path.name for path in files[0].glob("*.ckpt")}
        assert {"encoder.ckpt", "optimizer.ckpt", "brain.ckpt"} <= names
        for name in names - {STATE}:  # that one holds sizes of events files
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


def signal_ranks(job, slurm, go_on):
    run("scancel", "--signal=USR1", job)
    go_on()


def strike_time_limit(job, slurm, go_on):
    """SLURM checks time limits every 30 s, and warns the job, which waits until then."""
    run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    wait_until(lambda: show(job)[0]["Restarts"] == "1", 120)
    run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    go_on()


def requeue(job, slurm, go_on):
    run("scontrol", "requeue", job)
    go_on()


def kill_node(job, slurm, go_on):
    """SLURM notices a dead node after SlurmdTimeout; the other node waits until then."""
    slurm("kill", "2")
    go_on()
    wait_until(lambda: show(job)[0]["Restarts"] == "1", 60)
    slurm("node", "2")


@needs_slurm
@pytest.mark.parametrize(
    "disturb", [signal_ranks, requeue, kill_node, strike_time_limit]
)
def test_two_nodes_disturbed_give_the_undisturbed_model(
    disturb, slurm, undisturbed, tmp_path
):
    path = edited(
        "pretrain_multi_node.sbatch",
        tmp_path,
        ["#SBATCH --signal=B:USR1@120"],
        RANKS="1",
        TRAIN="paused.py",
        OPTIONS=f"({OPTIONS})",
    )
    (tmp_path / "paused.py").write_text(PAUSED)
    job, log = submit(path), tmp_path / "results/pretrain/1/CSSL.1"
    wait_until(lambda: entries(log) >= WAITED, 90, tmp_path)
    disturb(job, slurm, (tmp_path / "disturbed").touch)
    (fields,) = ended(job, tmp_path)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    assert_same(undisturbed, tmp_path / "results/pretrain/1")


@needs_slurm
def test_array_of_domains_runs_what_is_not_done(slurm, tmp_path):
    options = "--global_batch_seconds 10 --max_finetune_hours 0.02 --epochs 2 "
    options += "--size mini --freeze_encoder_iterations 0"
    path = edited(
        "finetune_array.sbatch",
        tmp_path,
        ["#SBATCH --array=0-1"],
        DOMAINS="(en es)",
        PRETRAINED="null",
        OPTIONS=f"({options} --log_interval 1 --noprogressbar)",
        STAGE=f"{tmp_path}/node",
    )
    job, output = submit(path), tmp_path / "results/ctc/PTLOC.1"
    wait_until(lambda: entries(output / "es") >= 2, 300, tmp_path)
    run("scancel", "--signal=USR1", f"{job}_1")
    tasks = {task["ArrayTaskId"]: task for task in ended(job, tmp_path)}
    assert {task["JobState"] for task in tasks.values()} == {"COMPLETED"}
    assert [tasks[i]["Restarts"] for i in "01"] == ["0", "1"]
    assert (tmp_path / "node/es").is_dir()
    logs = {name: (output / name / "log.jsonl").read_text() for name in ("en", "es")}
    assert (output / "en/dev.json").exists()

    (output / "es/done").unlink()
    kept = {name: (output / name / "dev.json").stat().st_mtime_ns for name in logs}
    tasks = ended(submit(path), tmp_path)
    assert {task["JobState"] for task in tasks} == {"COMPLETED"}
    assert (output / "es/done").exists()
    for name, before in kept.items():  # es was evaluated again, and only that
        after = (output / name / "dev.json").stat().st_mtime_ns
        assert (after > before) == (name == "es")
        assert (output / name / "log.jsonl").read_text() == logs[name]


@needs_slurm
def test_sweep_goes_on_from_the_same_cssl(slurm, undisturbed, tmp_path):
    path = edited(
        "sweep_array.sbatch",
        tmp_path,
        ["#SBATCH --array=0-2"],
        K="(1 2)",
        ALPHA="(0.03)",
        BETA="(0.001)",
        SEEDS="(1)",
        CSSL="cssl",
        OPTIONS=f"({SMALL} --cssl_epochs 1)",
    )
    (tmp_path / "cssl").mkdir()
    (tmp_path / "cssl/1").symlink_to(undisturbed)
    tasks = {task["ArrayTaskId"]: task for task in ended(submit(path), tmp_path)}
    states = [tasks[i]["JobState"] for i in "012"]
    assert states == ["COMPLETED", "COMPLETED", "FAILED"]  # one more than combinations
    (refusal,) = tmp_path.glob("sweep-*_2.out")
    assert "more tasks than" in refusal.read_text()
    for k in (1, 2):
        output = tmp_path / f"results/sweep/K{k}-alpha0.03-beta0.001/1"
        assert (output / "done").exists()
        steps = len(JsonLinesLogger.read(output / "PTLOC.1/log.jsonl"))
        assert steps == entries(undisturbed / "PTLOC.1")


@needs_slurm
def test_commands_of_the_readme(slurm, tmp_path):
    """The commands of the README, except that jobs are held and templates are edited."""
    readme = (ROOT / "templates/README.md").read_text("utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line]
    named = {word for line in commands for word in line.split() if "sbatch/" in word}
    assert named == {f"templates/sbatch/{path.name}" for path in TEMPLATES}
    for path in TEMPLATES:
        edited(path.name, tmp_path)
    small = f" {SMALL} --cssl_epochs 1 --only_phases [CSSL.1]"
    commands = [
        re.sub(r" --(size|global_batch_seconds) \S+", "", line) + small
        if "train.py" in line
        else line
        for line in commands
    ]
    lines = [
        "set -e",
        'sbatch() { command sbatch --hold "$@"; }',
        f"PATH={Path(python()).parent}:$PATH",
        "DATA=recipes/VoicePrompts/sample",
        *commands,
    ]
    try:
        run("bash", "-c", "\n".join(lines), cwd=tmp_path)
    finally:
        run("scancel", "--user=root")

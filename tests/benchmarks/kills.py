"""Kill a small run of VoicePrompts repeatedly, and compare it with an undisturbed run.

> python -m tests.benchmarks.kills [--kills 50] [--seed 1] [--ranks 1] [--workers 0]

A life is one process per rank that runs ``recipes/VoicePrompts/pretrain/train.py`` on the
sample and receives SIGKILL at a seeded random moment: some time after its start or, in
every third life, half-way through a file of a checkpoint. The next life is the same
command. Once a run has finished, another begins, until the number of kills is reached.
Each run must equal the undisturbed one: parameters, moments, counts, logs, TensorBoard's
scalars. If one differs, both folders are kept for inspection.
"""

import argparse
import atexit
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/VoicePrompts"
OPTIONS = {
    "pretrain_domains": "[es, fr]",
    "size": "mini",
    "max_utterance_seconds": 0.6,
    "global_batch_seconds": 10,
    "replicas_per_domain": 2,  # up to 4 ranks
    "cssl_epochs": 1,
    "ptloc_epochs": 1,
    "codebook_size": 16,
    "dropout": 0.1,
    "log_interval": 2,
    "cosine_interval": 3,
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 1,
}


def command(folder, workers):
    """The command line of a run in a folder, with a number of loader workers."""
    words = [RECIPE / "pretrain/train.py", RECIPE / "pretrain/hparams/bestrq.yaml"]
    options = {"data_folder": RECIPE / "sample", "output_folder": folder, **OPTIONS}
    options["num_workers"] = workers
    words += [word for k, v in options.items() for word in (f"--{k}", v)]
    return [*map(str, words), "--noprogressbar"]


def start(folder, ranks=1, workers=0, die_in_write=None):
    """Start the ranks of a run, as forks of this process, which has done the imports.

    Arguments
    ---------
    folder : Path
        Of the run; its output goes to ``<folder>.txt``.
    ranks : int
        Number of processes.
    workers : int
        Loader workers of each.
    die_in_write : int
        If given, rank 0 kills itself half-way through the checkpoint file of this number.

    Returns
    -------
    list of int
        Process ids.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        if process := os.fork():
            processes.append(process)
            continue
        if ranks > 1:
            values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
            values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in values.items()})
        live(folder, workers, die_in_write if rank == 0 else None)
    return processes


def live(folder, workers, die_in_write):
    """Run the command in this process, and end the process."""
    code = 1
    try:
        with open(f"{folder}.txt", "a", encoding="utf-8") as output:
            os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        if die_in_write is not None:
            torch.save = dying(torch.save, die_in_write)
        sys.argv = command(folder, workers)
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()  # os._exit skips them; they stop the loader workers
        os._exit(code)


def dying(save, number):
    """A ``torch.save`` that writes half of the file ``number`` and kills the process."""
    calls = []

    def half(obj, target, **options):
        save(obj, target, **options)
        if not isinstance(target, (str, Path)):
            return  # a buffer, for communication between ranks
        calls.append(target)
        if len(calls) == number:
            os.truncate(target, os.path.getsize(target) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return half


def wait(processes, seconds=float("inf")):
    """Wait for processes; kill them after some seconds, or if one of them fails.

    Returns
    -------
    int or None
        The exit code of the first that failed, 0 if none did, None if it was killed.
    """
    end, codes = time.monotonic() + seconds, []
    while processes:
        late = time.monotonic() > end
        for process in tuple(processes):
            if late:
                os.kill(process, signal.SIGKILL)
            done, status = os.waitpid(process, 0 if late else os.WNOHANG)
            if done:
                processes.remove(process)
                codes.append(os.waitstatus_to_exitcode(status))
        if any(codes):
            end = 0
        time.sleep(0.005)
    code = next((code for code in codes if code), 0)
    return code if code >= 0 else None


def where(folder, begin):
    """What a process started at ``begin`` was doing when killed, judged by its files."""
    phases = [p.parent for p in folder.glob("*/save")]
    if not phases:
        return "before the first phase"
    phase = max(phases, key=lambda path: path.stat().st_ctime_ns)
    unfinished = (phase / "save").glob("unfinished.*")
    if any(path.stat().st_ctime > begin for path in unfinished):
        return f"{phase.name}, writing or deleting a checkpoint"
    if not list((phase / "save").iterdir()):
        return f"{phase.name}, before its first checkpoint"
    return f"{phase.name}, elsewhere"


def checkpoint(phase):
    """File name → contents of the newest checkpoint of a phase."""
    newest = max((phase / "save").glob("CKPT+*"), key=lambda p: p.stat().st_mtime_ns)
    found = {}
    for path in newest.glob("*.ckpt"):
        try:
            found[path.name] = torch.load(path, weights_only=True)
        except Exception:  # a text file, such as the epoch counter's
            found[path.name] = path.read_text(encoding="utf-8")
    if state := found.get("hetero_brain.ckpt"):
        # Drop sizes of TensorBoard's files, which hold times.
        state["logs"] = [log for log in state["logs"] if isinstance(log, int)]
    return found


def scalars(phase):
    """Name and step → the values that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not (phase / "tensorboard").exists():
        return {}
    board = EventAccumulator(str(phase / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    found = {}
    for name in board.Tags()["scalars"]:
        for event in board.Scalars(name):
            found.setdefault(f"{name}, step {event.step}", []).append(event.value)
    return found


def same(a, b):
    """Whether two nested values are equal, tensors bit for bit."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.equal(
            a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def differences(ours, theirs):
    """Describe the differences between two runs.

    Arguments
    ---------
    ours, theirs : Path
        Folders of runs, with a folder ``save`` in them or in the folders of their phases.

    Returns
    -------
    list of str
    """
    places, others = (
        {path.parent.relative_to(folder) for path in folder.rglob("save")}
        for folder in (ours, theirs)
    )
    found = [f"{place}: only in one of the runs" for place in places ^ others]
    for place in () if found else places:
        a, b = ours / place, theirs / place
        states = checkpoint(a), checkpoint(b)
        found += [f"{place}: {name}" for name in states[0].keys() ^ states[1].keys()]
        found += [
            f"{place}: {name}"
            for name in states[0].keys() & states[1].keys()
            if not same(states[0][name], states[1][name])
        ]
        logs = {
            p.name for folder in (a, b) for p in folder.glob("*log*") if p.is_file()
        }
        for name in logs - {"log.txt", "env.log"}:  # SpeechBrain's hold times
            texts = [p / name for p in (a, b)]
            if (
                not all(p.exists() for p in texts)
                or len({p.read_bytes() for p in texts}) != 1
            ):
                found.append(f"{place}: {name}")
        if not same(*(dict(sorted(scalars(p).items())) for p in (a, b))):
            found.append(f"{place}: TensorBoard")
    return found


def main(argv=None):
    """Kill runs, compare them, and print what was killed where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="of each rank's loader")
    args = parser.parse_args(argv)
    rng, hits, lives, runs = random.Random(args.seed), [], [], 0
    folder = Path(tempfile.mkdtemp())
    begin = time.monotonic()
    if wait(start(folder / "alone", args.ranks, args.workers)) != 0:
        sys.exit((folder / "alone.txt").read_text(encoding="utf-8"))
    alone = time.monotonic() - begin
    print(f"undisturbed run: {alone:.1f} s", flush=True)
    while len(hits) < args.kills:
        runs += 1
        run = folder / f"killed{runs}"
        while True:
            seconds, file = rng.uniform(0, alone / 4), rng.randint(1, 30)
            kill, life = len(hits) < args.kills, time.time()
            in_write = kill and len(hits) % 3 == 2
            processes = start(run, args.ranks, args.workers, file if in_write else None)
            wanted = kill and not in_write
            code = wait(processes, seconds if wanted else float("inf"))
            if code == 0:
                break
            if code is not None:
                sys.exit((run.with_suffix(".txt")).read_text(encoding="utf-8"))
            hits.append(where(run, life))
            lives.append(time.time() - life)
            print(f"kill {len(hits)}, {lives[-1]:.1f} s: {hits[-1]}", flush=True)
        if found := differences(folder / "alone", run):
            sys.exit(f"{run} differs after {len(hits)} kills: {found}")
        print(
            f"run {runs} equals the undisturbed one, {len(hits)} kills so far",
            flush=True,
        )
    shutil.rmtree(folder)
    print(f"\n{len(hits)} kills in {runs} runs, all equal to the undisturbed one:")
    for place, count in Counter(hits).most_common():
        print(f"{count:4} {place}")


if __name__ == "__main__":
    main()

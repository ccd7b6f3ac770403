"""Experiments: each step is one command of a recipe's ``train.py``, run if need be.

What a user has to know is said in ``commands/experiment.py``.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from ..errors import InputError
from ..models.transfer import PUBLIC
from ..training import preemption
from .curves import plot_phases
from .earlier_run import refuse_earlier_run
from .experiment_checks import check, check_models, in_words
from .listening import listen
from .live import watch
from .phases import chains
from .pretrained import architecture_of, refuse
from .recipe import load_recipe, read_recipe
from .report import print_learnt, write_tables

running = set()  # processes of the current steps


def abandon():
    """Kill the running steps."""
    for step in tuple(running):
        step.kill()


def overrides(settings):
    """Command-line words for a dict of overrides: strings verbatim (``overrides.py``
    documents how they are read), other values as JSON, which is valid YAML."""
    words = []
    for key, value in settings.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def run(command, folder, threads):
    """Run a command unless ``folder/done`` holds it; log it to ``folder/output.txt``.

    Raises
    ------
    RuntimeError
        The command failed; names the file with its output.
    SystemExit
        A signal asked the command or this process to leave.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, output = folder / "done", folder / "output.txt"
    if done.exists() and done.read_text() == shlex.join(command):
        return
    if preemption.requested():
        sys.exit(preemption.REQUEUE)
    # Threads that wait for each other do so idly: where other programs share the cores,
    # they would else take many times as long.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**waiting, **os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(output, "a", encoding="utf-8") as file:
        step = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        running.add(step)
        terminated = False  # only one SIGTERM: after a second, a step does not save
        while step.poll() is None:
            if preemption.requested() and not terminated:
                step.terminate()
                terminated = True
            time.sleep(0.1)
        running.remove(step)
    code = step.returncode
    if code == preemption.REQUEUE or preemption.requested():
        sys.exit(preemption.REQUEUE)
    if code != 0:
        tail = output.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(
            f"{shlex.join(command)}\nfailed with exit code {code}; see {output}:\n{tail}"
        )
    done.write_text(shlex.join(command))


def debug_options(run_opts):
    """The options that pass the experiment's debug mode on to its steps."""
    if not run_opts["debug"]:
        return []
    settings = {key: run_opts[key] for key in ("debug_batches", "debug_epochs")}
    return ["--debug", "--debug_persistently", *overrides(settings)]


def pretraining_commands(spec, recipe, folder, options=()):
    """Folder of each chain's first phase → the chain's command, as a list of dicts to run
    one after another: the phase that a chain starts from is in an earlier dict.
    ``options`` are appended to each command."""
    waves = defaultdict(dict)
    for seed in spec["seeds"]:
        out = folder / "pretrain" / str(seed)
        command = [
            sys.executable,
            str(recipe / "pretrain/train.py"),
            str(recipe / spec["pretrain"]["hparams"]),
            *_words(spec, spec["pretrain"]),
            *options,
            *overrides({"output_folder": str(out), "seed": seed}),
        ]
        hparams, run_opts, _ = read_recipe(command[2:])
        if not options:  # a run in debug mode begins with an empty folder
            refuse_earlier_run(hparams, run_opts)
        wave = {}
        for chain in chains(hparams["phases"]):
            names = [phase.name for phase in chain]
            wave |= dict.fromkeys(names, wave.get(chain[0].init, -1) + 1)
            only = overrides({"only_phases": names})
            waves[wave[names[0]]][out / names[0]] = [*command, *only]
    return [waves[i] for i in sorted(waves)]


def finetuning_commands(spec, recipe, folder, options=()):
    """Folder of each run → its command: judges × their seeds and domains × models.
    ``options`` are appended to each command."""
    commands = {}
    before, _, _ = read_recipe(
        [str(recipe / spec["pretrain"]["hparams"]), *_words(spec, spec["pretrain"])]
    )
    check_models(spec, [phase.name for phase in before["phases"]])
    trained = architecture_of(before["modules"], before["sample_rate"])
    for judge, settings in spec["judges"].items():
        words = _words(spec, settings)
        path = recipe / settings["hparams"]
        scratch = as_trained(trained, path, judge, words, spec["models"])
        for seed, model, domain in product(
            settings["seeds"], spec["models"], settings["finetune_domains"]
        ):
            out = folder / "finetune" / judge / model / str(seed) / domain
            phase = str(folder / "pretrain" / str(seed) / model)
            commands[out] = [
                sys.executable,
                str(recipe / "finetune/train.py"),
                str(path),
                *words,
                *options,
                *overrides(
                    {
                        "output_folder": str(out),
                        "finetune_domains": [domain],
                        "pretrained": {"scratch": None, PUBLIC: PUBLIC}.get(
                            model, phase
                        ),
                        "eval_splits": spec["eval_splits"],
                        "seed": seed,
                        **(scratch if model == "scratch" else {}),
                    }
                ),
            ]
    return commands


def phase_names(spec, recipe):
    """The names of the phases that are pre-trained, if the YAML says enough to tell."""
    step = spec["pretrain"] or {}
    if not {"hparams", "options"} <= step.keys():
        return None
    argv = [str(recipe / step["hparams"]), *_words(spec, step)]
    return [phase.name for phase in read_recipe(argv)[0]["phases"]]


def as_trained(trained, path, judge, words, models):
    """Overrides that give a judge's model from scratch the architecture of the trained
    ones, which have it by themselves.

    Raises
    ------
    InputError
        The options contradict the pre-training, or the YAML lacks a key.
    """
    hparams, _, _ = read_recipe([str(path), *words])
    own = architecture_of(hparams["modules"], hparams["sample_rate"])
    given = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    try:
        refuse(trained, {k: v for k, v in own.items() if k in given}, "pre-training")
    except InputError as error:
        raise InputError(f"judges: {judge}: {error}") from error
    differing = {k: v for k, v in trained.items() if own and own.get(k) != v}
    lacking = [key for key in differing if key not in hparams]
    if lacking and "scratch" in models:
        raise InputError(
            f"judges: {judge}: {path} needs the keys {', '.join(lacking)}, to make a "
            "model from scratch as the pre-trained ones are"
        )
    return differing


def _words(spec, settings):
    """Overrides of a step: its ``options`` in the YAML, and the data folder."""
    try:
        words = shlex.split(settings["options"])
    except ValueError as error:  # an unclosed quotation mark
        raise InputError(f"options: {settings['options']!r}: {error}") from error
    return [*words, *overrides({"data_folder": spec["data_folder"]})]


def run_experiment(argv):
    """Run the experiment that a command line describes, and print its tables."""
    spec, run_opts, _ = read_recipe(argv)
    recipe = Path(argv[0]).resolve().parent
    check(spec, phase_names(spec, recipe))
    options, folder = debug_options(run_opts), Path(spec["output_folder"])
    pretraining = pretraining_commands(spec, recipe, folder, options)
    finetuning = finetuning_commands(spec, recipe, folder, options)
    spec, _ = load_recipe(argv)  # creates the folder: nothing was refused
    spec.write_record()
    print(*filter(None, [spec.get("opening"), in_words(spec)]), sep="\n", flush=True)
    lines = [
        shlex.join(c) for step in (*pretraining, finetuning) for c in step.values()
    ]
    (folder / "commands.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with preemption.deferred(lambda: "waiting until its steps have saved", abandon):
        before = 0
        for commands in (*pretraining, finetuning):
            run_all(commands, spec["parallel"], before, len(lines))
            before += len(commands)
    print_learnt(spec, folder)
    write_tables(spec, folder)
    plot = folder / "phases.png"
    plot_phases(folder / "pretrain" / str(spec["seeds"][0]), plot)
    if spec.get("listen"):
        run_folder = folder / "finetune" / spec["listen"]
        print(
            listen(run_folder, spec["eval_splits"][0], spec["data_folder"]), end="\n\n"
        )
    print(spec["closing"].format(folder=folder, plot=plot, recipe=recipe))


def log_folders(command, folder):
    """The folders of a chain's phases, or that of a fine-tuning run."""
    *_, key, value = command
    if key != "--only_phases":
        return [folder]
    return [folder.with_name(name) for name in json.loads(value)]


def run_all(commands, parallel, before=0, total=None):
    """Run commands (folder → command), ``parallel`` at a time, and show the progress:
    ``before`` of ``total`` commands of the experiment are done."""
    parallel = min(parallel, len(commands))
    threads = max(1, len(os.sched_getaffinity(0)) // parallel)
    with ThreadPoolExecutor(parallel) as pool:
        futures = {
            pool.submit(run, command, folder, threads): log_folders(command, folder)
            for folder, command in commands.items()
        }
        try:
            watch(futures, before, total or len(commands))
        finally:  # after a failure or a signal, do not start the remaining commands
            pool.shutdown(wait=False, cancel_futures=True)

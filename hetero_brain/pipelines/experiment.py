"""A whole experiment: pre-train, fine-tune every model on every domain, tabulate.

> python -m hetero_brain.experiment recipes/VoicePrompts/experiment.yaml --data_folder /

Each step, a phase or a fine-tuning, is a command of a recipe's ``train.py``;
``commands.txt`` lists them, so that any can be run alone. Phases that start from the
same one run in parallel. Started again, it runs the steps that have not finished. A
signal (see ``preemption``) makes it leave, and the steps that run.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path

from ..errors import InputError
from ..training import preemption
from .recipe import load_recipe, read_recipe
from .report import gather, plot_phases, table
from .rounds import chains

running = set()  # steps, as processes


def abandon():
    """Kill the steps that run."""
    for step in tuple(running):
        step.kill()


def overrides(settings):
    """Command-line words for a dict of overrides: strings as they stand (``overrides.py``
    says what becomes of them), all else as JSON, which is YAML."""
    words = []
    for key, value in settings.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def run(command, folder, threads):
    """Run a command unless ``folder`` says it finished; its output goes to a file there.

    Raises
    ------
    RuntimeError
        It failed; names the file with its output.
    SystemExit
        It was asked to leave, or this process was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, output = folder / "done", folder / "output.txt"
    if done.exists() and done.read_text() == shlex.join(command):
        return
    if preemption.requested():
        sys.exit(preemption.REQUEUE)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(output, "a", encoding="utf-8") as file:
        step = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        running.add(step)
        told = False  # once, since asked twice it does not save
        while step.poll() is None:
            if preemption.requested() and not told:
                step.terminate()
                told = True
            time.sleep(0.1)
        running.remove(step)
    code = step.returncode
    if code == preemption.REQUEUE or preemption.requested():
        sys.exit(preemption.REQUEUE)
    if code != 0:
        tail = output.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{shlex.join(command)}\nfailed; see {output}:\n{tail}")
    done.write_text(shlex.join(command))


def debug_options(run_opts):
    """The words by which a step is run in debug mode, as its experiment is."""
    if not run_opts["debug"]:
        return []
    settings = {key: run_opts[key] for key in ("debug_batches", "debug_epochs")}
    return ["--debug", "--debug_persistently", *overrides(settings)]


def pretraining_commands(spec, recipe, folder, options=()):
    """Folder of each chain's first phase → the chain's command, in several dicts that run
    one after another: what a chain starts from is in a dict before. ``options`` are
    further words of each command."""
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
        hparams, _, _ = read_recipe(command[2:])
        wave = {}
        for chain in chains(hparams["phases"]):
            names = [phase.name for phase in chain]
            wave |= dict.fromkeys(names, wave.get(chain[0].init, -1) + 1)
            only = overrides({"only_phases": names})
            waves[wave[names[0]]][out / names[0]] = [*command, *only]
    return [waves[i] for i in sorted(waves)]


def finetuning_commands(spec, recipe, folder, options=()):
    """Folder of each run → its command; judges × their seeds and domains × models.
    ``options`` are further words of each command."""
    commands = {}
    for judge, settings in spec["judges"].items():
        read_recipe([str(recipe / settings["hparams"]), *_words(spec, settings)])
        for seed, model, domain in product(
            settings["seeds"], spec["models"], settings["finetune_domains"]
        ):
            out = folder / "finetune" / judge / model / str(seed) / domain
            phase = str(folder / "pretrain" / str(seed) / model)
            commands[out] = [
                sys.executable,
                str(recipe / "finetune/train.py"),
                str(recipe / settings["hparams"]),
                *_words(spec, settings),
                *options,
                *overrides(
                    {
                        "output_folder": str(out),
                        "finetune_domains": [domain],
                        "pretrained": None if model == "scratch" else phase,
                        "eval_splits": spec["eval_splits"],
                        "seed": seed,
                    }
                ),
            ]
    return commands


def _words(spec, settings):
    """The overrides of a step that its YAML entry and the experiment give."""
    try:
        words = shlex.split(settings["options"])
    except ValueError as fault:  # a quotation mark without its other one
        raise InputError(f"options: {settings['options']!r}: {fault}") from fault
    return [*words, *overrides({"data_folder": spec["data_folder"]})]


def check(spec):
    """Raise InputError naming every key that a step of an experiment lacks."""
    keys = {"pretrain": ("hparams", "options")}
    steps = {"pretrain": spec["pretrain"]}
    for name, judge in spec["judges"].items():
        keys[f"judges: {name}"] = ("hparams", "seeds", "finetune_domains", "options")
        steps[f"judges: {name}"] = judge
    faults = [
        f"  {step}: no {key}"
        for step, needed in keys.items()
        for key in needed
        if key not in (steps[step] or {})
    ]
    if faults:
        raise InputError("\n".join([f"{spec.path}:", *faults]))


def main(argv):
    """Run the experiment and print its tables."""
    spec, run_opts = load_recipe(argv)
    check(spec)
    options = debug_options(run_opts)
    recipe, folder = Path(argv[0]).resolve().parent, Path(spec["output_folder"])
    pretraining = pretraining_commands(spec, recipe, folder, options)
    finetuning = finetuning_commands(spec, recipe, folder, options)
    lines = [
        shlex.join(c) for step in (*pretraining, finetuning) for c in step.values()
    ]
    (folder / "commands.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with preemption.deferred(lambda: "waiting until its steps have saved", abandon):
        for commands in pretraining:
            run_all(commands, spec["parallel"])
        run_all(finetuning, spec["parallel"])
    write_tables(spec, folder)
    plot = folder / "phases.png"
    plot_phases(folder / "pretrain" / str(spec["seeds"][0]), plot)
    print(spec["closing"].format(folder=folder, plot=plot, recipe=recipe))


def run_all(commands, parallel):
    """Run commands (by their folders), ``parallel`` at a time, and count them."""
    parallel = min(parallel, len(commands))
    threads = max(1, len(os.sched_getaffinity(0)) // parallel)
    names = ", ".join(dict.fromkeys(folder.parts[-1] for folder in commands))
    with ThreadPoolExecutor(parallel) as pool:
        futures = [
            pool.submit(run, command, folder, threads)
            for folder, command in commands.items()
        ]
        try:
            for i, future in enumerate(as_completed(futures), start=1):
                future.result()
                print(f"\r{names}: {i} of {len(futures)}", end="", flush=True)
        finally:  # of a failure, or a signal: what has not begun does not begin
            pool.shutdown(wait=False, cancel_futures=True)
    print()


def write_tables(spec, folder):
    """Print the tables of every split and judge, and write them as Markdown and JSON."""
    texts, rows = [], []
    changes = ("CER - {}", "WER relative to {}")
    rates = ["CER", "WER"]
    rates += [c.format(baseline) for c in changes for baseline in spec["baselines"]]
    for split in spec["eval_splits"]:
        found = gather(folder / "finetune", split, spec["baselines"])
        rows += found
        for judge in spec["judges"]:
            for rate in rates:
                texts += [f"{split} split", ""]
                texts += [table(found, judge, rate, spec["models"]), ""]
    (folder / "table.md").write_text("\n".join(texts), encoding="utf-8")
    (folder / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print("\n".join(texts))

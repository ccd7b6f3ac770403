"""A whole experiment: pre-train, fine-tune every model on every domain, tabulate.

> python -m hetero_brain.experiment recipes/VoicePrompts/experiment.yaml --data_folder /

Each step is a command of a recipe's ``train.py``; ``commands.txt`` lists them, so that
any can be run alone. Started again, it runs those that have not finished.
"""

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from .recipe import load_recipe
from .report import gather, plot_phases, table


def overrides(settings):
    """Command-line words for a dict of overrides; JSON is YAML."""
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
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, output = folder / "done", folder / "output.txt"
    if done.exists() and done.read_text() == shlex.join(command):
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(output, "a", encoding="utf-8") as file:
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment
        ).returncode
    if code != 0:
        tail = output.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{shlex.join(command)}\nfailed; see {output}:\n{tail}")
    done.write_text(shlex.join(command))


def pretraining_commands(spec, recipe, folder):
    """Seed → the command that pre-trains all phases with it."""
    return {
        seed: [
            sys.executable,
            str(recipe / "pretrain/train.py"),
            str(recipe / spec["pretrain"]["hparams"]),
            *shlex.split(spec["pretrain"]["options"]),
            *overrides(
                {
                    "data_folder": spec["data_folder"],
                    "output_folder": str(folder / "pretrain" / str(seed)),
                    "seed": seed,
                }
            ),
        ]
        for seed in spec["seeds"]
    }


def finetuning_commands(spec, recipe, folder):
    """Folder of each run → its command; judges × their seeds and domains × models."""
    commands = {}
    for judge, settings in spec["judges"].items():
        for seed, model, domain in product(
            settings["seeds"], spec["models"], settings["domains"]
        ):
            out = folder / "finetune" / judge / model / str(seed) / domain
            phase = str(folder / "pretrain" / str(seed) / model)
            commands[out] = [
                sys.executable,
                str(recipe / "finetune/train.py"),
                str(recipe / settings["hparams"]),
                *shlex.split(settings["options"]),
                *overrides(
                    {
                        "data_folder": spec["data_folder"],
                        "output_folder": str(out),
                        "domains": [domain],
                        "pretrained": None if model == "scratch" else phase,
                        "eval_splits": spec["eval_splits"],
                        "seed": seed,
                    }
                ),
            ]
    return commands


def main(argv):
    """Run the experiment and print its tables."""
    spec, _ = load_recipe(argv)
    recipe, folder = Path(argv[0]).resolve().parent, Path(spec["output_folder"])
    pretraining = pretraining_commands(spec, recipe, folder)
    finetuning = finetuning_commands(spec, recipe, folder)
    lines = [shlex.join(c) for c in (*pretraining.values(), *finetuning.values())]
    (folder / "commands.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run_all(jobs, what):
        """Run (command, folder) pairs, some in parallel, and count them."""
        parallel = min(spec["parallel"], len(jobs))
        threads = max(1, len(os.sched_getaffinity(0)) // parallel)
        with ThreadPoolExecutor(parallel) as pool:
            futures = [pool.submit(run, *job, threads) for job in jobs]
            try:
                for i, future in enumerate(futures, start=1):
                    future.result()
                    print(f"\r{what}: {i} of {len(futures)}", end="", flush=True)
            finally:  # of a failure, or Ctrl-C: what has not begun does not begin
                pool.shutdown(wait=False, cancel_futures=True)
        print()

    jobs = [(c, folder / "pretrain" / str(seed)) for seed, c in pretraining.items()]
    run_all(jobs, "pre-training, all phases")
    run_all([(c, out) for out, c in finetuning.items()], "fine-tuning")

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
    plot = folder / "phases.png"
    plot_phases(folder / "pretrain" / str(spec["seeds"][0]), plot)
    print("\n".join(texts))
    print(spec["closing"].format(folder=folder, plot=plot, recipe=recipe))


if __name__ == "__main__":
    main(sys.argv[1:])

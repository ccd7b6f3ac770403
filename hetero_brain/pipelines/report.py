"""Tables and plots of the results of runs, and of a whole experiment.

> python -m hetero_brain report results/demo
"""

import json
from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path

from ..errors import InputError
from ..recognition.error_rates import (
    UNITS,
    bootstrap_interval,
    error_counts,
    with_interval,
)
from ..training.loggers import JsonLinesLogger
from .yaml_files import load_tree, read_tree

MAX_COLUMNS = 8  # with more domains a table has them as rows, and models as columns


def gather(folder, split, baselines=()):
    """Error rates of all fine-tuning runs under a folder.

    Arguments
    ---------
    folder : str or Path
        Holds ``<judge>/<model>/<seed>/<domain>/<split>.json``.
    split : str
        ``dev`` or ``test``.
    baselines : sequence of str
        Models that every other is compared with, utterance by utterance.

    Returns
    -------
    list of dict
        One row per (judge, model, domain), and one for all domains of a model together.
        See :func:`result_rows`. A domain is that of the utterances; ``a → b`` is domain b
        recognised after fine-tuning on domain a.
    """
    runs = defaultdict(list)
    for path in sorted(Path(folder).glob(f"*/*/*/*/{split}.json")):
        judge, model, _, trained = path.parts[-5:-1]
        by_domain = defaultdict(list)
        for utterance in json.loads(path.read_text("utf-8")):
            domain = utterance["domain"]
            matched = domain.split("/")[0] == trained
            by_domain[domain if matched else f"{trained} → {domain}"].append(utterance)
        for domain, utterances in by_domain.items():
            runs[judge, model, domain].append(utterances)
    return result_rows(runs, split, baselines)


def result_rows(runs, split, baselines=()):
    """Error rates of runs with their intervals, and differences from the baselines.

    Arguments
    ---------
    runs : dict
        (judge, model, domain) → for each seed, its utterances with their errors, in the
        same order. A model with several domains gets the domain ``all``.
    split, baselines
        As for :func:`gather`.

    Returns
    -------
    list of dict
        One row per (judge, model, domain). ``CER`` and ``WER`` are in percent over the
        utterances of all seeds. Each has ``CER_low`` and ``CER_high`` (95 % interval) and
        ``CER_seeds`` (one per seed). Where a baseline was run on the same utterances
        there are also ``CER - <baseline>``, the difference, and ``CER relative to
        <baseline>``, the difference in percent of the baseline's errors.
    """
    runs = dict(runs)
    for judge, model in dict.fromkeys(key[:2] for key in runs):
        domains = [v for (j, m, _), v in runs.items() if (j, m) == (judge, model)]
        if len(domains) > 1:
            runs[judge, model, "all"] = [sum(seeds, []) for seeds in zip(*domains)]
    rows = []
    for (judge, model, domain), seeds in runs.items():
        row = {"judge": judge, "model": model, "domain": domain, "split": split}
        for rate, unit in UNITS.items():
            errors, totals = error_counts(seeds, unit)
            row[f"{rate}_seeds"] = (100 * errors.sum(1) / totals.sum(1)).tolist()
            # Seeds of an utterance are not independent, so they are resampled together.
            errors, totals = errors.sum(0), totals.sum(0)
            fractions = {rate: (errors, totals)}
            for baseline in baselines:
                other = runs.get((judge, baseline, domain))
                if baseline != model and other and _ids(other) == _ids(seeds):
                    theirs = error_counts(other, unit)[0].sum(0)
                    fractions[f"{rate} - {baseline}"] = errors - theirs, totals
                    if theirs.sum():
                        change = errors - theirs, theirs
                        fractions[f"{rate} relative to {baseline}"] = change
            for name, fraction in fractions.items():
                interval = bootstrap_interval(*fraction, domain + split)
                row[name], row[f"{name}_low"], row[f"{name}_high"] = interval
        rows.append(row)
    return rows


def _ids(seeds):
    """IDs of the utterances of each seed."""
    return [[utterance["id"] for utterance in run] for run in seeds]


def rates(baselines):
    """What the tables of an experiment show: rates, and differences from baselines."""
    changes = ("CER - {}", "WER relative to {}")
    return ["CER", "WER"] + [c.format(b) for c in changes for b in baselines]


def table(rows, judge, rate="CER", models=None):
    """One judge's rates as a Markdown table, with models as rows and domains as columns,
    or the other way round if there are many domains.

    Arguments
    ---------
    rows : list of dict
        From :func:`gather`.
    judge : str
        E.g. ``probe``.
    rate : str
        ``CER``, ``WER``, or a difference such as ``CER - scratch``.
    models : list of str
        Their order; that of ``rows`` by default. Models without the rate are left out.

    Returns
    -------
    str
    """
    cells = {(r["model"], r["domain"]): r for r in rows if r["judge"] == judge}
    cells = {key: row for key, row in cells.items() if rate in row}
    models = models or list(dict.fromkeys(model for model, _ in cells))
    models = [m for m in models if any(m == name for name, _ in cells)]
    domains = list(dict.fromkeys(domain for _, domain in cells))
    ends = ("", "_low", "_high")
    texts = {
        place: with_interval(*(row[rate + end] for end in ends))
        for place, row in cells.items()
    }
    if len(domains) <= MAX_COLUMNS:
        row_names, columns = models, domains
    else:
        row_names, columns = domains, models
        texts = {(domain, model): text for (model, domain), text in texts.items()}
    lines = [f"| {judge}, {rate} % | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in row_names:
        found = [texts.get((name, column), "–") for column in columns]
        lines.append(f"| {name} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def write_tables(spec, folder):
    """Print the tables of an experiment, and write them as Markdown and JSON.

    Arguments
    ---------
    spec : dict
        The YAML of the experiment: its ``eval_splits``, ``judges``, ``models`` and
        ``baselines``.
    folder : Path
        Its output folder; gets ``table.md`` and ``table.json``.
    """
    texts, rows = [], []
    for split in spec["eval_splits"]:
        found = gather(folder / "finetune", split, spec["baselines"])
        rows += found
        for judge in spec["judges"]:
            for rate in rates(spec["baselines"]):
                texts += [f"{split} split", ""]
                texts += [table(found, judge, rate, spec["models"]), ""]
    (folder / "table.md").write_text("\n".join(texts), encoding="utf-8")
    (folder / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print("\n".join(texts))


def plot_phases(folder, path):
    """Plot the figures of every phase in a folder, per domain, as a PNG: losses, and in
    PTLOC phases local gains, update angles and lengths of the local solves.

    Arguments
    ---------
    folder : str or Path
        Output folder of pre-training, with ``<phase>/log.jsonl``.
    path : str or Path
        The PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    logs = sorted(Path(folder).glob("*/log.jsonl"), key=lambda p: p.stat().st_mtime)
    panels = {
        "loss_at_theta": "loss at θ (nats)",
        "local_gain": "local gain (nats)",
        "update_angle": "update angle (degrees)",
        "step_ratio": "‖φ − θ‖ / ‖Δθ‖",
    }
    size = 4 * len(logs), 2.8 * len(panels)
    figure, axes = plt.subplots(len(panels), len(logs), figsize=size, squeeze=False)
    for column, log in zip(axes.T, logs):
        entries = [e for e in JsonLinesLogger.read(log) if "train" in e]
        is_ptloc = any(
            key.startswith("step_ratio") for e in entries for key in e["train"]
        )
        column[0].set_title(log.parent.name)
        for axis, (name, label) in zip(column, panels.items()):
            if name != "loss_at_theta" and not is_ptloc:
                axis.set_visible(False)
                continue
            for domain, points in sorted(curves(entries, name).items()):
                axis.plot(*zip(*points), label=domain)
            axis.set_xlabel("iteration")
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
    axes[0, 0].legend()
    for row in axes:
        limits = [axis.get_ylim() for axis in row if axis.get_visible()]
        for axis in row:
            if limits:
                axis.set_ylim(min(limits)[0], max(high for _, high in limits))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def curves(entries, name):
    """Domain → its (iteration, value) pairs of a figure in the entries of a log."""
    found = defaultdict(list)
    for entry in entries:
        for key, value in entry["train"].items():
            if key.startswith(f"{name}/"):
                found[key.split("/", 1)[1]].append((entry["iteration"], value))
    return found


def main(argv):
    """Print and write the tables of an experiment, and its plot.

    Raises
    ------
    InputError
        The folder is not that of an experiment, or nothing has been evaluated yet.
    """
    parser = ArgumentParser(
        "python -m hetero_brain report",
        description="Writes table.md, table.json and phases.png of an experiment from "
        "what its runs have written so far, and prints the tables.",
    )
    parser.add_argument("folder", type=Path, help="output folder of an experiment")
    folder = parser.parse_args(argv).folder
    path = folder / "hyperparams.yaml"
    spec, _ = load_tree(path, read_tree(path))
    names = [f"{split}.json" for split in spec["eval_splits"]]
    if not any(next(folder.glob(f"finetune/*/*/*/*/{n}"), None) for n in names):
        raise InputError(
            f"{folder}/finetune: no run has been evaluated yet (no {' or '.join(names)})"
        )
    write_tables(spec, folder)
    pretraining = folder / "pretrain" / str(spec["seeds"][0])
    if next(pretraining.glob("*/log.jsonl"), None):
        plot_phases(pretraining, folder / "phases.png")

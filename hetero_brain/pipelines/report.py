"""The results of runs, and the tables of a whole experiment."""

import csv
import json
from collections import defaultdict
from pathlib import Path

from ..errors import InputError
from ..recognition.error_rates import (
    UNITS,
    bootstrap_interval,
    error_counts,
)
from .curves import plot_phases
from .learnt import learnt
from .tables import LATEX, RECORD, note, overviews, rates, table
from .yaml_files import load_tree, read_tree

BOOKTABS = r"% \usepackage{booktabs}"


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
                interval = bootstrap_interval(*fraction)
                row[name], row[f"{name}_low"], row[f"{name}_high"] = interval
        rows.append(row)
    return rows


def _ids(seeds):
    """IDs of the utterances of each seed."""
    return [[utterance["id"] for utterance in run] for run in seeds]


def write_tables(spec, folder):
    """Print a table for each judge of an experiment, and write the tables of all rates
    and differences as Markdown, LaTeX and CSV, and all their figures as JSON.

    Arguments
    ---------
    spec : dict
        The YAML of the experiment: its ``eval_splits``, ``judges``, ``models`` and
        ``baselines``.
    folder : Path
        Its output folder; gets ``table.md``, ``table.tex``, ``table.csv`` and
        ``table.json``.
    """
    printed, markdown, latex, records, rows = [], [], [BOOKTABS], [], []
    for split in spec["eval_splits"]:
        found = gather(folder / "finetune", split, spec["baselines"])
        rows += found
        title = f"Results on the {split} split"
        heading = f"{title}, with 95 % intervals"
        made = [
            table(found, judge, rate, spec["models"])
            for judge in spec["judges"]
            for rate in rates(spec["baselines"])
        ]
        made = [one for one in made if one.cells]
        if made:
            compared = found, spec["judges"], spec["baselines"], spec["models"]
            printed += [title, *overviews(*compared)]
        markdown += [f"## {heading}", *(one.markdown() for one in made), note(made)]
        latex += [*(one.latex(f"{split} split") for one in made)]
        latex += [note(made).translate(LATEX)]
        records += [record for one in made for record in one.records(split)]
    (folder / "table.md").write_text(paragraphs(markdown), encoding="utf-8")
    (folder / "table.tex").write_text(paragraphs(latex), encoding="utf-8")
    with open(folder / "table.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([RECORD, *records])
    (folder / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    printed.append(f"With intervals, WER and all differences: {folder / 'table.md'}")
    print(paragraphs(printed))


def paragraphs(texts):
    """Texts, but for empty ones, with empty lines between them and a line's end."""
    return "\n\n".join(filter(None, texts)) + "\n"


def print_learnt(spec, folder):
    """Print what pre-training with an experiment's first seed has learnt; arguments are
    as for :func:`write_tables`."""
    seed = spec["seeds"][0] if spec["seeds"] else None
    if text := learnt(folder / "pretrain" / str(seed)):
        print(paragraphs([f"What pre-training has learnt (seed {seed})", text]))


def report(folder):
    """Print and write the tables of an experiment, finished or not, and its plot.

    Arguments
    ---------
    folder : Path
        Output folder of an experiment.

    Raises
    ------
    InputError
        The folder is not that of an experiment, or nothing has been evaluated yet.
    """
    path = folder / "hyperparams.yaml"
    if not path.is_file():
        raise InputError(
            f"{folder}: not the output folder of an experiment (no {path})"
        )
    spec, _ = load_tree(path, read_tree(path))
    names = [f"{split}.json" for split in spec["eval_splits"]]
    if not any(next(folder.glob(f"finetune/*/*/*/*/{n}"), None) for n in names):
        raise InputError(
            f"{folder}/finetune: no run has been evaluated yet (no {' or '.join(names)})"
        )
    print_learnt(spec, folder)
    write_tables(spec, folder)
    pretraining = folder / "pretrain" / str(spec["seeds"][0])
    if next(pretraining.glob("*/log.jsonl"), None):
        plot_phases(pretraining, folder / "phases.png")

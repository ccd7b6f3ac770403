"""Error rates of fine-tuned models on the same speech, and their differences."""

import json
import os
from collections import defaultdict

from ..errors import InputError
from .report import result_rows
from .tables import MARKED, rates, table

SPLITS = ("dev", "test")


def compare(folders, splits=None):
    """Tables of fine-tuning runs, of which the first is the baseline.

    Arguments
    ---------
    folders : list of Path
        Output folders of fine-tuning runs, which hold ``<split>.json``.
    splits : list of str
        What to compare on; by default each of ``dev`` and ``test`` that all have.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    InputError
        A run is given twice or has no results of a split, or two runs differ in
        their utterances or transcripts.
    """
    if splits is None:
        splits = [s for s in SPLITS if all((f / f"{s}.json").exists() for f in folders)]
    splits = splits or SPLITS[-1:]  # so that the error names a run without results
    runs, tables = names(folders), []
    baseline, *others = runs
    compared = [baseline] if others else []
    for split in splits:
        results = {name: read(path / f"{split}.json") for name, path in runs.items()}
        for name in runs:
            check_same(baseline, results[baseline], name, results[name], split)
        rows = result_rows(by_domain(results, split), split, [baseline])
        tables += [table(rows, split, rate).markdown() for rate in rates(compared)]
    return "\n\n".join([*tables, MARKED] if compared else tables)


def names(folders):
    """Short names of runs: their paths below the folder that they have in common.

    Example
    -------
    >>> [*names([Path("out/PTLOC.1/1/es"), Path("out/scratch/1/es")])]
    ['PTLOC.1/1/es', 'scratch/1/es']
    """
    paths = [os.path.abspath(folder) for folder in folders]
    if repeated := [folder for folder, p in zip(folders, paths) if paths.count(p) > 1]:
        raise InputError(f"{repeated[0]} is given twice")
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return {os.path.relpath(p, common): f for p, f in zip(paths, folders)}


def read(path):
    """The utterances of an evaluation, from its JSON file, ordered by ID."""
    try:
        utterances = json.loads(path.read_text("utf-8"))
        return sorted(utterances, key=lambda u: (u["id"], u["domain"]))
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; a fine-tuning run writes it when it has "
            "evaluated its best epoch (key eval_splits)"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} does not hold the results of an evaluation"
        ) from error


def check_same(baseline, theirs, name, ours, split):
    """Raise an InputError unless two runs recognised the same utterances, with the same
    transcripts: differences would not be due to the models."""
    theirs, ours = ({u["id"]: u for u in run} for run in (theirs, ours))
    if other := theirs.keys() ^ ours.keys():
        raise InputError(
            f"{baseline} and {name} were evaluated on different utterances of {split}: "
            f"{len(theirs)} and {len(ours)}, of which they share "
            f"{len(theirs.keys() & ours.keys())}; only one of them has {min(other)}"
        )
    keys = ("domain", "reference", "words", "chars")
    for key, utterance in theirs.items():
        texts = [[u.get(k) for k in keys] for u in (utterance, ours[key])]
        if texts[0] != texts[1]:
            raise InputError(
                f"{baseline} and {name} were evaluated on different transcripts of "
                f"{split}: {key} is {utterance.get('reference')!r} and "
                f"{ours[key].get('reference')!r}"
            )


def by_domain(results, split):
    """(split, run, domain) → its only seed, as :func:`result_rows` takes them."""
    runs = defaultdict(lambda: [[]])
    for name, utterances in results.items():
        for utterance in utterances:
            runs[split, name, utterance["domain"]][0].append(utterance)
    return runs

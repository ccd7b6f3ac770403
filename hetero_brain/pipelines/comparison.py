"""Error rates of fine-tuned models on the same speech, and their differences."""

import json
import os
from collections import defaultdict

from ..errors import InputError
from .report import result_rows
from .tables import note, overviews, rates, table

SPLITS = ("dev", "test")
TASK = ("id", "domain", "reference", "words", "chars")  # of an utterance


def compare(folders, splits=None, markdown=False):
    """Tables of fine-tuning runs, of which the first is the baseline.

    Runs on different domains are compared on those that all have.

    Arguments
    ---------
    folders : list of Path
        Output folders of fine-tuning runs, which hold ``<split>.json``.
    splits : list of str
        What to compare on; by default each of ``dev`` and ``test`` that all have.
    markdown : bool
        Whether to give all rates and differences with their intervals, as Markdown;
        otherwise the text has a table for each split.

    Returns
    -------
    str

    Raises
    ------
    InputError
        A run is given twice or has no results of a split, or two runs differ in
        their utterances or transcripts.
    """
    runs, rows, left = names(folders), [], {}
    splits = splits or common_splits(folders)
    baseline, *others = runs
    compared = [baseline] if others else []
    for split in splits:
        results = {name: read(path / f"{split}.json") for name, path in runs.items()}
        results, left[split] = on_shared_domains(results)
        check_all_same(results, split)
        rows += result_rows(by_domain(results, split), split, [baseline])
    told = [
        f"{split}: left out, as not all runs were evaluated on it: {', '.join(domains)}"
        for split, domains in left.items()
        if domains
    ]
    if markdown:
        tables = [table(rows, s, rate) for s in splits for rate in rates(compared)]
        texts = [*(made.markdown() for made in tables), note(tables)]
    else:
        texts = overviews(rows, splits, compared)
    return "\n\n".join(filter(None, texts + told))


def on_shared_domains(results):
    """What all runs were evaluated on, if they share domains.

    Arguments
    ---------
    results : dict
        Name of a run → its utterances.

    Returns
    -------
    dict
        The same, without utterances of domains that only some runs have; unless they
        share none.
    list of str
        Those domains.
    """
    own = [{u["domain"] for u in utterances} for utterances in results.values()]
    shared = set.intersection(*own)
    if not shared:
        return results, []
    kept = {
        name: [u for u in utterances if u["domain"] in shared]
        for name, utterances in results.items()
    }
    return kept, sorted(set.union(*own) - shared)


def common_splits(folders):
    """The splits that all runs were evaluated on.

    Raises
    ------
    InputError
        There is none; names the runs without any results, or what each of them has.
    """
    found = {f: [s for s in SPLITS if (f / f"{s}.json").exists()] for f in folders}
    if common := [s for s in SPLITS if all(s in own for own in found.values())]:
        return common
    if lacking := [str(folder) for folder, own in found.items() if not own]:
        wanted = " nor ".join(f"{split}.json" for split in SPLITS)
        raise InputError(
            f"no results (neither {wanted}) in {', '.join(lacking)}; a fine-tuning run "
            "writes them when it has evaluated its best epoch (key eval_splits)"
        )
    each = ", ".join(
        f"{folder} on {' and '.join(own)}" for folder, own in found.items()
    )
    raise InputError(f"the runs were evaluated on different splits: {each}")


def names(folders):
    """Short names of runs: their paths below the folder that they have in common.

    Example
    -------
    >>> [*names(["out/PTLOC.1/1/es", "out/scratch/1/es"])]
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


def check_all_same(results, split):
    """Raise an InputError unless all runs recognised the same utterances, with the same
    transcripts: differences would not be due to the models.

    Arguments
    ---------
    results : dict
        Name of a run → its utterances. What most runs have is what the others should.
    split : str
        For the message.
    """
    alike = defaultdict(list)
    for name, utterances in results.items():
        task = json.dumps([[u.get(key) for key in TASK] for u in utterances])
        alike[task].append(name)
    usual, *others = sorted(alike.values(), key=len, reverse=True)
    for name, *_ in others:
        refuse(results, usual, name, split)


def refuse(results, usual, name, split):
    """Raise an InputError that says where a run differs from the usual ones; see
    :func:`check_all_same`."""
    theirs, ours = ({u["id"]: u for u in results[run]} for run in (usual[0], name))
    than = f"than {' and '.join(usual)}"
    if other := theirs.keys() ^ ours.keys():
        raise InputError(
            f"{name} was evaluated on other utterances of {split} {than}: {len(ours)} "
            f"and {len(theirs)}, of which they share {len(theirs.keys() & ours.keys())}; "
            f"only one of them has {min(other)}"
        )
    for key, utterance in theirs.items():
        if any(utterance.get(k) != ours[key].get(k) for k in TASK):
            raise InputError(
                f"{name} was evaluated on other transcripts of {split} {than}: {key} is "
                f"{ours[key].get('reference')!r} and {utterance.get('reference')!r}"
            )


def by_domain(results, split):
    """(split, run, domain) → its only seed, as :func:`result_rows` takes them."""
    runs = defaultdict(lambda: [[]])
    for name, utterances in results.items():
        for utterance in utterances:
            runs[split, name, utterance["domain"]][0].append(utterance)
    return runs

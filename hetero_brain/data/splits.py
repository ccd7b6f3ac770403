"""Which rows of manifests a run trains on, validates on and is evaluated on.

A corpus may have no rows for dev or test, as many small languages do. It is trained on
all the same, and a warning names what it is left out of.
"""

from pathlib import Path

from speechbrain.utils.logger import get_logger

from ..errors import InputError
from . import manifest
from .loaders import labelled

logger = get_logger(__name__)

SPLITS = ("train", "dev", "test")


def pretraining_splits(train_csv, data_root, domains=None):
    """The rows to pre-train on, and those to validate on.

    Arguments
    ---------
    train_csv : str or Path
        A manifest; ``dev.csv`` is beside it, if there are rows for it.
    data_root : str or Path
        As for :func:`manifest.read`.
    domains : sequence of str, optional
        What to pre-train on. Default: all that ``train_csv`` has.

    Returns
    -------
    train : Manifest
    dev : Manifest or None
        Of the domains of ``train`` that have rows in it; None if none has.

    Raises
    ------
    ManifestError
        As :func:`manifest.read`; also for a domain without rows to pre-train on.
    """
    train_csv = Path(train_csv)
    train = manifest.read(train_csv, data_root, domains)
    lack = "pre-trained on, but not validated"
    dev = held_out(train_csv.with_name("dev.csv"), data_root, train.domains, lack)
    return train, dev


def finetuning_splits(
    folder,
    data_root,
    domains,
    eval_splits,
    seed,
    max_finetune_hours=None,
    test_domains=None,
):
    """The transcribed rows of every split that a fine-tuning reads.

    Arguments
    ---------
    folder : str or Path
        Holds ``train.csv`` and, if there are rows for them, ``dev.csv`` and ``test.csv``.
    data_root : str or Path
        As for :func:`manifest.read`.
    domains : sequence of str
        What to fine-tune on.
    eval_splits : sequence of str
        What to evaluate on, from ``SPLITS``.
    seed, max_finetune_hours
        As for :func:`loaders.labelled`, of ``train``.
    test_domains : sequence of str, optional
        What to evaluate on in ``test``. Default: ``domains``.

    Returns
    -------
    dict
        {split: Manifest} of ``train``, ``dev``, and those of ``eval_splits`` that have
        rows.

    Raises
    ------
    InputError
        A split that is unknown, no dev rows at all, or as :func:`loaders.labelled` and
        :func:`manifest.read`.
    """
    if unknown := sorted(set(eval_splits) - set(SPLITS)):
        raise InputError(f"eval_splits: {unknown} unknown; known: {list(SPLITS)}")
    folder = Path(folder)
    train = manifest.read(folder / "train.csv", data_root, domains)
    splits = {"train": labelled(train, seed, max_finetune_hours)}
    for split in dict.fromkeys(("dev", *eval_splits)):
        if split in splits:
            continue
        lack = "not validated" if split == "dev" else f"not evaluated on {split}"
        wanted = test_domains if split == "test" and test_domains else domains
        path = folder / f"{split}.csv"
        if rows := held_out(path, data_root, wanted, lack, transcribed=True):
            splits[split] = labelled(rows, seed)
    if "dev" not in splits:
        raise InputError(
            f"{folder / 'dev.csv'}: no transcribed rows of {', '.join(domains)}. "
            "Fine-tuning chooses its best epoch on them: give one of the domains dev "
            "data, e.g. a part of its training data, or take others"
        )
    return splits


def held_out(path, data_root, domains, lack, transcribed=False):
    """The rows of dev or test; a warning names the domains that have none.

    Arguments
    ---------
    path : Path
        A manifest, which may be missing.
    data_root : str or Path
        As for :func:`manifest.read`.
    domains : sequence of str
        Whose rows; ``libri`` has those of ``libri/test-clean``, too.
    lack : str
        What becomes of a domain without rows, in words.
    transcribed : bool
        Whether only domains with a transcript count.

    Returns
    -------
    Manifest or None
        None if there are no rows.
    """
    there = set()
    if path.is_file():
        rows = manifest.read(path, data_root, check_files=False)
        words = {row["domain"] for row in rows if row["wrd"]} if transcribed else ()
        there = set(words if transcribed else rows.domains)
    found = {name: name if name in domains else name.split("/")[0] for name in there}
    found = {name: domain for name, domain in found.items() if domain in domains}
    if absent := [name for name in domains if name not in found.values()]:
        rows = "transcribed rows" if transcribed else "rows"
        logger.warning(f"{path}: no {rows} of {', '.join(absent)}: {lack}")
    return manifest.read(path, data_root, sorted(found)) if found else None

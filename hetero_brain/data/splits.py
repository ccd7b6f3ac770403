"""Which rows of the manifests a run trains on, validates on and is evaluated on.

A domain may have no dev or test rows, as is the case for many small languages. It is
trained on nevertheless, and a warning says what it is left out of. Another one says when
a run is validated or evaluated on what it trains on.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.logger import get_logger

from ..errors import InputError
from ..training.rng import generator
from . import manifest

logger = get_logger(__name__)

SPLITS = ("train", "dev", "test")


def pretraining_splits(train_csv, data_root, domains=None):
    """The rows to pre-train on, and those to validate on.

    Arguments
    ---------
    train_csv : str or Path
        The manifest to pre-train on. A ``dev.csv`` in the same folder is used, but need
        not exist.
    data_root : str or Path
        As for :func:`manifest.read`.
    domains : sequence of str, optional
        What to pre-train on. Default: all domains of ``train_csv``.

    Returns
    -------
    train : Manifest
    dev : Manifest or None
        The rows of those domains of ``train`` that have dev rows; None if there are none.

    Raises
    ------
    ManifestError
        As for :func:`manifest.read`, which includes a domain without rows to pre-train
        on.
    """
    train_csv = Path(train_csv)
    train = manifest.read(train_csv, data_root, domains)
    consequence = "pre-trained on, but not validated"
    dev_csv = train_csv.with_name("dev.csv")
    dev = held_out(dev_csv, data_root, train.domains, consequence)
    if dev is not None:
        warn_of_shared(train, dev)
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
    """The transcribed rows of every split that fine-tuning reads.

    Arguments
    ---------
    folder : str or Path
        Contains ``train.csv`` and, as far as there are rows for them, ``dev.csv`` and
        ``test.csv``.
    data_root : str or Path
        As for :func:`manifest.read`.
    domains : sequence of str or None
        The domains to fine-tune on. None: all with a transcript in ``train``.
    eval_splits : sequence of str
        The splits to evaluate on, from :data:`SPLITS`.
    seed, max_finetune_hours
        As for :func:`labelled`, for ``train``.
    test_domains : sequence of str, optional
        The domains to evaluate on in ``test``. Default: ``domains``.

    Returns
    -------
    dict
        Split → Manifest: ``train``, ``dev``, and those of ``eval_splits`` that have rows.

    Raises
    ------
    InputError
        If a split is unknown, if no domain has transcripts or dev rows, or as for
        :func:`labelled` and :func:`manifest.read`.
    """
    if unknown := sorted(set(eval_splits) - set(SPLITS)):
        raise InputError(f"eval_splits: {unknown} unknown; known: {list(SPLITS)}")
    folder = Path(folder)
    train_csv = folder / "train.csv"
    if domains is None:
        domains = transcribed_domains(train_csv, data_root)
        if not domains:
            raise InputError(f"{train_csv}: no row has words (wrd) to fine-tune on")
    train = manifest.read(train_csv, data_root, domains)
    splits = {"train": labelled(train, seed, max_finetune_hours)}
    for split in dict.fromkeys(("dev", *eval_splits)):
        if split in splits:
            continue
        consequence = f"not evaluated on {split}" if split != "dev" else "not validated"
        wanted = test_domains if split == "test" and test_domains else domains
        path = folder / f"{split}.csv"
        if rows := held_out(path, data_root, wanted, consequence, transcribed=True):
            splits[split] = labelled(rows, seed)
            warn_of_shared(splits["train"], splits[split])
            tell_of_known_speakers(splits["train"], splits[split])
    if "dev" not in splits:
        dev_csv = folder / "dev.csv"
        missing = "" if dev_csv.is_file() else "no such file, and so "
        raise InputError(
            f"{dev_csv}: {missing}no transcribed rows of {', '.join(domains)}. "
            "Fine-tuning chooses its best epoch on them: give one of the domains dev "
            "data, for example some of its training data, or choose other domains"
        )
    return splits


def held_out(path, data_root, domains, consequence, transcribed=False):
    """The dev or test rows of some domains; a warning names the domains without any.

    Arguments
    ---------
    path : Path
        A manifest, which need not exist.
    data_root : str or Path
        As for :func:`manifest.read`.
    domains : sequence of str
        Whose rows to read. The rows of ``libri/test-clean`` belong to ``libri``, too.
    consequence : str
        What a missing domain is left out of, in words, for the warning.
    transcribed : bool
        Whether to ignore domains without a single transcript.

    Returns
    -------
    Manifest or None
        None if there are no rows.
    """
    present = set()
    if path.is_file():
        if transcribed:
            present = set(transcribed_domains(path, data_root))
        else:
            present = {*manifest.read(path, data_root, check_files=False).domains}
    # {name in the manifest: requested domain that it belongs to}
    found = {name: name if name in domains else name.split("/")[0] for name in present}
    found = {name: domain for name, domain in found.items() if domain in domains}
    if absent := [name for name in domains if name not in found.values()]:
        rows = "transcribed rows" if transcribed else "rows"
        missing = "" if path.is_file() else "no such file, and so "
        logger.warning(
            f"{path}: {missing}no {rows} of {', '.join(absent)}: {consequence}"
        )
    return manifest.read(path, data_root, sorted(found)) if found else None


@main_process_only
def warn_of_shared(train, rows):
    """Log how many rows of dev or test are the same audio as rows of ``train``."""
    own = {audio_of(row): row["ID"] for row in rows}
    # Few other rows have a duration of these; reading them all may take minutes.
    alike = np.flatnonzero(np.isin(train.duration, rows.duration))
    if shared := {audio_of(train[int(i)]) for i in alike} & own.keys():
        example = min(own[audio] for audio in shared)
        logger.warning(
            f"{rows.path}: {len(shared)} of its {len(rows)} rows "
            f"{'is' if len(shared) == 1 else 'are'} in {train.path} as well, such as "
            f"{example}: error rates on what a model has trained on say little about "
            "other speech; remove them from one of the two"
        )


@main_process_only
def tell_of_known_speakers(train, rows):
    """Log how many speakers of dev or test have rows in ``train``, too."""
    speakers, known = (
        {(row["domain"], row["spk_id"]) for row in split if row["spk_id"]}
        for split in (rows, train)
    )
    if shared := len(speakers & known):
        who = f"{shared} of its {len(speakers)} speakers"
        who = "its only speaker" if len(speakers) == 1 else who
        logger.info(
            f"{rows.path}: {who} {'is' if shared == 1 else 'are'} in {train.path} as "
            "well: error rates are lower for speakers that a model knows"
        )


def audio_of(row):
    """What audio a row is: its file, and which part of it."""
    return row["wav"], row["start"], row["stop"], row.get("channel")


def transcribed_domains(path, data_root):
    """The domains of a manifest that have a transcript, sorted."""
    rows = manifest.read(path, data_root, check_files=False)
    return sorted({row["domain"] for row in rows if row["wrd"]})


def labelled(rows, seed, max_finetune_hours=None):
    """The rows that have a transcript, up to a number of hours in each domain.

    Arguments
    ---------
    rows : Manifest
        From which to select.
    seed : int
        Seed of the random selection. With the same seed, a smaller selection is a subset
        of a larger one.
    max_finetune_hours : float or dict, optional
        Hours of audio to keep of each domain. A dict maps domains to their hours; a
        domain that it does not name is kept entirely. Default: all.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        If a domain has no transcript, or none that fits into its hours.
    """
    hours = max_finetune_hours
    if not isinstance(hours, Mapping):
        hours = dict.fromkeys(rows.domains, max_finetune_hours)
    hours = [hours.get(name) for name in rows.domains]
    limits = [np.inf if cap is None else 3600 * cap for cap in hours]
    order = generator(seed, "labels").permutation(len(rows))
    kept, seconds = [], np.zeros(len(rows.domains))
    for row in order:
        domain = rows.domain[row]
        if seconds[domain] <= limits[domain] and rows[int(row)]["wrd"]:
            # The first row that exceeds the limit ends its domain. If shorter rows after
            # it were taken, a smaller selection would not be a subset of a larger one.
            seconds[domain] += rows.duration[row]
            if seconds[domain] <= limits[domain]:
                kept.append(row)
    found = set(rows.domain[kept])
    if bare := [d for i, d in enumerate(rows.domains) if i not in found]:
        raise InputError(
            f"{rows.path}: no transcripts in domains {bare} "
            f"(max_finetune_hours: {max_finetune_hours})"
        )
    return rows.subset(sorted(kept))

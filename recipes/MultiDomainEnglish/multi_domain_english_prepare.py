"""Prepares English corpora as the domains of one experiment: any corpus that lhotse
reads, and CommonVoice, each in the layout of its release.

Each domain is an entry of the list ``domains`` in the YAML. Other corpora need not be
there:

.. code-block:: yaml

    domains:
      - name: libri
        corpus: librispeech          # lhotse's prepare_<corpus>, or commonvoice
        folder: !ref <data_root>/LibriSpeech
        splits:                      # use: lhotse's names of the parts
          pretrain: [train-clean-100, train-clean-360, train-other-500]
          finetune: [train-clean-100]
          dev: [dev-clean]
          test: [test-clean, test-other]   # several: domains libri/test-clean, …
        max_hours: {pretrain: 860, finetune: 100}        # optional
      - name: callhome
        corpus: callhome_english
        folder: !ref <data_root>/LDC97S42
        options: {transcript_dir: !ref <data_root>/LDC97T14}   # for lhotse's function
        splits: {test: [evaltest]}
      - name: switchboard
        corpus: switchboard
        folder: !ref <data_root>/LDC97S62
        options: {transcripts_dir: !ref <data_root>/swb_ms98_transcriptions}
        splits:                      # a corpus without parts: percent of its speakers
          pretrain: ["all[0:90]"]
          dev: ["all[90:95]"]
          test: ["all[95:100]"]
      - name: hindi
        corpus: l2_arctic
        folder: !ref <data_root>/l2arctic_release_v5.0
        where: {accent: [Hindi]}     # a field of lhotse's supervisions, or a column of
        splits: {test: [read]}       # CommonVoice
      - name: ljspeech               # one speaker, who would be left out of training
        corpus: ljspeech
        folder: !ref <data_root>/LJSpeech-1.1
        keep_speakers_apart: False   # percents are then of utterances
        splits: {finetune: ["all[0:98]"], dev: ["all[98:99]"], test: ["all[99:100]"]}

Manifests: ``pretrain.csv``, ``train.csv`` (of ``finetune``), ``dev.csv`` and
``test.csv``, if they have rows. ``train.csv`` and ``test.csv`` only have utterances with
words; the others keep utterances without words if ``english_text`` cannot tell what is
said.

These are left out, and counted in the table:

- all that ``lhotse_corpora`` and ``commonvoice`` find to be unusable;
- from ``pretrain`` and ``finetune``, the speakers who are in ``dev`` or ``test`` of the
  same corpus folder, whichever entry has them there; but not in an entry with
  ``keep_speakers_apart: False``;
- what exceeds ``max_hours``. It is drawn at random by the seed, so that the utterances
  for a smaller cap are among those for a larger one.

To run it on a YAML with ``domains``:
> python multi_domain_english_prepare.py DOMAINS.yaml SAVE_FOLDER --data_root DATA_ROOT
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from hetero_brain.data.corpora import command_line
from hetero_brain.data.corpora.domain_entries import USES, check_entries
from hetero_brain.data.corpora.domain_reading import read_rows
from hetero_brain.data.corpora.domain_rows import write_rows
from hetero_brain.data.corpora.domain_selection import (
    keep_speakers_apart,
    with_words,
    within_max_hours,
)
from hetero_brain.data.corpora.summary import Summary
from hetero_brain.errors import InputError, meant
from hetero_brain.pipelines.yaml_files import Text, load_tree, read_tree

sys.path.append(str(Path(__file__).resolve().parent))
from english_text import normalise  # noqa: E402

logger = logging.getLogger(__name__)

LABELLED = ("finetune", "test")


def prepare_multi_domain_english(domains, save_folder, data_root="", seed=0):
    """Writes the manifests of all domains, and nothing else.

    Call it on the main process only (``run_on_main``). It reads every header again each
    time it runs, and does not touch a manifest that would not change.

    Arguments
    ---------
    domains : list of dict
        The YAML's entries, see above.
    save_folder : str or Path
        The folder for the manifests.
    data_root : str or Path
        ``{data_root}`` in manifests; files outside of it have absolute paths.
    seed : int
        Seed of the draw for ``max_hours``.

    Returns
    -------
    Summary
        Also logged, as a table.

    Raises
    ------
    InputError
        Lists all errors in all entries that can be found without reading the corpora, and
        what to do about them. If there are none: names the first entry that cannot be
        read, or the entries of which nothing is left to train on.
    """
    # 1. The entries are checked, and the corpora are read.
    entries = check_entries(domains)
    summary = Summary()
    rows = read_rows(entries, summary)

    # 2. No speaker of dev or test is trained on.
    try:
        keep_speakers_apart(entries, rows, summary)
    except InputError:  # which the table explains
        logger.info("English domains\n%s", summary.table())
        raise

    # 3. Of each manifest: the words, then the hours.
    for use, split in USES.items():
        for row in rows[use]:
            row.words, row.no_words = normalise(row.segment.text, row.corpus)
        if use in LABELLED:
            rows[use] = with_words(rows[use], split, summary)
        rows[use] = within_max_hours(rows[use], entries, use, seed, summary)
        path = Path(save_folder) / f"{split}.csv"
        write_rows(path, rows[use], data_root, summary)
    logger.info("English domains in %s\n%s", save_folder, summary.table())
    return summary


def load_domains(path, data_root):
    """Reads the list ``domains`` of a YAML.

    Arguments
    ---------
    path : str, Path or None
        The file; None means ``domains.yaml`` of this recipe.
    data_root : str
        Replaces the file's ``data_root`` if there is one; "" does not.

    Returns
    -------
    list of dict

    Raises
    ------
    InputError
        If the file cannot be read, or has no ``domains``.
    """
    path = path or Path(__file__).resolve().parent / "domains.yaml"
    tree = read_tree(path)
    if data_root and "data_root" in tree:
        tree["data_root"] = Text(data_root)
    domains, _ = load_tree(path, tree)
    return domains["domains"]


def prepared(hparams):
    """Prepares the domains of a run on the main process, unless it has manifests already.

    Arguments
    ---------
    hparams : dict
        With ``domains_file``, ``data_folder``, ``data_seed``, ``output_folder`` and
        ``manifest_folder``, the folder of existing manifests or None.

    Returns
    -------
    domains : list of dict
        The entries of ``domains_file``.
    folder : Path
        The folder of the manifests.
    """
    root, folder = hparams["data_folder"], hparams["manifest_folder"]
    domains = load_domains(hparams["domains_file"], root)
    if folder is None:
        check_names(domains, hparams)
        folder = Path(hparams["output_folder"]) / "manifests"
        run_on_main(
            prepare_multi_domain_english,
            args=[domains, folder, root, hparams["data_seed"]],
        )
    return domains, Path(folder)


def check_names(domains, hparams):
    """Raises InputError if a run names domains that no entry has for its use."""
    for use in ("pretrain", "finetune"):
        key = f"{use}_domains"
        entries = (e for e in domains if isinstance(e, Mapping))  # not checked yet
        known = [e.get("name") for e in entries if use in (e.get("splits") or ())]
        if unknown := [x for x in hparams.get(key) or () if x not in known]:
            raise InputError(
                f"{key}: no entry {unknown} with {use} among {known}"
                f"{meant(unknown, known)}"
            )


def prepare_from_yaml(domains, save_folder, data_root, seed):
    """Prepares the list ``domains`` of a file."""
    prepare_multi_domain_english(
        load_domains(domains, data_root), save_folder, data_root, seed
    )


def main():
    parser = command_line.argument_parser(__doc__)
    parser.add_argument("domains", help="a YAML file with the list domains")
    parser.add_argument("save_folder")
    parser.add_argument("--data_root", default="")
    parser.add_argument("--seed", type=int, default=0)
    command_line.run(prepare_from_yaml, parser)


if __name__ == "__main__":
    main()

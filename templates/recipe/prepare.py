"""Prepares MyCorpus: checks the manifests of its data folder, or makes them.

A manifest is a CSV with a row for each utterance; ``hetero_brain.data.manifest`` explains
its columns. Pre-training reads the audio of train, fine-tuning those of its rows that
have words; both validate on dev, which pre-training does not need.

To run it:
> python my_corpus_prepare.py DATA_FOLDER SAVE_FOLDER
"""

import logging
from pathlib import Path

from hetero_brain.data import manifest
from hetero_brain.data.corpora import command_line
from hetero_brain.data.corpora.summary import Summary
from hetero_brain.errors import MissingData

logger = logging.getLogger(__name__)

COLUMNS = (*manifest.COLUMNS, *manifest.OPTIONAL_COLUMNS)


def utterances(data_folder, split):
    """The rows of a split (train, dev or test), as dicts; none if there is no such split.

    It is asked only about data folders that have no manifests; see ``rows_of``.
    """
    # FILL IN, unless you have manifests: yield one dict for each utterance, such as
    #     {"ID": "en/7", "duration": 3.2, "wav": "{data_root}/en/7.flac",
    #      "domain": "en", "spk_id": "anna", "wrd": "good morning"}
    # with seconds, and without a speaker or words that are not known. docs/your_corpus.md
    # has a complete example: durations, speakers of dev and test, long recordings, and
    #     words, reason = normalise(text, "it")
    raise MissingData(
        f"{data_folder / 'train.csv'}: no such file; give a data_folder with train.csv "
        "and, if there are any, dev.csv, which fine-tuning needs, and test.csv. python "
        "-m hetero_brain manifests makes them of unlabelled audio; make other rows in "
        f"{__file__}, at FILL IN"
    )


def rows_of(data_folder, split):
    """The rows of ``SPLIT.csv``, if the data folder has manifests, or ``utterances``."""
    path = data_folder / f"{split}.csv"
    if not (data_folder / "train.csv").is_file():
        yield from utterances(data_folder, split) or ()
    elif path.is_file():  # which may have columns of its own
        for row in manifest.read(path, data_folder):
            yield {key: row[key] for key in COLUMNS if key in row}


def prepare_my_corpus(data_folder, save_folder, domains=None):
    """Writes ``train.csv``, and ``dev.csv`` and ``test.csv`` if there are rows for them.

    Arguments
    ---------
    data_folder, save_folder : str or Path
        The folders of the data and for the manifests.
    domains : sequence of str, optional
        Those that a run will use; the manifests have all. If one has no rows to train on,
        that is said as soon as it can be known.

    Raises
    ------
    MissingData, ManifestError
        There is no such data, or rows are wrong; the message names all of them.
    """
    data_folder, save_folder = Path(data_folder), Path(save_folder)
    if not data_folder.is_dir():
        raise MissingData(f"{data_folder}: no such folder (data_folder)")
    if domains and (data_folder / "train.csv").is_file():
        manifest.first_look(data_folder / "train.csv", domains)
    summary, faults = Summary(), []
    for split in ("train", "dev", "test"):
        path = save_folder / f"{split}.csv"
        write = manifest.write if split == "train" else manifest.write_if_any
        try:
            write(path, rows_of(data_folder, split), COLUMNS)
            for row in manifest.read(path, data_folder) if path.is_file() else ():
                summary.add_row(split, row)
        except manifest.ManifestError as error:  # to name those of all splits at once
            faults.append(str(error))
    if faults:
        raise manifest.ManifestError("\n".join(faults))
    logger.info("MyCorpus in %s\n%s", save_folder, summary.table())


if __name__ == "__main__":
    parser = command_line.argument_parser(__doc__, "data_folder", "save_folder")
    command_line.run(prepare_my_corpus, parser)

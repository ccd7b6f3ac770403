"""Prepares Mozilla Common Voice: languages to pre-train on, unlabelled, and languages to
fine-tune on, with few hours of labels.

The data are unpacked releases, with files such as
``cv-corpus-17.0-2024-03-15/sv-SE/train.tsv``. In ``hetero_brain/data/corpora/``,
``commonvoice.py`` lists which clips are left out, and ``language_text.py`` has the rules
by which a sentence becomes words. Each language is a domain.

============  ==================================  ===============================
manifest      languages                           rows
============  ==================================  ===============================
pretrain.csv  pretrain_languages                  pretrain_splits, with or
                                                  without transcript
train.csv     finetune_languages                  train, with transcript
dev.csv       both                                dev, with or without transcript
test.csv      both                                test, with transcript
============  ==================================  ===============================

A language may have no rows in dev or test, or no such table, as is true of many small
ones; a manifest without any row is not written.

No speaker and no clip of a language's dev and test is in its pretrain and train rows,
although ``validated`` has all of dev and test, and ``other`` and ``invalidated`` have
some of their speakers. Set ``keep_speakers_apart`` for a language of which nothing is
left then. Sentences of ``other`` and ``invalidated`` are not used as transcripts, since
nobody, or not enough listeners, agreed that they were read.

To run it:
> python common_voice_prepare.py DATA_FOLDER SAVE_FOLDER \\
>     --pretrain_languages en fr nl --finetune_languages tr sv-SE ta cy
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from hetero_brain.data import manifest
from hetero_brain.data.corpora import command_line
from hetero_brain.data.corpora.commonvoice import SPLITS, missing
from hetero_brain.data.corpora.commonvoice_rows import LanguageRows
from hetero_brain.data.corpora.summary import Summary
from hetero_brain.errors import InputError, MissingData

logger = logging.getLogger(__name__)

MANIFESTS = ("pretrain", "train", "dev", "test")
MAX_LANGUAGES_IN_FULL = 12  # of the table
HOW_TO_GET = """\
Download the languages of a release from https://commonvoice.mozilla.org/datasets and
unpack them in the data folder; each has its TSVs and a folder clips."""
HOW_TO_KEEP = """\
Leave these languages out, or train on their speakers of dev and test, too, with
keep_speakers_apart: False, or {xx: False} for a single language (--same_speakers of this
script). Error rates are then those of voices heard in training."""


def prepare_common_voice(
    data_folder,
    save_folder,
    pretrain_languages=(),
    finetune_languages=(),
    pretrain_splits=("train",),
    max_pretrain_hours=None,
    max_finetune_hours=None,
    max_test_hours=None,
    keep_speakers_apart=True,
    seed=1,
):
    """Writes ``pretrain.csv``, ``train.csv``, ``dev.csv`` and ``test.csv``, nothing else.

    Call it on the main process only (``run_on_main``). It reads all of the data each time
    it runs, a million clips in under a minute, and does not touch a manifest that would
    not change. One language is in memory at a time, about 0.5 KB a clip.

    Arguments
    ---------
    data_folder : str or Path
        The folder with the languages' folders, or with ``cv-corpus-*`` that hold them;
        ``{data_root}`` in the manifests.
    save_folder : str or Path
        The folder for the manifests.
    pretrain_languages, finetune_languages : sequence of str
        Common Voice's codes, e.g. ``sv-SE``. A language may be in both. If one of them is
        empty or None, its manifest is not written.
    pretrain_splits : sequence of str
        From ``train``, ``validated``, ``other``, ``invalidated``.
    max_pretrain_hours, max_finetune_hours, max_test_hours : float, dict or None
        Limits of the audio of each language: in pretrain, in train, and in dev and test
        each. A dict has limits by language; languages that it does not name have none. It
        may name languages that are not used, with a warning, so that a command line can
        change the languages alone. Clips are drawn at random by their names, and those
        for fewer hours are among those for more.
    keep_speakers_apart : bool or dict
        Whether speakers of dev and test are left out of pretrain and train; a dict says
        so by language. False is meant for languages with so few speakers that nothing
        would be left. The table then notes their clips, since error rates are those of
        voices that were heard in training.
    seed : int
        Seed of the draw.

    Returns
    -------
    Summary
        Counts by language, and by ``pretrain``, ``train``, ``dev``, ``test``.

    Raises
    ------
    InputError
        If a setting is wrong, if there are no languages, or if ``keep_speakers_apart``
        leaves nothing of a language to train on.
    MissingData
        If folders or tables are missing; lists all of them, before any is read.
    ManifestError
        If a manifest would have no rows; the table, which is logged, says why.
    """
    pretrain_languages, finetune_languages = (
        list(languages or ()) for languages in (pretrain_languages, finetune_languages)
    )
    languages = list(dict.fromkeys(pretrain_languages + finetune_languages))
    caps = {
        "pretrain": max_pretrain_hours,
        "train": max_finetune_hours,
        "dev": max_test_hours,
        "test": max_test_hours,
    }
    _check_settings(languages, pretrain_splits, caps, keep_speakers_apart)
    _check_data(data_folder, languages, pretrain_languages, pretrain_splits)

    summary = Summary()
    rows = {"train": [], "dev": [], "test": []}
    emptied = []

    def pretrain_rows():
        """Yields the rows of one language after the other. The rows of other manifests,
        which are far fewer, are collected in ``rows``."""
        for language in languages:
            apart = _value_for(language, keep_speakers_apart, default=True)
            source = LanguageRows(data_folder, language, summary, seed, apart)
            labelled = source.labelled(language in finetune_languages)
            for split, clips in labelled.items():
                cap = _value_for(language, caps[split])
                rows[split] += source.rows(split, clips, cap)
            if language in pretrain_languages:
                held_out = labelled["dev"] + labelled["test"]
                clips = source.unlabelled(pretrain_splits, held_out)
                cap = _value_for(language, caps["pretrain"])
                yield from source.rows("pretrain", clips, cap)
            emptied.extend(source.emptied)
        if emptied:
            raise InputError("\n".join(["Common Voice:", *emptied, HOW_TO_KEEP]))

    save_folder = Path(save_folder)
    try:
        if pretrain_languages:
            manifest.write(save_folder / "pretrain.csv", pretrain_rows())
        else:
            list(pretrain_rows())
        for split in rows:
            if split != "train":
                manifest.write_if_any(save_folder / f"{split}.csv", rows[split])
            elif finetune_languages:
                manifest.write(save_folder / f"{split}.csv", rows[split])
    finally:  # also after an error, because the table explains why nothing is left
        logger.info("Common Voice in %s\n%s", save_folder, table(summary))
    return summary


def _check_settings(languages, pretrain_splits, caps, keep_speakers_apart):
    """Raises InputError with all settings that are wrong."""
    errors = []
    if not languages:
        errors.append("neither pretrain_languages nor finetune_languages")
    allowed = [split for split in SPLITS if split not in ("dev", "test")]
    if unknown := [split for split in pretrain_splits if split not in allowed]:
        errors.append(f"pretrain_splits {unknown} are unknown; known: {allowed}")
    settings = {
        "max_pretrain_hours": caps["pretrain"],
        "max_finetune_hours": caps["train"],
        "max_test_hours": caps["test"],
        "keep_speakers_apart": keep_speakers_apart,
    }
    for key, setting in settings.items():
        by_language = isinstance(setting, Mapping)
        values = setting if by_language else {"every language": setting}
        for language, value in values.items():
            if by_language and language not in languages:
                logger.warning("%s names %s, which is not used", key, language)
            if key == "keep_speakers_apart":
                if not isinstance(value, bool):
                    errors.append(
                        f"{key} of {language}: {value!r} is not True or False"
                    )
            elif value is not None and not value > 0:
                errors.append(f"{key} of {language}: {value} is not more than 0")
    if errors:
        raise InputError("\n".join(["Common Voice:", *errors]))


def _check_data(data_folder, languages, pretrain_languages, pretrain_splits):
    """Raises MissingData with everything that is missing."""
    lines = []
    for language in languages:
        used = pretrain_splits if language in pretrain_languages else ("train",)
        lines += [f"  {line}" for line in missing(data_folder, language, used)]
    if lines:
        heading = f"Common Voice is incomplete in {data_folder}:"
        raise MissingData("\n".join([heading, *lines, HOW_TO_GET]))


def _value_for(language, setting, default=None):
    """The value of a setting that may be given by language."""
    return setting.get(language, default) if isinstance(setting, Mapping) else setting


def table(summary):
    """The table of a summary; a shorter one if there are many languages."""
    if len({language for language, _ in summary.totals}) <= MAX_LANGUAGES_IN_FULL:
        return summary.table()
    return summary.table_by_domain(MANIFESTS, unit="clips")


def prepare_from_words(same_speakers, **settings):
    """Prepares with the settings of the command line."""
    apart = dict.fromkeys(same_speakers, False)
    prepare_common_voice(**settings, keep_speakers_apart=apart or True)


def main():
    parser = command_line.argument_parser(__doc__, "data_folder", "save_folder")
    parser.add_argument("--pretrain_languages", nargs="*", default=[])
    parser.add_argument("--finetune_languages", nargs="*", default=[])
    parser.add_argument("--pretrain_splits", nargs="+", default=["train"])
    for cap in ("max_pretrain_hours", "max_finetune_hours", "max_test_hours"):
        parser.add_argument(f"--{cap}", type=float, help="of each language")
    parser.add_argument(
        "--same_speakers",
        nargs="*",
        default=[],
        metavar="LANGUAGE",
        help="train on the speakers of dev and test of these, too",
    )
    parser.add_argument("--seed", type=int, default=1)
    command_line.run(prepare_from_words, parser)


if __name__ == "__main__":
    main()

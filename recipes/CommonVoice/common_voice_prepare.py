"""Prepares Mozilla Common Voice: languages to pre-train on, unlabelled, and languages to
fine-tune on, with few hours of labels.

The data are releases as they unpack, ``cv-corpus-17.0-2024-03-15/sv-SE/train.tsv`` and
so on; ``hetero_brain/data/corpora/commonvoice.py`` says what of them is left out, and
``hetero_brain/data/corpora/language_text.py`` what becomes of a sentence. A language is a
domain.

============  ==================================  ===============================
manifest      languages                           rows
============  ==================================  ===============================
pretrain.csv  pretrain_domains                  pretrain_splits, with or
                                                  without transcript
train.csv     finetune_domains                  train, with transcript
dev.csv       both                                dev, with or without transcript
test.csv      both                                test, with transcript
============  ==================================  ===============================

A language may have no rows in dev or test, or no such table, as many small ones do; a
manifest without any row is not written.

No speaker and no clip of a language's dev and test is in its pretrain and train rows:
``validated`` has all of dev and test, and ``other`` and ``invalidated`` some of their
speakers. Where that leaves nothing, ``keep_speakers_apart`` is to be set. Sentences of
``other`` and ``invalidated`` are no transcripts, since nobody or not enough listeners
agreed that they were read.

Run it by itself:
> python common_voice_prepare.py DATA_FOLDER SAVE_FOLDER \\
>     --pretrain_domains en fr nl --finetune_domains tr sv-SE ta cy
"""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping
from itertools import compress
from pathlib import Path

import numpy as np

from hetero_brain.data import manifest
from hetero_brain.data.corpora.commonvoice import (
    SPLITS,
    clips_folder,
    missing,
    read_release,
)
from hetero_brain.data.corpora.language_text import normalise
from hetero_brain.data.corpora.summary import (
    HEARD,
    SPEAKER_HELD_OUT,
    Summary,
    hours_cap,
    markdown,
    without_speakers,
)
from hetero_brain.errors import InputError, MissingData, reported

logger = logging.getLogger(__name__)

NOT_BELIEVED = ("other", "invalidated")
NEED_WORDS = ("train", "test")
CLIP_HELD_OUT = "clip also in dev or test"
TWICE = "duplicate"
CAPPED = "over the cap in hours"
MAX_LANGUAGES_IN_FULL = 12  # of the table
HOW_TO_GET = """\
Download the languages of a release from https://commonvoice.mozilla.org/datasets and
unpack them in the data folder; each has its TSVs and a folder clips."""
HOW_TO_KEEP = """\
Leave these languages out, or have them trained on voices of dev and test, too, by
keep_speakers_apart: False, or of a single language {xx: False} (--same_speakers of this
script). Error rates are then of voices heard in training."""


def prepare_common_voice(
    data_folder,
    save_folder,
    pretrain_domains=(),
    finetune_domains=(),
    pretrain_splits=("train",),
    max_pretrain_hours=None,
    max_finetune_hours=None,
    max_test_hours=None,
    keep_speakers_apart=True,
    seed=1,
):
    """Writes ``pretrain.csv``, ``train.csv``, ``dev.csv`` and ``test.csv``, nothing else.

    Call it on the main process only (``run_on_main``). It always looks at all of the
    data, a million clips in under a minute, and leaves a manifest that would not change
    as it is. One language is in memory at a time, about 0.5 KB a clip.

    Arguments
    ---------
    data_folder : str or Path
        Holds the languages' folders, or ``cv-corpus-*`` with them; ``{data_root}`` in
        the manifests.
    save_folder : str or Path
        Where the manifests go.
    pretrain_domains, finetune_domains : sequence of str
        Common Voice's codes, e.g. ``sv-SE``. A language may be in both. Where one of
        them is empty or None its manifest is not written.
    pretrain_splits : sequence of str
        From ``train``, ``validated``, ``other``, ``invalidated``.
    max_pretrain_hours, max_finetune_hours, max_test_hours : float, dict or None
        Audio of each language in pretrain; in train; in dev and in test, each of them.
        A dict gives it by language, and none to those that it does not name; it may name
        others, with a warning, since an override changes the languages alone. Clips are
        drawn at random, by their names: fewer hours are part of more.
    keep_speakers_apart : bool or dict
        Whether speakers of dev and test are kept out of pretrain and train; a dict gives
        it by language. False is for languages of so few speakers that nothing would be
        left; its clips are noted in the table, since error rates are then of voices that
        were heard in training.
    seed : int
        Of that draw.

    Returns
    -------
    Summary
        Counts by language, and by ``pretrain``, ``train``, ``dev``, ``test``.

    Raises
    ------
    InputError
        A split or cap that cannot be, no languages at all, or a language of which
        ``keep_speakers_apart`` leaves nothing to train on.
    MissingData
        Folders or tables are missing; the message lists all, before any is read.
    ManifestError
        A manifest would have no rows; the table, logged as always, says why.
    """
    pretrain_domains, finetune_domains = (
        list(languages or ()) for languages in (pretrain_domains, finetune_domains)
    )
    languages = list(dict.fromkeys(pretrain_domains + finetune_domains))
    caps = {
        "pretrain": max_pretrain_hours,
        "train": max_finetune_hours,
        "dev": max_test_hours,
        "test": max_test_hours,
    }
    _check_settings(languages, pretrain_splits, caps, keep_speakers_apart)
    _check_data(data_folder, languages, pretrain_domains, pretrain_splits)

    summary = Summary()
    rows = {"train": [], "dev": [], "test": []}
    emptied = []

    def pretrain_rows():
        """Yields those of one language after the other, and files the other rows."""
        for language in languages:
            apart = _of(keep_speakers_apart, language, default=True)
            source = _Language(data_folder, language, summary, seed, apart)
            labelled = source.labelled(language in finetune_domains)
            for split, clips in labelled.items():
                rows[split] += source.rows(split, clips, _of(caps[split], language))
            if language in pretrain_domains:
                held = labelled["dev"] + labelled["test"]
                clips = source.unlabelled(pretrain_splits, held)
                cap = _of(caps["pretrain"], language)
                yield from source.rows("pretrain", clips, cap)
            emptied.extend(source.emptied)
        if emptied:
            raise InputError("\n".join(["Common Voice:", *emptied, HOW_TO_KEEP]))

    save_folder = Path(save_folder)
    try:
        if pretrain_domains:
            manifest.write(save_folder / "pretrain.csv", pretrain_rows())
        else:
            list(pretrain_rows())
        for split in rows:
            if split != "train":
                manifest.write_if_any(save_folder / f"{split}.csv", rows[split])
            elif finetune_domains:
                manifest.write(save_folder / f"{split}.csv", rows[split])
    finally:  # a manifest without rows is an error that the table explains
        logger.info("Common Voice in %s\n%s", save_folder, table(summary))
    return summary


def _check_settings(languages, pretrain_splits, caps, keep_speakers_apart):
    """Raises InputError with every setting that cannot be."""
    faults = []
    if not languages:
        faults.append("neither pretrain_domains nor finetune_domains")
    allowed = [split for split in SPLITS if split not in ("dev", "test")]
    if unknown := [split for split in pretrain_splits if split not in allowed]:
        faults.append(f"pretrain_splits {unknown} are unknown; known: {allowed}")
    keys = {
        "max_pretrain_hours": caps["pretrain"],
        "max_finetune_hours": caps["train"],
        "max_test_hours": caps["test"],
        "keep_speakers_apart": keep_speakers_apart,
    }
    for key, value in keys.items():
        by_language = value if isinstance(value, Mapping) else {"every language": value}
        for language, its in by_language.items():
            if isinstance(value, Mapping) and language not in languages:
                logger.warning("%s names %s, which is not used", key, language)
            if key == "keep_speakers_apart":
                if not isinstance(its, bool):
                    faults.append(f"{key} of {language}: {its!r} is not True or False")
            elif its is not None and not its > 0:
                faults.append(f"{key} of {language}: {its} is not more than 0")
    if faults:
        raise InputError("\n".join(["Common Voice:", *faults]))


def _check_data(data_folder, languages, pretrain_domains, pretrain_splits):
    """Raises MissingData with everything that is missing."""
    lines = []
    for language in languages:
        used = pretrain_splits if language in pretrain_domains else ("train",)
        lines += [f"  {line}" for line in missing(data_folder, language, used)]
    if lines:
        heading = f"Common Voice is not whole in {data_folder}:"
        raise MissingData("\n".join([heading, *lines, HOW_TO_GET]))


def _of(setting, language, default=None):
    """The value of a setting for a language."""
    return setting.get(language, default) if isinstance(setting, Mapping) else setting


class _Language:
    """Clips of one language, and the rows of manifests that they make.

    Arguments
    ---------
    data_folder : str or Path
        As for ``prepare_common_voice``.
    language : str
        Its code.
    summary : Summary
        Counts.
    seed : int
        Of the caps.
    apart : bool
        Whether speakers of dev and test are left out of the other rows.
    """

    def __init__(self, data_folder, language, summary, seed, apart):
        self.data_folder, self.language = data_folder, language
        self.summary, self.seed, self.apart = summary, seed, apart
        self.heard = set()  # speakers of dev and test who are in training, too
        self.emptied = []  # lines on splits of which leaving them out leaves nothing
        clips = clips_folder(data_folder, language).relative_to(data_folder)
        self.wav = f"{{data_root}}/{clips.as_posix()}"

    def labelled(self, with_train):
        """{split: list of Clip} of dev, test and, if wanted, train without their
        speakers."""
        folder = clips_folder(self.data_folder, self.language).parent
        tables = [folder / f"{split}.tsv" for split in ("dev", "test")]
        there = [path.stem for path in tables if path.is_file() and path.stat().st_size]
        for path in tables:
            if path.stem not in there:
                logger.warning(
                    "%s: no table %s, so that no clip of it is kept out of training",
                    self.language,
                    path,
                )
        splits = [*there, "train"] if with_train else there
        clips = {"dev": [], "test": []} | read_release(
            self.data_folder, self.language, splits, self.summary, self.language
        )
        if with_train:
            held = clips["dev"] + clips["test"]
            clips["train"] = self._without(held, "train", clips["train"])
        return clips

    def unlabelled(self, splits, held):
        """The clips of some splits, each once, without the speakers of ``held``; those
        whose sentence is not to be believed without it."""
        called = dict.fromkeys(splits, "pretrain")
        found = read_release(
            self.data_folder, self.language, called, self.summary, self.language
        )
        clips, names = [], set()
        for split in called:
            fresh = [clip for clip in found[split] if clip.name not in names]
            names.update(clip.name for clip in fresh)
            self._leave_out("pretrain", TWICE, len(found.pop(split)) - len(fresh))
            if split in NOT_BELIEVED:
                fresh = [clip._replace(sentence=None) for clip in fresh]
            clips += fresh
        return self._without(held, "pretrain", clips)

    def rows(self, split, clips, hours):
        """Yields rows of a manifest, and counts them.

        Arguments
        ---------
        split : str
            ``pretrain``, ``train``, ``dev`` or ``test``.
        clips : list of Clip
            What there is for it.
        hours : float or None
            The cap.
        """
        if split in NEED_WORDS:
            faults = [self._words(clip)[1] for clip in clips]
            for fault, count in Counter(filter(None, faults)).items():
                self._leave_out(split, f"without transcript: {fault}", count)
            clips = [clip for clip, fault in zip(clips, faults) if not fault]
        names, durations = [c.name for c in clips], [c.seconds for c in clips]
        kept = hours_cap(names, durations, hours, self.seed)
        if split in ("pretrain", "train"):
            heard = sum(clip.speaker in self.heard for clip in compress(clips, kept))
            self.summary.note(self.language, split, HEARD, heard)
        self._leave_out(split, CAPPED, np.count_nonzero(~kept))
        seconds, transcribed = 0.0, 0
        for clip in compress(clips, kept):
            words, fault = self._words(clip)
            if fault:
                self.summary.untranscribed(self.language, split, fault)
            seconds += clip.seconds
            transcribed += not fault
            yield {
                "ID": f"{self.language}/{clip.name.removesuffix('.mp3')}",
                "duration": clip.seconds,
                "wav": f"{self.wav}/{clip.name}",
                "domain": self.language,
                "spk_id": clip.speaker,
                "wrd": words,
            }
        self.summary.add(self.language, split, seconds, transcribed, kept.sum())

    def _words(self, clip):
        """Words of a clip, or "" and the reason why there are none."""
        if clip.sentence is None:
            return "", "not validated"
        return normalise(clip.sentence, self.language)

    def _without(self, held, split, clips):
        """The clips that are not in dev or test, neither they nor their speakers."""
        names = {clip.name for clip in held}
        others = [clip for clip in clips if clip.name not in names]
        self._leave_out(split, CLIP_HELD_OUT, len(clips) - len(others))
        speakers = {clip.speaker for clip in held}
        if not self.apart:
            self.heard = speakers
            return others
        kept = without_speakers((clip.speaker for clip in others), speakers)
        if others and not kept.any():
            self.emptied.append(
                f"{self.language}: nothing is left of {split}, as the speakers of all "
                f"its {len(others)} clips are in dev or test, too"
            )
        self._leave_out(split, SPEAKER_HELD_OUT, np.count_nonzero(~kept))
        return list(compress(others, kept))

    def _leave_out(self, split, reason, count):
        """Counts what is not in a manifest."""
        self.summary.leave_out(self.language, split, reason, count)


def table(summary):
    """The table of a summary; of many languages one that has a line for each, and the
    reasons only by split."""
    if len({language for language, _ in summary.totals}) <= MAX_LANGUAGES_IN_FULL:
        return summary.table()
    splits = ("pretrain", "train", "dev", "test")
    cells, all_hours = {}, Counter()
    for (language, split), n in summary.totals.items():
        cells.setdefault(language, {})[split] = f"{n.seconds / 3600:.2f}"
        all_hours[split] += n.seconds / 3600
    cells["all"] = {split: f"{hours:.2f}" for split, hours in all_hours.items()}
    lines = [
        (language, *(of_language.get(split, "") for split in splits))
        for language, of_language in cells.items()
    ]
    text = markdown(("hours", *splits), lines)
    lines = []
    for what, counters in (
        ("left out", summary.left_out),
        ("without transcript", summary.without_transcript),
        ("noted", summary.notes),
    ):
        by_reason = {}
        for (_, split), counter in counters.items():
            for reason, count in counter.items():
                by_reason.setdefault(reason, Counter())[split] += count
        for reason, counts in sorted(by_reason.items()):
            lines.append((f"{what}: {reason}", *(counts[split] for split in splits)))
    return f"{text}\n\n{markdown(('clips', *splits), lines)}" if lines else text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data_folder")
    parser.add_argument("save_folder")
    parser.add_argument("--pretrain_domains", nargs="*", default=[])
    parser.add_argument("--finetune_domains", nargs="*", default=[])
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
    settings = vars(parser.parse_args())
    apart = dict.fromkeys(settings.pop("same_speakers"), False)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with reported():
        prepare_common_voice(**settings, keep_speakers_apart=apart or True)


if __name__ == "__main__":
    main()

"""Rows of manifests from one language of Common Voice.

No speaker and no clip of dev and test is in the other rows, although ``validated`` has
all of dev and test, and ``other`` and ``invalidated`` have some of their speakers.
"""

import logging
from collections import Counter
from itertools import compress

import numpy as np

from .commonvoice import clips_folder, read_release
from .language_text import normalise
from .selection import HEARD, SPEAKER_HELD_OUT, hours_cap, without_speakers

logger = logging.getLogger(__name__)

# Sentences of these splits are not transcripts: nobody, or not enough listeners, agreed
# that they were read.
NOT_VALIDATED = ("other", "invalidated")
NEED_WORDS = ("train", "test")
TRAINED = ("pretrain", "train")
CLIP_HELD_OUT = "clip also in dev or test"
CAPPED = "over the cap in hours"


class LanguageRows:
    """The clips of one language, and the rows of manifests that they make.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds the language's folder, see ``commonvoice.find_languages``;
        ``{data_root}`` in the rows.
    language : str
        The code of the language, which is also the domain of the rows.
    summary : Summary
        Counts the rows, and what is left out.
    seed : int
        Seed of the draw where hours are limited.
    apart : bool
        Whether speakers of dev and test are left out of the other rows.

    Attributes
    ----------
    emptied : list of str
        Messages about splits of which nothing is left for that reason.
    """

    def __init__(self, data_folder, language, summary, seed, apart):
        self.data_folder, self.language = data_folder, language
        self.summary, self.seed, self.apart = summary, seed, apart
        self.emptied = []
        self._heard = set()  # speakers of dev and test who may be in training, too
        clips = clips_folder(data_folder, language).relative_to(data_folder)
        self._wav_folder = f"{{data_root}}/{clips.as_posix()}"

    def labelled(self, with_train):
        """Reads dev and test, and train if it is wanted: {split: list of Clip}."""
        folder = clips_folder(self.data_folder, self.language).parent
        tables = [folder / f"{split}.tsv" for split in ("dev", "test")]
        splits = [
            path.stem for path in tables if path.is_file() and path.stat().st_size
        ]
        for path in tables:
            if path.stem not in splits:
                logger.warning(
                    "%s: no table %s, so that no clip of it is kept out of training",
                    self.language,
                    path,
                )
        if with_train:
            splits.append("train")
        clips = {"dev": [], "test": []} | read_release(
            self.data_folder, self.language, splits, self.summary, self.language
        )
        if with_train:
            held_out = clips["dev"] + clips["test"]
            clips["train"] = self._without(held_out, "train", clips["train"])
        return clips

    def unlabelled(self, splits, held_out):
        """Reads the clips of some splits to pre-train on, each clip once.

        Arguments
        ---------
        splits : sequence of str
            Common Voice's splits.
        held_out : list of Clip
            The clips of dev and test.

        Returns
        -------
        list of Clip
            Without a sentence if that is not validated.
        """
        names = dict.fromkeys(splits, "pretrain")
        found = read_release(
            self.data_folder, self.language, names, self.summary, self.language
        )
        clips, used = [], set()
        for split in names:
            new = [clip for clip in found[split] if clip.name not in used]
            used.update(clip.name for clip in new)
            self._leave_out("pretrain", "duplicate", len(found.pop(split)) - len(new))
            if split in NOT_VALIDATED:
                new = [clip._replace(sentence=None) for clip in new]
            clips += new
        return self._without(held_out, "pretrain", clips)

    def rows(self, split, clips, hours):
        """Yields rows of a manifest, and counts them.

        Arguments
        ---------
        split : str
            ``pretrain``, ``train``, ``dev`` or ``test``.
        clips : list of Clip
            The clips for it.
        hours : float or None
            Limit of their duration.
        """
        if split in NEED_WORDS:
            reasons = [self._words(clip)[1] for clip in clips]
            for reason, count in Counter(filter(None, reasons)).items():
                self._leave_out(split, f"without transcript: {reason}", count)
            clips = [clip for clip, reason in zip(clips, reasons) if not reason]
        names, durations = [c.name for c in clips], [c.seconds for c in clips]
        kept = hours_cap(names, durations, hours, self.seed)
        if split in TRAINED:
            heard = sum(clip.speaker in self._heard for clip in compress(clips, kept))
            self.summary.note(self.language, split, HEARD, heard)
        self._leave_out(split, CAPPED, np.count_nonzero(~kept))
        # The language has its line in the table even if it has no rows.
        self.summary.add(self.language, split, seconds=0, transcribed=0, utterances=0)
        for clip in compress(clips, kept):
            words, no_words = self._words(clip)
            row = {
                "ID": f"{self.language}/{clip.name.removesuffix('.mp3')}",
                "duration": clip.seconds,
                "wav": f"{self._wav_folder}/{clip.name}",
                "domain": self.language,
                "spk_id": clip.speaker,
                "wrd": words,
            }
            self.summary.add_row(split, row, no_words)
            yield row

    def _words(self, clip):
        """The words of a clip, or "" and the reason why they are not known."""
        if clip.sentence is None:
            return "", "not validated"
        return normalise(clip.sentence, self.language)

    def _without(self, held_out, split, clips):
        """The clips that are not held out, and whose speakers are not held out either if
        speakers are kept apart."""
        names = {clip.name for clip in held_out}
        others = [clip for clip in clips if clip.name not in names]
        self._leave_out(split, CLIP_HELD_OUT, len(clips) - len(others))
        speakers = {clip.speaker for clip in held_out}
        if not self.apart:
            self._heard = speakers
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

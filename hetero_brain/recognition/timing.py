"""Words with their times, from CTC's outputs as they come, frame by frame.

A word is ``[text, first frame, frame behind its last]``. Neither decoder keeps more of a
recording than its words, and outputs of the length of a window.
"""

import re

import torch
import torch.nn.functional as F

from .tokenizer import SPACE

PAUSE_SECONDS = 0.6  # between two words, which ends a segment
SEGMENT_SECONDS = 7  # of a segment without a pause: what one reads in a subtitle
SMOOTHED = 9  # frames over which the blank is averaged to find a pause
GAPS = re.compile(rf"({SPACE}|\s)")


class GreedyWords:
    """The best path of a recording, collapsed.

    Arguments
    ---------
    recogniser : Recogniser
        With CTC and no search.
    """

    def __init__(self, recogniser):
        self.tokenizer, self.units = recogniser.tokenizer, []
        self.frames, self.previous = 0, None

    def add(self, log_probs):
        """Take the outputs of the frames that follow, (frames, outputs)."""
        best, counts = log_probs.argmax(1).unique_consecutive(return_counts=True)
        for unit, count in zip(best.tolist(), counts.tolist()):
            behind = self.frames + count
            if unit == self.previous and unit < len(self.tokenizer):
                self.units[-1][2] = behind  # it goes on from the outputs before
            elif unit < len(self.tokenizer):
                self.units.append([unit, self.frames, behind])
            self.frames, self.previous = behind, unit

    def words(self):
        """The words of all that was taken."""
        found, apart = [], True
        for unit, first, behind in self.units:
            unknown = unit == self.tokenizer.unk_id()
            decode = self.tokenizer.decode if unknown else self.tokenizer.id_to_piece
            for part in GAPS.split(decode(unit)):
                if GAPS.fullmatch(part):
                    apart = True
                elif part and apart:
                    found.append([part, first, behind])
                    apart = False
                elif part:
                    found[-1][0] += part
                    found[-1][2] = behind
        return found


class BeamWords:
    """The results of a beam search, which is made anew after each pause.

    Arguments
    ---------
    recogniser : Recogniser
        With CTC and its search.
    longest : int
        Frames that are searched at a time, at most.
    """

    def __init__(self, recogniser, longest):
        self.search, self.longest = recogniser.search, longest
        self.blank = len(recogniser.tokenizer)
        self.held, self.start, self.found = None, 0, []

    def add(self, log_probs):
        """Take the outputs of the frames that follow, (frames, outputs)."""
        held = log_probs if self.held is None else torch.cat([self.held, log_probs])
        while len(held) > self.longest:
            cut = likely_pause(held[: self.longest, self.blank])
            self._search(held[:cut])
            held = held[cut:]
        self.held = held

    def words(self):
        """The words of all that was taken."""
        self._search(self.held)
        self.held = self.held[:0]
        return self.found

    def _search(self, log_probs):
        if not len(log_probs):
            return
        best = self.search(log_probs.unsqueeze(0))[0][0]
        texts, frames = best.text.split(), [times for _, times in best.text_frames]
        if len(frames) != len(texts) or any(first < 0 for first, _ in frames):
            frames = [(0, len(log_probs))] * len(texts)  # SpeechBrain has lost them
        for text, times in zip(texts, frames):
            self.found.append([text, *(self.start + frame for frame in times)])
        self.start += len(log_probs)


def likely_pause(blank):
    """The frame of the second half around which the blank is likeliest.

    Arguments
    ---------
    blank : torch.Tensor
        (frames,), its log-probability.
    """
    half = len(blank) // 2
    likely = blank[half:].exp().view(1, 1, -1)
    smooth = F.avg_pool1d(likely, SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)
    return half + int(smooth.argmax())


def timed(words, frame_seconds):
    """Words with their times in seconds.

    Arguments
    ---------
    words : list
        Of a decoder above.
    frame_seconds : float
        From one frame to the next.

    Returns
    -------
    list of dict
        ``text``, ``start``, ``end``.
    """
    return [
        {"text": t, "start": first * frame_seconds, "end": behind * frame_seconds}
        for t, first, behind in words
    ]


def segments(words):
    """Words that follow each other without a pause, as lines of text.

    Arguments
    ---------
    words : list of dict
        From :func:`timed`.

    Returns
    -------
    list of dict
        ``text``, ``start``, ``end``.

    Example
    -------
    >>> words = timed([["good", 5, 9], ["day", 10, 12], ["yes", 40, 44]], 0.04)
    >>> [segment["text"] for segment in segments(words)]
    ['good day', 'yes']
    """
    found = []
    for word in words:
        last = found[-1] if found else None
        if (
            last is None
            or word["start"] - last["end"] > PAUSE_SECONDS
            or word["end"] - last["start"] > SEGMENT_SECONDS
        ):
            found.append(dict(word))
        else:
            last["text"] += f" {word['text']}"
            last["end"] = word["end"]
    return found

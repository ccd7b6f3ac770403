"""What a trained recogniser hears in recordings of any length."""

from contextlib import contextmanager

import torch

from ..data.progress import Progress
from ..data.streaming import Windows, batches, padded
from .timing import BeamWords, GreedyWords, segments, timed


@torch.no_grad()
def transcribe(recogniser, rows, window_seconds=30, batch_seconds=120, progress=None):
    """Transcribe recordings of any length.

    A recording of up to ``window_seconds`` is recognised as in the evaluation of
    fine-tuning. Of a longer one, CTC's log-probabilities are computed in windows that
    overlap by a third, and joined at the centres of the overlaps; a beam search is made
    anew after pauses. For an attention model, longer recordings are cut at pauses.
    SpeechBrain's search limits its output by the longest window of a batch.

    Arguments
    ---------
    recogniser : Recogniser
        From :func:`~hetero_brain.recognition.recogniser.load_recogniser`.
    rows : Recordings
        Rows as of a manifest.
    window_seconds, batch_seconds : float
        Longest window, and audio in a batch.
    progress : Progress
        Counts audio, and recordings that could not be read, which are left out.

    Yields
    ------
    row : dict
        The recording.
    transcript : dict
        ``id``, ``text``, ``seconds``; ``segments`` and, of a CTC model, ``words``, which
        have ``text``, and ``start`` and ``end`` in seconds from the start of the row.
    """
    progress = progress or Progress(rows)
    rate, ctc = recogniser.sample_rate, recogniser.kind == "ctc"
    frame = recogniser.posteriors.features.frame_samples
    cut = Windows(rate, frame, window_seconds, at_pauses=not ctc)
    kind, heard = (CTCTranscript if ctc else AttentionTranscript), None
    with searching(recogniser, progress):
        for batch in batches(cut.of(rows), rate, batch_seconds):
            outputs = iter(recognised(recogniser, [w for w in batch if not w.error]))
            for window in batch:
                heard = heard or kind(recogniser, cut)
                if window.error is None:
                    heard.add(window, next(outputs))
                    progress.advance(cut.new_samples(window) / rate)
                    if window.last:
                        seconds = (window.start + len(window.samples)) / rate
                        found = {"id": window.row["ID"], "seconds": seconds}
                        yield window.row, found | heard.parts()
                if window.last:
                    progress.finish(window.error)
                    heard = None


@contextmanager
def searching(recogniser, progress):
    """In this block, each step of an attention model's search tells the progress."""
    if recogniser.decoder is None:
        yield
        return
    hook = recogniser.decoder.output.register_forward_hook(lambda *_: progress.search())
    try:
        yield
    finally:
        hook.remove()


def recognised(recogniser, windows):
    """What a model makes of windows: log-probabilities of CTC, (frames, outputs) each, or
    texts of an attention model."""
    if not windows:
        return []
    device = next(recogniser.parameters()).device
    wavs, wav_lens = (tensor.to(device) for tensor in padded(windows))
    if recogniser.kind == "attention":
        return recogniser.transcribe(wavs, wav_lens)
    log_probs, lengths = recogniser.log_probs(wavs, wav_lens)
    return [one[:n] for one, n in zip(log_probs, lengths.tolist())]


class CTCTranscript:
    """Joins the log-probabilities of a recording's windows, and finds its words.

    Arguments
    ---------
    recogniser : Recogniser
        With CTC.
    cut : Windows
        What windows are.
    """

    def __init__(self, recogniser, cut):
        self.cut, self.frame_seconds = cut, cut.frame / recogniser.sample_rate
        if recogniser.search is None:
            self.decoder = GreedyWords(recogniser)
        else:
            self.decoder = BeamWords(recogniser, cut.size // cut.frame + 1)

    def add(self, window, log_probs):
        """Take the next window, and its log-probabilities, (frames, outputs)."""
        self.decoder.add(log_probs[slice(*self.cut.kept(window, len(log_probs)))])

    def parts(self):
        """Text, segments and words of the recording."""
        words = timed(self.decoder.words(), self.frame_seconds)
        text = " ".join(word["text"] for word in words)
        return {"text": text, "segments": segments(words), "words": words}


class AttentionTranscript:
    """Joins the texts of a recording's windows; see :class:`CTCTranscript`."""

    def __init__(self, recogniser, cut):
        self.rate, self.segments = recogniser.sample_rate, []

    def add(self, window, text):
        """Take the next window, and what was said in it."""
        if text := " ".join(text.split()):
            start, end = window.start, window.start + len(window.samples)
            times = {"start": start / self.rate, "end": end / self.rate}
            self.segments.append({"text": text, **times})

    def parts(self):
        """Text and segments of the recording."""
        text = " ".join(segment["text"] for segment in self.segments)
        return {"text": text, "segments": self.segments}

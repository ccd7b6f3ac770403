"""Transcribes recordings of any length with a trained recogniser.

> python -m hetero_brain transcribe results/ctc/1/model talk.wav --output srt
"""

import sys
from argparse import ArgumentParser

import torch

from ..data.progress import Progress
from ..data.recordings import add_arguments, recordings
from ..data.streaming import Windows, batches, padded
from ..training.devices import usable_device
from .error_rates import describe, utterance_errors
from .recogniser import load_recogniser
from .timing import BeamWords, GreedyWords, segments, timed
from .writers import FORMATS, check_output, writing


def main(argv):
    """Transcribe what the command line names.

    Returns
    -------
    int
        1 if a recording could not be read, else 0.

    Raises
    ------
    InputError
        Before anything is transcribed: a word of the command line is wrong.
    """
    args = parsed(argv)
    rows, device = recordings(args), usable_device(args.device)
    names = check_output(args.output_file, args.output, rows)
    recogniser = load_recogniser(args.folder, device, **search_of(args))
    progress, errors = Progress(rows), []
    with writing(args.output_file, args.output, names) as write:
        options = args.window_seconds, args.batch_seconds, progress
        for row, transcript in transcribe(recogniser, rows, *options):
            write(transcript)
            if row["wrd"]:
                texts = [row["domain"]], [row["wrd"]], [transcript["text"]]
                errors += utterance_errors([row["ID"]], *texts, args.character_domains)
    progress.close()
    if errors:
        errors.sort(key=lambda utterance: utterance["id"])  # as in an evaluation
        print(describe(errors), file=sys.stderr)
    return 1 if progress.failed else 0


def parsed(argv):
    """The command line."""
    parser = ArgumentParser(
        "python -m hetero_brain transcribe",
        description="Writes what is said in recordings of any length, sample rate and "
        "format, with times. Prints CER and WER if a manifest has the words.",
    )
    parser.add_argument("folder", help="model folder, or that of a fine-tuning run")
    add_arguments(parser)
    parser.add_argument(
        "--output",
        choices=FORMATS,
        default="jsonl",
        help="jsonl: text, segments and (of CTC models) words, with times in seconds; "
        "tsv: recording, start, end, text of each segment; txt: text; srt: subtitles",
    )
    parser.add_argument(
        "--output_file",
        metavar="PATH",
        help="file, or folder for subtitles of several recordings; default: stdout",
    )
    parser.add_argument(
        "--beam_size",
        type=int,
        help="hypotheses of a beam search, 0: greedy; default: as in the evaluation",
    )
    parser.add_argument(
        "--lm", metavar="FILE", help="n-gram model of words for it, ARPA or KenLM's"
    )
    parser.add_argument("--lm_alpha", type=float, default=0.5, help="its weight, 0.5")
    parser.add_argument(
        "--lm_beta", type=float, default=1.5, help="reward of a word beside it, 1.5"
    )
    parser.add_argument(
        "--character_domains",
        nargs="+",
        default=(),
        metavar="DOMAIN",
        help="domains of the manifest in which a character is a word for the WER",
    )
    return parser.parse_intermixed_args(argv)


def search_of(args):
    """The options of a search, for :func:`load_recogniser`."""
    search = {}
    if args.beam_size is not None:
        search["beam_size"] = args.beam_size or None
    if args.lm:
        search |= {"lm": args.lm, "lm_alpha": args.lm_alpha, "lm_beta": args.lm_beta}
    return search


@torch.no_grad()
def transcribe(recogniser, rows, window_seconds=30, batch_seconds=120, progress=None):
    """Transcribe recordings of any length.

    A recording of up to ``window_seconds`` is recognised as in the evaluation of
    fine-tuning. Of a longer one, CTC's log-probabilities are computed in windows that
    overlap by a third, and joined at the centres of the overlaps; a beam search is made
    anew behind pauses. For an attention model, longer recordings are cut at pauses.
    SpeechBrain's search limits its output by the longest window of a batch.

    Arguments
    ---------
    recogniser : Recogniser
        From :func:`load_recogniser`.
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

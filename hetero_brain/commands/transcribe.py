"""Transcribes recordings of any length with a trained recogniser.

> python -m hetero_brain transcribe results/ctc/1/model talk.wav --output srt
"""

import sys
from argparse import ArgumentParser

from ..data.recordings import add_arguments
from ..recognition.writers import FORMATS, check_output, writing
from .over_recordings import EXIT_CODE, over_recordings


def main(argv):
    """Transcribe what the command line names; see :func:`over_recordings`."""
    args = parsed(argv)
    from ..recognition.error_rates import describe, utterance_errors
    from ..recognition.recogniser import load_recogniser
    from ..recognition.transcription import transcribe

    errors = []

    def work(recogniser, rows, names, *options):
        with writing(args.output_file, args.output, names) as write:
            for row, transcript in transcribe(recogniser, rows, *options):
                write(transcript)
                if row["wrd"]:
                    texts = [row["domain"]], [row["wrd"]], [transcript["text"]]
                    domains = args.character_domains
                    errors.extend(utterance_errors([row["ID"]], *texts, domains))

    code = over_recordings(
        args,
        check_output=lambda rows: check_output(args.output_file, args.output, rows),
        load=lambda device: load_recogniser(args.folder, device, **search_of(args)),
        work=work,
        output=args.output_file,
    )
    if errors:
        errors.sort(key=lambda utterance: utterance["id"])  # as in an evaluation
        print(describe(errors), file=sys.stderr)
    return code


def parsed(argv):
    """The command line."""
    parser = ArgumentParser(
        "python -m hetero_brain transcribe",
        description="Transcribes recordings of any length, sample rate and format, with "
        "times. Prints CER and WER if a manifest has the words.",
        epilog=EXIT_CODE,
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
        "--lm",
        metavar="FILE",
        help="n-gram word model for the beam search: ARPA, or KenLM's binary",
    )
    parser.add_argument(
        "--lm_alpha",
        type=float,
        default=0.5,
        help="weight of --lm; default: %(default)s",
    )
    parser.add_argument(
        "--lm_beta",
        type=float,
        default=1.5,
        help="what a word adds to the score with --lm; default: %(default)s",
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

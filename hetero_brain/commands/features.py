"""Writes the encodings of recordings, by any layers of an encoder.

> python -m hetero_brain features results/1/PTLOC.1/model speech/ --output features.h5
"""

from argparse import ArgumentParser

from ..data.recordings import add_arguments
from .over_recordings import EXIT_CODE, over_recordings


def main(argv):
    """Extract what the command line names; see :func:`over_recordings`."""
    args = parsed(argv)
    from ..models.speech_encoder import load_encoder
    from ..pipelines.extraction import check_output, chosen, features, writing

    def work(encoder, rows, names, *options):
        layers = chosen(args.layers, encoder)
        with writing(args.output, args.format, names) as write:
            for row, encoded in features(encoder, rows, layers, *options):
                write(row["ID"], encoded.half() if args.float16 else encoded)

    return over_recordings(
        args,
        check_output=lambda rows: check_output(args.output, args.format, rows),
        load=lambda device: load_encoder(args.folder, freeze=True).to(device),
        work=work,
        output=args.output,
    )


def parsed(argv):
    """The command line."""
    parser = ArgumentParser(
        "python -m hetero_brain features",
        description="Writes the encodings of recordings: arrays (frames, "
        "dimensions) or, of several layers, (layers, frames, dimensions).",
        epilog=EXIT_CODE,
    )
    parser.add_argument(
        "folder", help="model folder, or that of a phase or fine-tuning"
    )
    add_arguments(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        help=".pt (a dict) or .h5: one file for all, by ID; .npy: a file for a single "
        "recording; otherwise a folder, with a file for each",
    )
    parser.add_argument(
        "--format",
        choices=("npy", "pt"),
        default="npy",
        help="of the files in a folder",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="N",
        help="0: input of the first block, N: output of the Nth, -1: of the last, or "
        "all; default: the encoder's normalised output",
    )
    parser.add_argument(
        "--float16", action="store_true", help="write half precision, not single"
    )
    return parser.parse_intermixed_args(argv)

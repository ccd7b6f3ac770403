"""Makes manifests of folders of unlabelled audio, to pre-train on.

> python -m hetero_brain manifests manifests calls=/data/calls radio=/mnt/radio
"""

import os
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from shlex import quote

from ..errors import InputError

NEXT = """
{output} is ready. Make a recipe, unless there is one, and pre-train:
python -m hetero_brain recipe MyCorpus
python recipes/MyCorpus/pretrain/train.py \
recipes/MyCorpus/pretrain/hparams/bestrq.yaml --data_folder {output}"""


def main(words):
    """Make the manifests, print what is in them, and say what to do with them.

    Raises
    ------
    InputError
        The manifests exist, or see
        :func:`~hetero_brain.data.corpora.folder_manifests.make_manifests`.
    """
    parser = ArgumentParser(
        "python -m hetero_brain manifests",
        description="Writes train.csv and dev.csv of all audio in some folders, for "
        "pre-training. Their columns are ID,duration,wav,start,stop,domain,spk_id,wrd; "
        "speakers and words stay empty.",
    )
    parser.add_argument("output", metavar="OUTPUT", help="folder of the manifests")
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="NAME=FOLDER",
        type=named_folder,
        help="a domain, and a folder of its audio, with all folders in it; a name may be "
        "given several times; any sample rates, and the formats of `transcribe`",
    )
    parser.add_argument(
        "--dev_fraction",
        type=fraction,
        default=0.02,
        metavar="SHARE",
        help="of a domain's audio that goes to dev.csv: whole folders, or whole files "
        "where there are few; 0: none; %(default)s",
    )
    parser.add_argument(
        "--window_seconds",
        type=window,
        default=12,
        metavar="SECONDS",
        help="longer recordings are divided into equal parts that are not longer; no "
        "more than the recipe's max_utterance_seconds; %(default)s",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace manifests that exist"
    )
    args = parser.parse_intermixed_args(words)
    if "=" in args.output and not Path(args.output).exists():
        raise InputError(
            f"{args.output} is NAME=FOLDER: the folder of the manifests comes before it"
        )
    for path in (Path(args.output, f"{split}.csv") for split in ("train", "dev")):
        if path.exists() and not args.overwrite:
            raise InputError(f"{path} exists; choose another folder, or --overwrite")
    from ..data.corpora.folder_manifests import make_manifests
    from ..pipelines.doubts import refuse_alike

    folders = {}
    for name, folder in args.folders:
        folders.setdefault(name, []).append(folder)
    refuse_alike({name: ", ".join(where) for name, where in folders.items()})
    print(make_manifests(args.output, folders, args.dev_fraction, args.window_seconds))
    print(NEXT.format(output=quote(args.output)))


def named_folder(word):
    """``NAME=FOLDER`` as a pair, for argparse."""
    name, _, folder = word.partition("=")
    if not (name.strip() and folder):
        raise ArgumentTypeError(
            f"{word!r} is not NAME=FOLDER, such as radio=/mnt/radio"
        )
    return name.strip(), os.path.expanduser(folder)


def fraction(text):
    """A number from 0 on and below 1, for argparse."""
    if not 0 <= float(text) < 1:
        raise ValueError
    return float(text)


def window(text):
    """A number of seconds, at least one, for argparse."""
    if not 1 <= float(text) < float("inf"):
        raise ValueError
    return float(text)

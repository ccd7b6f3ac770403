"""What ``--help`` prints: the keys of a YAML with their comments, then SpeechBrain's.

Nothing here imports torch, so that help comes at once.
"""

import os
import re
import runpy
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ..errors import reported
from .yaml_files import read_tree

HELP = {"-h", "--help"}
BANNER = re.compile(r"# -+ (.+)")
KEY = re.compile(r"(\w+):(?: +(.*?))??(?: +# (.*))?")
FORMATTER = partial(RawDescriptionHelpFormatter, max_help_position=30)


def help_if_asked(script, doc):
    """Print the help of a recipe's ``train.py`` and exit, if its command line asks.

    Arguments
    ---------
    script : str
        Path of the ``train.py``, beside which is the folder ``hparams``.
    doc : str
        Its docstring.

    Raises
    ------
    SystemExit
        The help has been printed, or the YAML cannot be read.
    """
    if HELP & {*sys.argv[1:]}:
        yamls = sorted(Path(script).parent.glob("hparams/*.yaml"))
        with reported():
            print(usage(Path(script).name, doc, sys.argv[1:], yamls))
        sys.exit()


def usage(prog, doc, words, yamls=()):
    """The help of a command that takes a YAML, overrides and SpeechBrain's options.

    Arguments
    ---------
    prog, doc : str
        What runs the command, and its description.
    words : list of str
        The command line. If it names a YAML, its keys are in the help.
    yamls : sequence of Path
        The YAMLs to list if the command line names none.

    Returns
    -------
    str

    Raises
    ------
    InputError
        The YAML cannot be read.
    """
    path = next((word for word in words if word.endswith(".yaml")), None)
    parser = ArgumentParser(
        prog,
        usage=f"{prog} {path or 'FILE.yaml'} [--key value] …",
        description=doc.strip(),
        formatter_class=FORMATTER,
        add_help=False,
    )
    known = set()
    if path:
        read_tree(path)  # or an error that says what is wrong with it
        for title, keys in sections(Path(path).read_text("utf-8")).items():
            group = parser.add_argument_group(title)
            for key, (value, comment) in keys.items():
                known.add(f"--{key}")
                comment = comment.replace("%", "%%")
                group.add_argument(f"--{key}", metavar=value, help=comment)
    else:
        group = parser.add_argument_group("YAMLs (--help after one lists its keys)")
        for yaml in yamls:
            about = summary(yaml.read_text("utf-8")).replace("%", "%%")
            group.add_argument(os.path.relpath(yaml), help=about)
    group = parser.add_argument_group("options of SpeechBrain")
    for action in sorted(speechbrain_options(), key=lambda a: a.option_strings):
        if action.option_strings and not known & {*action.option_strings}:
            group._add_action(action)
    return parser.format_help()


def sections(text):
    """The keys of a YAML by the banners that they stand under.

    Arguments
    ---------
    text : str
        The YAML.

    Returns
    -------
    dict
        Banner, or ``keys`` → key → its value as written, and in a line its comments:
        behind it, above it, and those of its own keys if it is a mapping. Keys that begin
        with an underscore are left out.

    Example
    -------
    >>> sections("# ---- run\\nseed: 1  # of weights\\n# Of audio.\\nhours: 2  # or 3\\n")
    {'run': {'seed': ('1', 'of weights'), 'hours': ('2', 'or 3. Of audio.')}}
    """
    keys, above, key = {}, [], None
    found = {"keys": keys}
    for line in text.splitlines():
        if banner := BANNER.fullmatch(line):
            keys, above = found.setdefault(banner[1], {}), []
        elif not line.strip("# "):
            above = []
        elif line.startswith("#"):
            above.append(line.strip("# "))
        elif line[0] in " \t":  # of the key above
            inner = KEY.fullmatch(line.strip())
            if inner and inner[3] and key in keys:
                value, comment = keys[key]
                keys[key] = value, sentences(comment, f"{inner[1]}: {inner[3]}")
        elif match := KEY.fullmatch(line):
            key, value, comment = match.groups(default="")
            keys[key] = value or "{…}", sentences(comment, " ".join(above))
            above = []
    return {
        title: public
        for title, keys in found.items()
        if (public := {k: v for k, v in keys.items() if k[0] != "_"})
    }


def sentences(*texts):
    """Texts one after another, a full stop between them."""
    *before, last = filter(None, texts) if any(texts) else [""]
    return "".join(f"{text.removesuffix('.')}. " for text in before) + last


def summary(text):
    """The first paragraph of the comment that a YAML begins with, in a line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#") or not line.strip("# "):
            break
        lines.append(line.strip("# "))
    return " ".join(lines)


def speechbrain_options():
    """What SpeechBrain's ``RunOptions`` parses, as actions of ``argparse``. Only its file
    is run: importing SpeechBrain would import torch."""
    (package,) = find_spec("speechbrain").submodule_search_locations
    file = runpy.run_path(os.path.join(package, "utils", "run_opts.py"))
    return file["RunOptions"]._create_parser()._actions

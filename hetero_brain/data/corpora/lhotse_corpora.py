"""Any corpus that lhotse reads, as segments for manifests.

``lhotse.recipes.prepare_<corpus>`` knows the layout of each release. ``lenient`` makes it
continue where something is damaged, ``text_files`` withholds lines that are not
utterances, and ``segments`` checks every segment. Nothing is downloaded, and nothing is
written except into a temporary folder.
"""

import difflib
import importlib.util
import inspect
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import lhotse.recipes

from .lenient import Call, lenient
from .segments import CorpusPart, SegmentReader
from .special_cases import SPECIAL, Special
from .text_files import TextFiles
from .transcript_lines import CHECKS

logger = logging.getLogger(__name__)

PREFIX = "prepare_"


def check_corpus(corpus, folder, options):
    """Finds what is wrong with a request, as far as possible without reading the corpus.

    Arguments
    ---------
    corpus : str
        lhotse's name: ``librispeech`` for ``prepare_librispeech``.
    folder : str or Path
        The folder of the corpus.
    options : Mapping
        Further arguments of lhotse's function.

    Returns
    -------
    list of str
        The problems, and what to do about them.
    """
    function = getattr(lhotse.recipes, f"{PREFIX}{corpus}", None)
    if function is None:
        known = [name.removeprefix(PREFIX) for name in dir(lhotse.recipes)]
        known = [name for name in known if hasattr(lhotse.recipes, PREFIX + name)]
        nearest = difflib.get_close_matches(str(corpus), known, n=3, cutoff=0.4)
        return [f"lhotse has no corpus {corpus!r}; the nearest are {nearest or known}"]
    special, folder = SPECIAL.get(corpus, Special()), Path(folder)
    if not folder.is_dir():
        return [f"no folder {folder}"]

    problems = _check_options(corpus, function, special, options)
    for module, package in special.packages.items():
        if importlib.util.find_spec(module) is None:
            problems.append(f"its reader needs a package: pip install {package}")
    return problems + special.problems(folder, options)


def _check_options(corpus, function, special, options):
    """The options that a reader does not have, those that are missing, and folders that
    do not exist."""
    problems = []
    _, *parameters = inspect.signature(function).parameters.values()
    allowed = {p.name: p for p in parameters if p.name != "output_dir"}
    for name in sorted(set(options) - set(allowed)):
        problems.append(
            f"{PREFIX}{corpus} has no option {name!r}; it has {sorted(allowed)}"
        )
    for name, parameter in allowed.items():
        if name in options:
            path = options[name]
            if name.endswith("_dir") and path is not None and not Path(path).exists():
                problems.append(f"option {name}: no folder {path}")
        elif name in special.required:
            problems.append(f"option {name} is needed: {special.required[name]}")
        elif parameter.default is parameter.empty:
            problems.append(f"option {name} is needed by {PREFIX}{corpus}")
    return problems


def read_corpus(corpus, folder, parts, options, fields=()):
    """Reads parts of a corpus.

    Arguments
    ---------
    corpus, folder, options
        As for ``check_corpus``, which must not have found any problem.
    parts : sequence of str
        lhotse's names of the parts: the keys of the dict that its function returns, those
        of nested dicts joined by "/"; ``all`` if the corpus has no parts.
    fields : sequence of str
        Fields of supervisions to keep: ``gender``, ``language`` or any of ``custom``.

    Returns
    -------
    dict
        {part: CorpusPart}. If the reader reads several parts at once, it is not known to
        which of them the utterances belonged that it left out itself; they are counted
        in a part "" without segments.

    Raises
    ------
    ValueError
        If the reader fails, if a part does not exist or is empty, or if nothing in any
        part can be used.
    """
    function = getattr(lhotse.recipes, PREFIX + corpus)
    parameters = inspect.signature(function).parameters
    if "dataset_parts" in parameters and "dataset_parts" not in options:
        found = {}
        for part in dict.fromkeys(parts):  # one at a time, to count reasons by part
            of_part = {**options, "dataset_parts": [part]}
            found |= _call(function, corpus, folder, of_part, [part], fields)
    else:
        found = _call(function, corpus, folder, options, parts, fields)
    for part in parts:
        if part not in found:
            raise ValueError(
                f"{folder}: {PREFIX}{corpus} gives no part {part!r} but "
                f"{sorted(set(found) - {''})}"
            )
    empty = [part for part in parts if not found[part].segments]
    withheld = "".join(part.withheld for part in found.values())
    if len(empty) == len(parts) and withheld:
        raise ValueError(f"{folder}: nothing is left of {', '.join(parts)}{withheld}")
    for part in empty:
        if not found[part].left_out and not found.get("", found[part]).left_out:
            raise ValueError(f"{folder}: {PREFIX}{corpus} finds nothing in {part!r}")
        logger.warning("%s: nothing is left of %r", folder, part)
    return found


def _call(function, corpus, folder, options, parts, fields):
    """Calls a reader once. Returns {part: CorpusPart} of all parts that it gives; only
    those asked for have segments."""
    special, folder = SPECIAL.get(corpus, Special()), Path(folder)
    options = {
        name: Path(value) if name.endswith("_dir") and isinstance(value, str) else value
        for name, value in options.items()
    }
    folders = [value for value in options.values() if isinstance(value, Path)]
    with TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        texts = TextFiles([folder, *folders], CHECKS.get(corpus, {}))
        call = Call(texts)
        try:
            with texts.served():
                read_folder = special.folder(call, folder, scratch, options)
                patches = special.patches(call, folder, options)
                with lenient(sys.modules[function.__module__], call, patches):
                    output = _output_dir(function, special, scratch)
                    manifests = function(read_folder, **output, **options)
        except Exception as error:
            what = str(error) if type(error) is ValueError else repr(error)
            raise ValueError(
                f"{folder}: lhotse's {PREFIX}{corpus} cannot read it: {what}"
                f"{texts.where(error)}{texts.withheld()}"
            ) from error
        for warning in call.warnings:
            logger.warning("%s: lhotse: %s", folder, warning)
        if withheld := texts.withheld():
            logger.warning("%s%s", folder, withheld)
        reader = SegmentReader(call, special, read_folder, folder, fields)
        found = {
            name: CorpusPart(reader.segments(group) if name in parts else [], Counter())
            for name, group in _groups(manifests)
        }
    name = next(iter(found)) if len(found) == 1 else ""
    part = found.setdefault(name, CorpusPart([], Counter()))
    part.left_out.update(call.left_out + texts.left_out)
    part.withheld = withheld
    return found


def _output_dir(function, special, scratch):
    """The argument of a reader that names the folder into which it may write."""
    parameter = inspect.signature(function).parameters.get("output_dir")
    required = parameter is not None and parameter.default is parameter.empty
    return {"output_dir": scratch} if required or special.output_dir else {}


def _groups(node, name=()):
    """The pairs of recordings and supervisions in nested dicts, as (name, dict)."""
    if "recordings" in node:
        yield "/".join(name) or "all", node
        return
    for key, child in node.items():
        if isinstance(child, Mapping):
            yield from _groups(child, (*name, str(key)))

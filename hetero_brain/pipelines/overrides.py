"""Overrides of a YAML's values from the command line.

How an override is read depends on what its key holds in the YAML:

==================================  ====================================================
in the YAML                         on the command line
==================================  ====================================================
a string, ``!PLACEHOLDER``          the word as it stands: ``/x/run #1``, ``2024-11-05``
null, of a path (``PATHS``)         the same, but for ``null``
a list                              YAML in brackets, ``[es, no]``; or its elements:
                                    ``es``, ``es no``, ``es,no``. Strings stay strings.
a number, ``True``, a mapping       YAML; a mapping changes the keys that it has
null                                YAML; anything but a number, ``True``, a list, a
                                    mapping or a tag is a string
an object, such as ``!new:…``       the same, but for strings: a tag is wanted
==================================  ====================================================

HyperPyYAML's tags are interpreted whatever the YAML holds: ``'!ref <seed>'``. Keys are
those of the YAML, also inside a mapping; only the mappings in ``BY_NAME`` take others.
A key inside a mapping can be given by itself: ``--judges.full.options '--epochs 3'``.
"""

import logging
import re
from collections.abc import Mapping
from numbers import Number

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scalarstring import ScalarString

from ..errors import InputError
from .key_names import no_such_key
from .yaml_files import Text, in_a_line, round_trip

logger = logging.getLogger(__name__)

PATHS = ("domains_file", "lm", "manifest_folder", "pretrained")
# Mappings whose keys are names, of domains or of judges, and may be any.
BY_NAME = (
    "judges",
    "keep_speakers_apart",
    "max_finetune_hours",
    "max_pretrain_hours",
    "max_test_hours",
)
NULL = ("null", "Null", "NULL", "~")
TUPLE = re.compile(r"\(.*\)")
TAG = re.compile(r"!(ref|copy|tuple) .|!(new|name|module|apply|applyref|include):.")


class _Unresolved(VersionedResolver):
    """Takes every plain scalar for a string, so that none loses its spelling."""

    versioned_resolver = property(lambda self: {})


def override(tree, words, path):
    """Replace values of a YAML by those given on the command line.

    Arguments
    ---------
    tree : CommentedMap
        From :func:`yaml_files.read_tree`; changed.
    words : list of str
        ``--key value`` and ``--key=value``. A value may have several words.
    path : str or Path
        The YAML, for messages.

    Returns
    -------
    list of str
        The keys that are given.

    Raises
    ------
    InputError
        Naming each key that the YAML does not have, with the nearest that it has, that
        is given twice or without a value, and each value of the wrong kind.
    """
    errors, given = [], {}
    for word in words:
        if re.match("--[^ ]+(=|$)", word):  # not: '--epochs 3'
            key, equals, first = word[2:].partition("=")
            if key in given:
                errors.append(f"--{key} is given twice")
            given[key] = [first] if equals else []
        elif given:
            given[key].append(word)
        else:
            errors.append(f"{word!r} belongs to no --key")
    for key, values in given.items():
        *outer, name = key.split(".")
        node, wrong = _inside(tree, outer)
        if wrong or name not in node:
            wrong = wrong or no_such_key(name, node, path, "--" * (not outer))
            errors.append(f"--{key}: {wrong}")
        elif not " ".join(values):
            errors.append(f"--{key} has no value; for none write null")
        elif forgotten := [word for word in values[1:] if word in tree]:
            words = " ".join(f"--{word}" for word in forgotten)
            errors.append(f"--{key} {' '.join(values)}: is {words} meant?")
        else:
            try:
                value = _value(values, _kind(name, node[name]))
                _refuse_name(value, _tag(node[name]))
                unknown = [*_unknown(name, node[name], value, path)]
                errors += [f"--{'.'.join([*outer, error])}" for error in unknown]
                _put(node, name, None if name in PATHS and value == "null" else value)
            except YAMLError as error:
                errors.append(
                    f"--{key} {' '.join(values)}: {in_a_line(error)}; inside [ ] and "
                    "{ } text that has one of [ ] { } , : itself goes in quotes"
                )
            except ValueError as error:
                errors.append(f"--{key} {' '.join(values)}: {in_a_line(error)}")
    if errors:
        raise InputError("\n".join(errors))
    return list(dict.fromkeys(key.partition(".")[0] for key in given))


def _inside(tree, names):
    """The mapping that some names lead to, one inside the other, and what is wrong with
    them, in words; None if nothing is."""
    for name in names:
        if name not in tree:
            return tree, f"there is no {name} among {', '.join(map(str, tree))}"
        tree = tree[name]
        if not _is_plain(tree):
            return tree, f"{name} has no keys inside"
    return tree, None


def _unknown(key, node, value, path):
    """Yields an error for each key of a mapping that the YAML's mapping does not have."""
    for name, child in value.items() if _is_plain(node) and _is_plain(value) else ():
        if name in node:
            errors = _unknown(name, node[name], child, path)
            yield from (f"{key}: {error}" for error in errors)
        elif key not in BY_NAME:
            yield f"{key}: {name}: {no_such_key(str(name), node, path)}"


def _kind(key, node):
    """What the YAML has: a str, list, bool, number or mapping, or None if it may be
    anything."""
    tag = _tag(node)
    if key in PATHS or tag == "!PLACEHOLDER":
        return ""
    if tag == "!ref":  # text around references is a string, calculations are not
        return "" if re.search(r"[^\W\d_]", re.sub("<.*?>", "", node.value)) else None
    return None if tag or isinstance(node, str) and TUPLE.fullmatch(node) else node


def _tag(node):
    """The tag of a node, or None."""
    return getattr(getattr(node, "tag", None), "value", None)


def _value(words, kind):
    """The value of some words, where the YAML has ``kind``."""
    text = " ".join(words)
    if isinstance(kind, str) and not TAG.match(text):
        return Text(text)
    if isinstance(kind, list) and text[0] not in "[{!" and text not in NULL:
        parts = [part.strip() for word in words for part in word.split(",")]
        value = [_typed(part, _first(kind)) for part in parts if part]
        logger.warning(
            f"{text}: a list is wanted; taken as [{', '.join(map(str, value))}]"
        )
    elif kind is None and text[0] not in "[{!\"'":
        value = _scalar(text, None)
    else:
        tree = round_trip(preserve_quotes=True, Resolver=_Unresolved).load(text)
        value = _typed(tree, kind)
    _check(value, kind)
    return value


def _refuse_name(value, tag):
    """Raise ValueError if a string is given where the YAML makes an object."""
    if isinstance(value, str) and re.match("!(new|name|apply):", tag or ""):
        raise ValueError(f"an object is wanted, such as '{tag}', not a string")


def _check(value, kind):
    """Raise ValueError if a value is not of the kind that the YAML has."""
    if value is None or kind is None or _tag(value):
        return
    if isinstance(kind, bool):
        fits, wanted = isinstance(value, (bool, Mapping)), "True or False"
    elif isinstance(kind, Number):
        fits, wanted = not isinstance(value, (bool, str, list)), "a number"
    elif isinstance(kind, list):
        example = f"[{', '.join(map(str, kind))}]"
        fits, wanted = isinstance(value, list), f"a list such as {example}"
    elif isinstance(kind, Mapping):
        fits = not isinstance(value, (str, list))
        wanted = "a mapping such as {key: value}"
    else:
        fits, wanted = isinstance(value, str), "a string"
    if not fits:
        raise ValueError(f"{value!r} is not {wanted}")
    if isinstance(value, list):
        for child in value:
            _check(child, _first(kind))
    elif isinstance(value, Mapping) and isinstance(kind, Mapping):
        for key, child in value.items():
            _check(child, kind.get(key))


def _first(kind):
    """The kind of a list's elements: that of the first."""
    return kind[0] if isinstance(kind, list) and kind else ""


def _typed(node, kind):
    """A node of an unresolved tree with its scalars as numbers, booleans or strings."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            node[key] = _typed(child, kind.get(key) if _is_plain(kind) else None)
    elif isinstance(node, list):
        for i, child in enumerate(node):
            node[i] = _typed(child, _first(kind) if isinstance(kind, list) else None)
    elif isinstance(node, str):
        quoted = isinstance(node, ScalarString)
        return Text(node) if quoted else _scalar(node, kind)
    return node


def _scalar(text, kind):
    """A plain scalar where the YAML has ``kind``."""
    if text in NULL or not text:
        return None
    if isinstance(kind, list):
        return [_scalar(text, _first(kind))]
    if isinstance(kind, str):
        return Text(text)
    if kind is None and TUPLE.fullmatch(text):
        return round_trip().load(f"!tuple {text}")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):
        return Text(text)
    if isinstance(value, bool):
        return value
    # 007 is a name where the YAML does not say that it is a number.
    named = kind is None and re.match(r"[-+]?0\d", text)
    return value if isinstance(value, Number) and not named else Text(text)


def _is_plain(node):
    """Whether a node is a mapping without a tag."""
    return isinstance(node, Mapping) and not _tag(node)


def _put(tree, key, value):
    """Replace a value, or change the keys of a mapping that the new mapping has."""
    if _is_plain(value) and _is_plain(tree.get(key)):
        for name, child in value.items():
            _put(tree[key], name, child)
    else:
        tree[key] = value

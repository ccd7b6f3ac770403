"""Reading the YAML files that a user names, in HyperPyYAML's syntax."""

import io
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml
from hyperpyyaml.core import resolve_references
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ..errors import InputError

# What a wrong value makes of the constructors that it is given to.
MISTAKES = (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError)
MISTAKES += (YAMLError,)

# Quoted, a value stays a string when it is read again; HyperPyYAML reads (a) as a tuple.
Text = DoubleQuotedScalarString


def round_trip(**options):
    """ruamel's YAML, set to preserve tags, references and comments."""
    yaml = YAML()
    yaml.width = 1 << 20  # no line breaks inside a value
    for name, value in options.items():
        setattr(yaml, name, value)
    return yaml


def read_tree(path):
    """A YAML file as written, without resolving tags or references.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    CommentedMap

    Raises
    ------
    InputError
        The file is missing, a folder, not UTF-8, not YAML or not a mapping.
    """
    try:
        tree = round_trip().load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from error
    except YAMLError as error:
        raise InputError(f"{path}: not YAML: {in_a_line(error)}") from error
    if not isinstance(tree, Mapping):
        kind = "a list" if isinstance(tree, list) else "a single value"
        kind = "empty" if tree is None else kind
        raise InputError(
            f"{path}: {kind} instead of a mapping; write lines of the form key: value"
        )
    return tree


def load_tree(path, tree):
    """Build the objects that a tree describes with HyperPyYAML.

    Arguments
    ---------
    path : str or Path
        The file that the tree was read from, for messages and ``!include``.
    tree : CommentedMap
        From :func:`read_tree`.

    Returns
    -------
    hparams : Hparams
        The values of the tree.
    resolved : str
        The tree as YAML, with its references resolved.

    Raises
    ------
    InputError
        A placeholder has no value, a reference has no target, or an object cannot be
        constructed.
    """
    stream = io.StringIO()
    round_trip().dump(tree, stream)
    stream.seek(0)
    stream.name = str(path)
    try:
        # HyperPyYAML would fold long lines of the resolved YAML and lose spaces there.
        with patch.object(ruamel.yaml, "YAML", round_trip):
            resolved = resolve_references(stream).getvalue()
            return Hparams(path, load_hyperpyyaml(resolved)), resolved
    except MISTAKES as error:
        raise InputError(f"{path}: {in_a_line(error)}") from error


class Hparams(dict):
    """Values of a YAML; a missing key raises an InputError that names the file."""

    def __init__(self, path, values):
        super().__init__(values)
        self.path = path

    def __missing__(self, key):
        raise InputError(
            f"{self.path}: no key {key!r}; is this YAML meant for this command?"
        )


def in_a_line(error):
    """The message of an exception on one line."""
    if isinstance(error, MarkedYAMLError):
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return f"{line}{error.problem or error.context}"
    return " ".join(" ".join(map(str, error.args or [error])).split()) or repr(error)

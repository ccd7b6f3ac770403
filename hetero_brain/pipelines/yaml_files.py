"""YAML files that a user names, in HyperPyYAML's syntax."""

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

# Quoted, a string is a string to whoever reads it; HyperPyYAML takes (a) for a tuple.
Text = DoubleQuotedScalarString


def round_trip(**options):
    """ruamel's YAML that keeps tags, references and comments."""
    yaml = YAML()
    yaml.width = 1 << 20  # one line a value
    for name, value in options.items():
        setattr(yaml, name, value)
    return yaml


def read_tree(path):
    """A YAML file as it stands: tags and references are not resolved.

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
        There is no such file, or it is a folder, not UTF-8, not YAML or not a mapping.
    """
    try:
        tree = round_trip().load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8 ({error})") from error
    except YAMLError as error:
        raise InputError(f"{path}: not YAML: {in_a_line(error)}") from error
    if not isinstance(tree, Mapping):
        kind = "empty" if tree is None else f"a {type(tree).__name__}"
        raise InputError(f"{path}: {kind} in place of a mapping, of lines key: value")
    return tree


def load_tree(path, tree):
    """What a tree describes, as HyperPyYAML makes it.

    Arguments
    ---------
    path : str or Path
        The file that the tree was read from, for messages and ``!include``.
    tree : CommentedMap
        From :func:`read_tree`.

    Returns
    -------
    hparams : Hparams
        Its values.
    resolved : str
        The tree as YAML, without references.

    Raises
    ------
    InputError
        A value that is still to be given, a reference to nowhere, an object that cannot
        be made.
    """
    stream = io.StringIO()
    round_trip().dump(tree, stream)
    stream.seek(0)
    stream.name = str(path)
    try:
        # HyperPyYAML folds long lines of what it has resolved, and loses spaces there.
        with patch.object(ruamel.yaml, "YAML", round_trip):
            resolved = resolve_references(stream).getvalue()
            return Hparams(path, load_hyperpyyaml(resolved)), resolved
    except (YAMLError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {in_a_line(error)}") from error


class Hparams(dict):
    """Values of a YAML; one that it lacks is a fault of the file."""

    def __init__(self, path, values):
        super().__init__(values)
        self.path = path

    def __missing__(self, key):
        raise InputError(f"{self.path}: no key {key!r}; is this YAML for this command?")


def in_a_line(error):
    """The message of an exception in one line."""
    if isinstance(error, MarkedYAMLError):
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return f"{line}{error.problem or error.context}"
    return " ".join(" ".join(map(str, error.args or [error])).split()) or repr(error)

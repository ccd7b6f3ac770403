"""Reading the YAML files that a user names, in HyperPyYAML's syntax."""

import copy
import io
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import ruamel.yaml
from hyperpyyaml import core, load_hyperpyyaml
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


def resolve(path, tree):
    """Replace the references of a tree by what they refer to, and its inclusions.

    Arguments
    ---------
    path : str or Path
        The file that the tree was read from, for messages and ``!include``.
    tree : CommentedMap
        From :func:`read_tree`; not changed.

    Returns
    -------
    CommentedMap

    Raises
    ------
    InputError
        A placeholder has no value, or a reference has no target.
    """
    resolved, folder = copy.deepcopy(tree), os.path.dirname(os.path.realpath(path))
    with reading(path):
        # HyperPyYAML's resolve_references, without writing and reading all text again.
        return core._walk_tree_and_resolve("root", resolved, resolved, folder)


def build(path, resolved):
    """Build the objects that a tree describes with HyperPyYAML.

    Arguments
    ---------
    path : str or Path
        The file that the tree was read from, for messages.
    resolved : CommentedMap
        From :func:`resolve`.

    Returns
    -------
    hparams : Hparams
        The values of the tree.
    text : str
        The tree as YAML.

    Raises
    ------
    InputError
        An object cannot be constructed.
    """
    stream = io.StringIO()
    as_it_is = patch.object(core, "resolve_references", lambda stream, *_: stream)
    with reading(path), as_it_is:
        round_trip().dump(resolved, stream)
        text = stream.getvalue()
        return Hparams(path, load_hyperpyyaml(text)), text


def load_tree(path, tree):
    """:func:`build` what a tree describes, as soon as :func:`resolve` has resolved it."""
    return build(path, resolve(path, tree))


@contextmanager
def reading(path):
    """Have HyperPyYAML read a file; its errors become InputErrors that name the file."""
    try:
        # It would fold long lines, and lose spaces there.
        with patch.object(ruamel.yaml, "YAML", round_trip):
            yield
    except MISTAKES as error:
        raise InputError(f"{path}: {in_a_line(error)}{hint(error)}") from error


def hint(error):
    """What to do if HyperPyYAML misses a value, or a package that is not here."""
    if key := re.search(r"'(\w+)' is a !PLACEHOLDER", str(error)):
        return f" Give --{key[1]} VALUE"
    named = re.search(r"no such entity as (\w+)\.", str(error))
    if named and find_spec(named[1]) is None:
        return f": {named[1]} is not installed here: pip install {named[1]}"
    return ""


class Hparams(dict):
    """Values of a YAML; a missing key raises an InputError that names the file.

    Arguments
    ---------
    path : str or Path
        The YAML.
    values : dict
        What it holds.

    Attributes
    ----------
    record : dict
        Path → bytes of the files that say what a run was, for its output folder.
    changes : Undo
        What is to be taken back if the run is refused; None if nothing is.
    """

    def __init__(self, path, values):
        super().__init__(values)
        self.path, self.record, self.changes = path, {}, None

    def write_record(self):
        """Write the record, once the folder is known to be this run's."""
        for path, content in self.record.items():
            Path(path).write_bytes(content)

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

"""What a run does before it trains: it imports what it needs, and says what it has to."""

import ast
import importlib.util
import logging
import sys
from pathlib import Path

import pytest

from hetero_brain.training import loggers

ROOT = Path(__file__).parents[2]


def test_nothing_is_said_of_a_missing_torchvision(monkeypatch, caplog):
    """SpeechBrain's loggers are imported once more, as at the start of a run."""
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "speechbrain.utils.train_logger")
    name = "hetero_brain.training.loggers_again"
    spec = importlib.util.spec_from_file_location(name, loggers.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "speechbrain.utils.train_logger" in sys.modules
    assert "torchvision" not in caplog.text
    assert not logging.getLogger("speechbrain.utils.train_logger").disabled


# What a run needs late or never, and takes long to import.
LATE = {"babel", "fontTools", "h5py", "kenlm", "lhotse", "matplotlib", "pandas"}
LATE |= {"scipy", "tensorboard", "torchvision", "transformers"}


def at_import(node):
    """Import statements that are carried out when a file is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield from at_import(child)


def imported_by(path):
    """Packages of others that a file imports, itself or by files of this repository.

    Returns
    -------
    dict
        Package → a file that imports it.
    """
    waiting, seen, found = [path], set(), {}
    while waiting:
        file = waiting.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        for node in at_import(ast.parse(file.read_text("utf-8"))):
            level = getattr(node, "level", 0)
            base = [*file.relative_to(ROOT).parent.parts] if level else []
            base = base[: len(base) - level + 1]
            base += (getattr(node, "module", None) or "").split(".")
            names = [[*filter(None, base), *a.name.split(".")] for a in node.names]
            for parts in names:
                if parts[0] == "hetero_brain":
                    for n in range(1, len(parts) + 1):
                        place = ROOT.joinpath(*parts[:n])
                        waiting += [place / "__init__.py", place.with_suffix(".py")]
                elif (own := path.parents[1] / f"{parts[0]}.py").exists():
                    waiting.append(own)  # beside the folders of the train.py
                else:
                    found.setdefault(parts[0], file)
                    if parts[:3] == ["torch", "utils", "tensorboard"]:
                        found.setdefault("tensorboard", file)
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*/*/train.py")))
def test_what_is_needed_late_is_imported_late(path):
    """What only some corpora need is imported with their readers."""
    found = imported_by(path)
    assert {"torch", "speechbrain", "numpy", "soundfile"} <= {*found}
    readers = {"MultiDomainEnglish": {"lhotse"}, "CommonVoice": {"babel", "fontTools"}}
    late = LATE - readers.get(path.parts[-3], set())
    assert {name: found[name] for name in late & {*found}} == {}

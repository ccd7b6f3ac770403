"""The rooms of the package: imports point down, and no file or class is too long."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hetero_brain"
# A module may import from its own room, and from the rooms on lower floors.
FLOORS = {
    "errors": 0,
    "domain_batch": 0,
    "training": 1,
    "data": 2,
    "models": 2,
    "bilevel": 3,
    "brain": 3,
    "objectives": 4,
    "recognition": 4,
    "pipelines": 5,
    "commands": 6,
    "experiment": 7,
    "__main__": 7,
}
MODULES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
MODULE_LINES, CLASS_LINES = 300, 250


def name(path):
    return str(path.relative_to(ROOT))


def imported(path, source=None):
    """Dotted names, as lists, of what a file imports from this repository."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source or path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = list(package[: len(package) - node.level + 1]) if node.level else []
            stem += node.module.split(".") if node.module else []
            found = [[*stem, alias.name] for alias in node.names]
        else:
            continue
        yield from (parts for parts in found if parts[0] in ("hetero_brain", "recipes"))


def wrong_imports(path, source=None):
    """Imports of a module that point up, or sideways into another room."""
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for parts in imported(path, source):
        other = parts[1] if len(parts) > 1 and parts[0] == "hetero_brain" else None
        down = other in FLOORS and FLOORS[other] < FLOORS[room]
        down = down or other == "__version__"
        core = FLOORS[room] == FLOORS.get(other) == FLOORS["brain"]
        if not (down or core or other == room):
            yield ".".join(parts)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path):
    if path != PACKAGE / "__init__.py":
        assert list(wrong_imports(path)) == []


@pytest.mark.parametrize(
    "room, line",
    [
        ("data/plan.py", "from ..brain import HeteroBrain"),
        ("data/plan.py", "from ..models.layers import Linear"),
        ("recognition/ctc.py", "from ..pipelines import report"),
        ("training/rng.py", "import hetero_brain.data.plan"),
        ("models/layers.py", "def late():\n    from hetero_brain import data"),
        ("pipelines/recipe.py", "from recipes.VoicePrompts import make_sample"),
        ("bilevel.py", "from . import HeteroBrain"),
    ],
)
def test_an_import_that_points_up_is_found(room, line):
    assert len(list(wrong_imports(PACKAGE / room, line))) == 1


def test_every_room_says_what_lives_there():
    rooms = {path.relative_to(PACKAGE).parts[0] for path in MODULES}
    assert {room.removesuffix(".py") for room in rooms} == {*FLOORS, "__init__"}
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text("utf-8"))
        assert ast.get_docstring(tree), name(path)
        public = ast.literal_eval(tree.body[-1].value)
        if len(tree.body) == 2:  # nothing is imported: the modules are what is public
            found = {p.stem for p in path.parent.iterdir()} - {
                "__init__",
                "__pycache__",
            }
            assert set(public) == found, name(path)


@pytest.mark.parametrize("path", MODULES + RECIPES, ids=name)
def test_no_file_and_no_class_is_too_long(path):
    source = path.read_text("utf-8")
    assert source.count("\n") <= MODULE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < CLASS_LINES, node.name

"""The pages in docs/ say what is in the code, and their links lead somewhere."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/README.md")]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def test_the_readme_takes_ten_minutes():
    assert len((ROOT / "README.md").read_text("utf-8").split()) < 900


def texts():
    """All strings of the package, with … for what is filled in."""
    found = []
    for path in ROOT.glob("hetero_brain/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (getattr(value, "value", "…") for value in node.values)
                found.append("".join(p if isinstance(p, str) else "…" for p in parts))
    return found


def test_messages_of_the_faq_exist():
    quoted = re.findall(r'\*\*"(.+?)"', (ROOT / "docs/faq.md").read_text("utf-8"))
    strings = texts()
    assert len(quoted) > 8
    for message in quoted:
        for part in re.split(r"…,?|\b[Nnm]\b|\d+|\[.*", message):
            part = part.strip()
            if len(part) > 3:
                assert any(part in text for text in strings), (message, part)


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = HEADING.findall(page.read_text("utf-8"))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.replace(" ", "-") for text in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        if target.startswith(("http", "mailto")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_yamls_and_scripts_begin_with_commands_for_the_folder_of_the_clone():
    files = [
        *ROOT.glob("recipes/*/*/train.py"),
        *ROOT.glob("recipes/*/*/hparams/*.yaml"),
    ]
    for path in files:
        head = re.split("^(?:import|seed)", path.read_text("utf-8"), flags=re.M)[0]
        named = re.findall(r"\S+\.(?:py|yaml)\b", head.split("python ", 1)[1])
        named = [file for file in named if "/" in file]
        assert len(named) >= 2 and all((ROOT / file).is_file() for file in named), path
        assert "../" not in head


def test_targets_of_make_exist():
    texts = [path.read_text("utf-8") for path in PAGES]
    named = {
        *re.findall(r"\bmake ([a-z]+(?:-quick)?)(?=`|$|  )", "\n".join(texts), re.M)
    }
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"install", "demo", "test"} <= named <= {*targets}


def test_pictures_are_drawn(tmp_path):
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs/pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    for draw in (pictures.method, pictures.result):
        draw(tmp_path / "a.svg")
        drawn = (tmp_path / "a.svg").read_text("utf-8")
        committed = (ROOT / f"docs/{draw.__name__}.svg").read_text("utf-8")
        # Other versions of matplotlib write other numbers, but the same parts.
        assert drawn.count("<path") == pytest.approx(committed.count("<path"), rel=0.2)

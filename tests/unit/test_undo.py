"""What a refused start takes back, and what it leaves."""

import os

import pytest

from hetero_brain.pipelines.undo import Undo


def contents(folder):
    """Path → text of all files below a folder, also hidden ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture
def folder(tmp_path):
    """An output folder with manifests."""
    (tmp_path / "run/manifests").mkdir(parents=True)
    for name in ("train", "dev"):
        (tmp_path / f"run/manifests/{name}.csv").write_text(name)
    return tmp_path / "run"


def prepare(folder, text):
    """Write train.csv and test.csv as manifests are written, and no dev.csv."""
    for name in ("train", "test"):
        (folder / ".new").write_text(text)
        (folder / ".new").replace(folder / f"manifests/{name}.csv")
    (folder / "manifests/dev.csv").unlink(missing_ok=True)


@pytest.mark.parametrize("linking", [True, False])
def test_manifests_are_taken_back(linking, folder, monkeypatch):
    def no_links(*paths):
        raise OSError

    if not linking:
        monkeypatch.setattr(os, "link", no_links)
    before, undo = contents(folder), Undo()
    undo.begin(folder)
    prepare(folder, "other")
    undo.take_back()
    assert contents(folder) == before
    undo.take_back()  # there is nothing left to do
    assert contents(folder) == before


def test_what_is_accepted_stays(folder):
    undo = Undo()
    undo.begin(folder)
    prepare(folder, "other")
    undo.accept()
    undo.take_back()
    names = "manifests/train.csv", "manifests/test.csv"
    assert contents(folder) == dict.fromkeys(names, "other")


def test_two_starts_in_a_folder(folder):
    """As two phases that start from the same one; a third one is refused."""
    one, two, three = Undo(), Undo(), Undo()
    for undo in (one, two):
        undo.begin(folder)
        prepare(folder, "new")
    accepted = contents(folder / "manifests")
    three.begin(folder)
    one.accept()
    prepare(folder, "other")
    three.take_back()
    two.accept()
    assert contents(folder) == {f"manifests/{k}": v for k, v in accepted.items()}


def test_folders_that_were_not_there_are_removed(tmp_path):
    undo = Undo()
    undo.begin(tmp_path / "a/b/c")
    prepare_in = tmp_path / "a/b/c/manifests"
    prepare_in.mkdir(parents=True)
    (tmp_path / "a/other").touch()
    undo.take_back()
    assert contents(tmp_path) == {"a/other": ""} and not (tmp_path / "a/b").exists()

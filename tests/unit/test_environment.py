"""``env.log`` names what a run really uses."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from hetero_brain.pipelines import environment

ROOT = Path(__file__).resolve().parents[2]


def test_packages_are_those_of_this_python(tmp_path, monkeypatch):
    (tmp_path / "pip").write_text("#!/bin/sh\necho of-another-python==1.0\n")
    (tmp_path / "pip").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    lines = environment.describe_environment().splitlines()
    assert f"torch=={torch.__version__.split('+')[0]}" in lines
    assert "of-another-python==1.0" not in lines
    assert lines[0] == "Python:" and sys.version.splitlines()[0] in lines


def test_the_revision_is_that_of_the_code_wherever_the_run_starts(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asked = ["git", "-C", ROOT, "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    revision = environment.git_revision().removesuffix("-dirty")
    assert commit and commit.startswith(revision) and len(revision) >= 7


def test_no_revision_is_that_of_another_project(tmp_path, monkeypatch):
    """An environment often lies within the repository of somebody's project."""
    file = tmp_path / "site-packages/environment.py"
    file.parent.mkdir()
    shutil.copy(environment.__file__, file)
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty"]
    for words in (["init", "--quiet"], [*commit, "--quiet", "--message=a"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(environment, "__file__", str(file))
    assert environment.git_revision() == "none: it is not run from a clone"

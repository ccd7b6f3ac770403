"""The package as it is handed on: its public names, and a wheel that needs no clone."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

import hetero_brain
from tests.processes import python

ROOT = Path(__file__).parents[2]


def test_public_names_are_imported_when_they_are_used():
    code = (
        "import sys, hetero_brain\n"
        "assert 'torch' not in sys.modules\n"
        "assert {*hetero_brain.__all__} < {*dir(hetero_brain)}\n"
        "from hetero_brain import DomainBatch\n"
        "assert 'torch' not in sys.modules and 'DomainBatch' in vars(hetero_brain)\n"
        "assert hetero_brain.DomainBatch is hetero_brain.domain_batch.DomainBatch\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_public_name_has_its_module():
    assert {*hetero_brain.__all__} == {*hetero_brain._MODULES}
    for name in hetero_brain.__all__:
        value = getattr(hetero_brain, name)
        assert value.__module__ == f"hetero_brain.{hetero_brain._MODULES[name]}"
    with pytest.raises(AttributeError, match="has no attribute 'HeteroBrian'"):
        hetero_brain.HeteroBrian  # noqa: B018
    with pytest.raises(ImportError):
        from hetero_brain import nothing  # noqa: F401


def test_a_gpu_machine_without_internet_gets_every_requirement():
    """``bundle.sh`` downloads each that its comment does not say to be there."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].split()
    text = (ROOT / "tests/benchmarks/bundle.sh").read_text("utf-8")
    (there,) = re.findall("# (.*) are taken to be there", text)
    (brought,) = re.findall('packages="([^"]*)"', text)
    named = {*re.findall("[a-z]+", there), *re.findall("[a-z]+", brought)}
    assert {re.match("[a-z]+", name)[0] for name in wanted} <= named


# ------------------------------------------------------------------------------- wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built offline from what git has, in a folder of its own."""
    if find_spec("setuptools") is None or find_spec("pip") is None:
        pytest.skip("setuptools and pip build the wheel")
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", *options, "--wheel-dir", "wheels"],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (source / "wheels").glob("*.whl")
    return path


def tracked():
    """Paths of the files of the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    done = subprocess.run(
        [*command, "--exclude-standard"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("git lists the files that are built")
    names = filter(None, done.stdout.split("\0"))
    return [name for name in names if (ROOT / name).is_file()]


def test_a_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    found = {name for name in names if ".dist-info/" not in name}
    assert found == {name for name in tracked() if name.startswith("hetero_brain/")}


def test_a_wheel_shows_what_a_package_page_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    (folder,) = {n.split("/")[0] for n in archive.namelist() if ".dist-info/" in n}
    about = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
    assert about["Version"] == hetero_brain.__version__
    assert about["Requires-Python"] == ">=3.10"
    assert {"lm", "corpora"} <= {*about.get_all("Provides-Extra")}
    assert any("kenlm" in line for line in about.get_all("Requires-Dist"))
    assert "Apache" in (about["License"] or about["License-Expression"])
    assert len(about.get_all("Classifier")) > 5 and about.get_all("Project-URL")
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload() == (ROOT / "README.md").read_text("utf-8")
    scripts = archive.read(f"{folder}/entry_points.txt").decode()
    assert "hetero-brain = hetero_brain.__main__:main" in scripts


def test_what_a_wheel_holds_works_without_a_clone(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(program, *words):
        done = subprocess.run(
            [program, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "experiment" in run(sys.executable, "-m", "hetero_brain", "--help")
    modules = [
        ".".join(path.relative_to(tmp_path).with_suffix("").parts)
        for path in sorted(tmp_path.glob("hetero_brain/**/*.py"))
        if path.name != "__init__.py"
    ]
    code = (
        "from importlib import import_module\n"
        f"for name in {modules!r}:\n"
        f"    assert import_module(name).__file__.startswith({str(tmp_path)!r}), name\n"
    )
    run(python(), "-c", code)

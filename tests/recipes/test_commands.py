"""Every YAML has a row in a table here and runs from it; every README command runs."""

import csv
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from tests import processes
from tests.processes import python
from tests.public_models import save_small
from tests.recipes.common_voice_fixture import common_voice_tree
from tests.recipes.corpora_fixtures import english_tree
from tests.recipes.manifests_fixture import sample_manifests
from tests.recipes.small_sample import small_sample

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "recipes/VoicePrompts/sample"
ROWS = [
    row
    for table in sorted(Path(__file__).parent.glob("*.csv"))
    for row in csv.DictReader(open(table, encoding="utf-8"))
]
# Lists that YAMLs take in; not run by themselves.
INCLUDED = {"recipes/MultiDomainEnglish/domains.yaml"}
READMES = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("recipes/**/*.md"))
    if "results" not in path.parts
]


@pytest.fixture(scope="session")
def data():
    """Dataset → the folder of its data, a small one in the layout of the real one, which
    all processes of the tests share."""

    def of(dataset):
        folder = Path(os.environ[processes.FOLDER], dataset)
        with open(f"{folder}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                making = folder.with_name(f"{dataset}.new")
                making.mkdir()
                make_data(dataset, making, folder)
                making.rename(folder)
        return folder

    return of


def make_data(dataset, folder, final):
    """Make the small data of a dataset in a folder that will be renamed to ``final``."""
    if dataset == "VoicePrompts":
        small_sample(folder)
    elif dataset == "CommonVoice":
        with tempfile.TemporaryDirectory() as prompts:
            common_voice_tree(folder, small_sample(prompts))
    elif dataset != "MultiDomainEnglish":  # made by `recipe`
        sample_manifests(folder)
    else:
        domains = {"data_root": str(folder), "domains": english_tree(folder)}
        text = json.dumps(domains).replace(str(folder), str(final))
        (folder / "domains.json").write_text(text)


@pytest.fixture(scope="session", autouse=True)
def public(tmp_path_factory, data):
    """The folder of a small public model, which commands know as ``$PUBLIC``; they also
    know that of the prompts, as ``$PROMPTS``."""
    folder = save_small("wav2vec2", tmp_path_factory.mktemp("hub"), "ForPreTraining")
    os.environ |= {"PUBLIC": folder, "PROMPTS": str(data("VoicePrompts"))}
    yield folder
    del os.environ["PUBLIC"], os.environ["PROMPTS"]


def run(words, folder, data_folder=SAMPLE, real=False):
    """Run a command in a folder that looks like the repository; return its output.

    ``real`` processes are not those of ``tests/processes.py``.
    """
    (folder / "recipes").exists() or (folder / "recipes").symlink_to(ROOT / "recipes")
    environment = {**os.environ, "DATA": str(data_folder)}
    environment["OMP_NUM_THREADS"] = "1"
    programs = [sys.executable] if real else [python(), sys.executable]
    folders = [*(str(Path(program).parent) for program in programs)]
    environment["PATH"] = ":".join([*folders, environment["PATH"]])
    done = subprocess.run(
        ["bash", "-c", words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}"
    return done.stdout


def commands(readme):
    """The lines of the bash blocks of a README."""
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_every_yaml_has_a_row():
    listed = {row["Hparam_file"] for row in ROWS}
    found = {str(p.relative_to(ROOT)) for p in ROOT.glob("recipes/**/*.yaml")}
    assert found == listed | INCLUDED


def command_of(row):
    """Runs a row's YAML as it is."""
    return f"python {row['Script_file']} {row['Hparam_file']} --data_folder $DATA"


def files_in(folder):
    """All files below a folder."""
    return {path for path in folder.rglob("*") if path.is_file()}


def check(row, new):
    """Whether a run has written what its row names, all below one folder."""
    names = row["test_debug_checks"].split()
    full = {path for path in new if path.stat().st_size > 0}
    folders = {folder for path in new for folder in path.parents}
    assert any(full >= {folder / name for name in names} for folder in folders), new


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["Hparam_file"][8:-5])
def test_files_of_a_row_exist(row):
    assert (ROOT / row["Data_prep_file"]).exists()
    assert Path(row["Hparam_file"]).name in (ROOT / row["Readme_file"]).read_text(
        "utf-8"
    )


# Other rows run where a README does so, in most cases with some options.
IN_READMES = {
    word
    for readme in READMES
    for command in commands(readme)
    for word in shlex.split(command)
}
ALONE = [row for row in ROWS if row["Hparam_file"] not in IN_READMES]


@pytest.mark.parametrize("row", ALONE, ids=lambda row: row["Hparam_file"][8:-5])
def test_row_runs(row, tmp_path, data):
    words = f"{command_of(row)} {row['test_debug_flags']} --output_folder out"
    run(words, tmp_path, data(row["Dataset"]))
    check(row, files_in(tmp_path / "out"))


def in_debug():
    """A row of each task and of each script, from VoicePrompts where it has one, since
    its runs are short; and an experiment."""
    found, seen = [], set()
    for row in sorted(ROWS, key=lambda row: row["Dataset"], reverse=True):
        names = {row["Task"], row["Script_file"]}
        is_train = "/" in row["Script_file"] and not names <= seen
        if is_train or row["Hparam_file"] == "recipes/VoicePrompts/demo.yaml":
            found.append(row)
            seen |= names
    return found


@pytest.mark.parametrize("row", in_debug(), ids=lambda row: row["Hparam_file"][8:-5])
def test_row_runs_in_debug_mode(row, tmp_path, data):
    """What a user tries first; it leaves nothing that looks like a result, and begins
    anew each time."""
    (tmp_path / "out/debug").mkdir(parents=True)
    for name in ("older", "made_by_debug"):
        (tmp_path / "out/debug" / name).touch()
    flags = re.sub(r"--\w*epochs 1\b", "", row["test_debug_flags"])  # those of the YAML
    words = f"{command_of(row)} {flags} --output_folder out --debug"
    output = run(words, tmp_path, data(row["Dataset"]))
    assert "unfinished" not in output  # with as few epochs as a run in debug mode has
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["debug"]
    new = files_in(tmp_path / "out")
    check(row, new)
    assert tmp_path / "out/debug/older" not in new


def test_debug_mode_deletes_nothing_that_it_has_not_made(tmp_path):
    (tmp_path / "out/debug").mkdir(parents=True)
    (tmp_path / "out/debug/results").touch()
    with pytest.raises(
        AssertionError, match="out/debug: --debug deletes this"
    ) as error:
        run(f"{command_of(ROWS[-1])} --output_folder out --debug", tmp_path)
    assert "Traceback" not in str(error.value)
    assert (tmp_path / "out/debug/results").exists()


@pytest.mark.parametrize("readme", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_readme_commands_run_in_their_order(readme, tmp_path, data, public):
    run("git init --quiet .", tmp_path)
    rows = {row["Hparam_file"]: row for row in ROWS}
    in_recipe = readme.is_relative_to(ROOT / "recipes")
    dataset = readme.relative_to(ROOT / "recipes").parts[0] if in_recipe else None
    folder = data(dataset or "VoicePrompts")
    begun = set()
    for command in commands(readme):
        # A language that the small data has; the size of model that a row asks for.
        command = re.sub(r"\[(it|cy)\]", "[fr]", command)
        words = command = re.sub(r"--size \w+ ", "", command)
        row = next((rows[word] for word in shlex.split(words) if word in rows), None)
        if row is None:
            run(words, tmp_path, folder)
            continue
        flags = row["test_debug_flags"].replace("$DATA", str(folder))
        flags = shlex.split(flags.replace("$PUBLIC", public))
        pairs = zip(flags[::2], flags[1::2])
        extra = [word for pair in pairs if pair[0] not in command for word in pair]
        begun_at = time.time_ns()
        # The first run of each train.py in its recipe's README is a real one, to the end
        # of its process; fine-tuning, which is alike in all, in one of them only.
        script = row["Script_file"]
        real = in_recipe and script.endswith("train.py") and script not in begun
        real = real and ("pretrain/" in script or dataset == "VoicePrompts")
        begun.add(script)
        run(f"{words} {shlex.join(extra)}", tmp_path, folder, real)
        found = files_in(tmp_path / "results")
        check(row, {path for path in found if path.stat().st_mtime_ns >= begun_at})


PYTHON_BLOCKS = [
    (readme, block)
    for readme in READMES
    for block in re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.S)
]


@pytest.mark.parametrize("readme, block", PYTHON_BLOCKS, ids=lambda x: str(x)[-12:])
def test_python_blocks_of_readmes_run_as_they_are(readme, block, tmp_path):
    done = subprocess.run(
        [python(), "-c", block], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_commands_of_the_readme_are_run_elsewhere():
    """By the READMEs of a recipe (on a language that the sample lacks) and of templates;
    those on a recipe of one's own by test_new_recipe.py."""
    text = (ROOT / "README.md").read_text("utf-8")
    quoted = re.findall(r"^    ((?:python|sbatch) .+)$", text, re.MULTILINE)
    quoted = [line for line in quoted if "MyCorpus" not in line]
    assert len(quoted) == 7
    italian = {re.sub(r"(?<=[\[/])es(?=[\]/ ]|$)", "it", line) for line in quoted}
    readmes = ROOT / "recipes/VoicePrompts/README.md", ROOT / "templates/README.md"
    assert italian <= {line for readme in readmes for line in commands(readme)}


def test_the_readme_has_exactly_two_setup_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"^    (make \w+)", text, re.MULTILINE) == [
        "make demo",
        "make test",
    ]


@pytest.mark.parametrize(
    "flag, named",
    [("--local_step 3", "local_step"), ("--ptloc '{local_step: 3}'", "local_step")],
)
def test_an_override_that_does_not_exist_is_refused(flag, named, tmp_path):
    row = ROWS[0]
    with pytest.raises(AssertionError, match=named) as error:
        run(f"python {row['Script_file']} {row['Hparam_file']} {flag}", tmp_path)
    assert "Traceback" not in str(error.value)  # a message, for whoever mistyped
    assert not (tmp_path / "results").exists()


def test_the_algorithm_is_quoted_as_it_is():
    quoted = re.search(
        r"```python\n(for domain_batch.*?)```",
        (ROOT / "docs/algorithm.md").read_text("utf-8"),
        re.S,
    )
    code = (ROOT / "hetero_brain/brain.py").read_text("utf-8")
    assert textwrap.indent(quoted[1], " " * 8) in code


def test_a_recipe_names_what_ctc_cannot_spell(tmp_path):
    """Eight feature frames a frame are too few for the characters of some prompts."""
    row = next(r for r in ROWS if "VoicePrompts/finetune/hparams/ctc" in str(r))
    flags = "--finetune_domains [es] --epochs 1 --global_batch_seconds 60 --stack 8"
    output = run(f"{command_of(row)} {flags} --output_folder out", tmp_path)
    assert "1 of 36 utterances have fewer frames" in output
    assert "es/vm-pls-try-again: 26 frames needed, 23 there" in output
    assert "es/vm-helpexit: 70 frames needed, 66 there" in output
    results = json.loads((tmp_path / "out/dev.json").read_text("utf-8"))
    assert "es/vm-helpexit" in {result["id"] for result in results}

"""The command line: its list of commands, and help without importing torch."""

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hetero_brain
from hetero_brain.__main__ import COMMANDS, main
from hetero_brain.errors import InputError, reported
from hetero_brain.pipelines.usage import sections, summary, usage
from tests.processes import python

ROOT = Path(__file__).parents[2]
FINETUNE = ROOT / "recipes/VoicePrompts/finetune"
YAML = FINETUNE / "hparams/ctc.yaml"
# Runs the words after it as Python would, then says whether torch was imported.
WITH_A_LOOK_AT_TORCH = """
import runpy, sys
what, sys.argv = sys.argv[1], sys.argv[1:]
try:
    if what.endswith(".py"):
        runpy.run_path(what, run_name="__main__")
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("torch" in sys.modules, end.code)
"""


def run(*words):
    """The output of a real process, its exit code, and whether it imported torch."""
    command = [sys.executable, "-c", WITH_A_LOOK_AT_TORCH, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    *lines, last = done.stdout.splitlines()
    imported, code = last.split()
    return "\n".join(lines), code, imported == "True"


# Runs each command's help; the exit code of the process is 1 if that imports torch.
ALL_HELP = """
import sys
from hetero_brain.__main__ import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert not end.code
    assert not {"torch", "speechbrain"} & {*sys.modules}, command
"""


def test_help_of_a_command_does_not_wait_for_torch():
    subprocess.run([sys.executable, "-c", ALL_HELP], cwd=ROOT, check=True)


def test_commands_are_listed_without_torch():
    output, code, imported = run("hetero_brain", "--help")
    assert code in ("0", "None") and not imported
    listed = re.findall(r"^ {2}(\w+)  ", output, re.M)
    assert listed == [*COMMANDS]
    for does in COMMANDS.values():
        assert does in " ".join(output.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_the_main_of_its_module(command, monkeypatch):
    module = import_module(f"hetero_brain.commands.{command}")
    given = []
    monkeypatch.setattr(module, "main", lambda words: given.append(words) or 7)
    words = ["a", "--split", "test", "--", "-x", "--help", "--version"]
    assert main([command, *words]) == 7
    assert given == [words]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_describes_itself(command, capsys):
    try:
        main([command, "--help"])
    except SystemExit as end:  # of argparse
        assert not end.code
    output = capsys.readouterr().out
    assert output.startswith(f"usage: python -m hetero_brain {command} ")
    assert len(output) > 250


def unread(*words):
    """Exit code and stderr of a process whose output nobody reads."""
    read, write = os.pipe()
    os.close(read)
    command = [python(), *map(str, words)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(write)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "hetero_brain", "--help"],
        ["-m", "hetero_brain", "compare", "--help"],
        ["-m", "hetero_brain", "experiment", "--help"],
        [FINETUNE / "train.py", YAML, "--help"],
    ],
    ids=lambda words: Path(str(words[-2])).name,
)
def test_whoever_reads_may_stop_reading(words):
    code, told = unread(*words)
    assert told == ""
    assert code in (0, 128 + signal.SIGPIPE)  # 0: argparse has not noticed


def test_another_pipe_that_breaks_is_an_error():
    with pytest.raises(BrokenPipeError), reported():
        raise BrokenPipeError


def test_what_is_no_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compares", "--help"])
    told = capsys.readouterr().err
    assert "'compares'" in told and "compare" in told and "experiment" in told
    with pytest.raises(SystemExit, match="2"):
        main([])
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"{hetero_brain.__version__}\n"


def test_bad_input_is_a_message(tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path)])
    assert end.value.code == (
        f"{tmp_path}: not the output folder of an experiment (no "
        f"{tmp_path}/hyperparams.yaml)"
    )


# -------------------------------------------------------------------------- of recipes


def test_help_of_a_recipe_has_its_keys_with_their_comments_before_torch():
    output, code, imported = run(FINETUNE / "train.py", YAML, "--help")
    assert code in ("0", "None") and not imported
    text = " ".join(output.split())
    for title in ("run and data", "training", "model", "decoding", "log"):
        assert f"\n{title}:\n" in output
    assert f"train.py {YAML} [--key value]" in output
    assert "--valid_interval 5 epochs between validations; a larger number" in text
    assert "--lm null n-gram model of words, .arpa or a KenLM binary" in text
    # A comment above a key, and one of a key in a mapping.
    assert "--readout !apply:hetero_brain" in text
    assert "A learned weighting of all layers, since the last ones" in text
    assert "max_bad_audio_fraction: stop if a larger share" in text
    # SpeechBrain's options, once each: precision is a key of the YAML.
    assert output.index("--log_interval") < output.index("options of SpeechBrain:")
    assert "--debug_batches DEBUG_BATCHES" in text
    assert output.count("--precision ") == 1
    assert "__set_seed" not in output


def test_help_of_a_recipe_without_a_yaml_lists_them():
    output, code, imported = run(FINETUNE / "train.py", "-h")
    assert code in ("0", "None") and not imported
    text = " ".join(output.split())
    for name in ("attention", "ctc", "probe"):
        path = FINETUNE / f"hparams/{name}.yaml"
        about = summary(path.read_text("utf-8"))
        assert f"{path.relative_to(ROOT)} {about}" in text
    assert "--debug_batches" in text and "--epochs" not in text


@pytest.mark.parametrize(
    "path",
    sorted(ROOT.glob("recipes/**/*.yaml")),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_every_key_of_every_yaml_is_in_its_help(path):
    text = path.read_text("utf-8")
    keys = [key for keys in sections(text).values() for key in keys]
    assert keys == re.findall(r"^([a-zA-Z]\w*):", text, re.M)
    help_text = usage("train.py", "", [str(path)])
    assert all(f"--{key}" in help_text for key in keys)


def test_help_of_a_yaml_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="nowhere.yaml: No such file"):
        usage("train.py", "", [str(tmp_path / "nowhere.yaml"), "--help"])


def test_comments_of_keys():
    text = """# A recipe
# of two lines.
#
#   python train.py
#
seed: 1  # of weights
__hidden: 2  # not for users

# ------------------- model
# Above,
# in two lines.
rate: 0.5  # 50 % of it
plan:  # a mapping
    rate: !ref <rate>
    hours: 3  # of audio
size: '#1'
"""
    assert sections(text) == {
        "keys": {"seed": ("1", "of weights")},
        "model": {
            "rate": ("0.5", "50 % of it. Above, in two lines."),
            "plan": ("{…}", "a mapping. hours: of audio"),
            "size": ("'#1'", ""),
        },
    }
    assert summary(text) == "A recipe of two lines."

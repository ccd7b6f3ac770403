"""What a newcomer runs first suits the speech that it is run on, by our own words."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from hetero_brain.commands.recipe import SHORT
from hetero_brain.data.loaders import make_plan
from hetero_brain.data.splits import finetuning_splits, pretraining_splits
from hetero_brain.pipelines.doubts import doubts, long_recordings
from hetero_brain.pipelines.look_ahead import Length
from hetero_brain.pipelines.overrides import override
from hetero_brain.pipelines.yaml_files import read_tree, resolve

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "recipes/VoicePrompts/sample"
COMMANDS = [
    line
    for line in re.findall(r"^    (.+)$", (ROOT / "README.md").read_text("utf-8"), re.M)
    if "recipes/VoicePrompts/" in line and "/hparams/" in line
]
PRETRAINING = "python recipes/VoicePrompts/pretrain/train.py "
PRETRAINING += "recipes/VoicePrompts/pretrain/hparams/bestrq.yaml --data_folder $DATA "


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The manifests of the sample."""
    sys.path.append(str(ROOT / "recipes/VoicePrompts"))
    from voice_prompts_prepare import prepare_voice_prompts

    folder = tmp_path_factory.mktemp("sample")
    prepare_voice_prompts(SAMPLE, folder, ["en", "es", "fr"])
    return folder


def settings_of(command):
    """The YAML of a command with its options."""
    words = shlex.split(command.replace("$DATA", str(SAMPLE)).replace(" --debug", ""))
    yaml = next(word for word in words if word.endswith(".yaml"))
    tree = read_tree(ROOT / yaml)
    override(tree, words[words.index(yaml) + 1 :], yaml)
    return resolve(yaml, tree)


def doubts_about(command, prepared):
    """What a run of a command on the sample would be warned of before it trains."""
    settings = settings_of(command)
    warmup = settings["warmup_iterations"]
    if "finetune_domains" in settings:
        domains = settings["finetune_domains"]
        train = finetuning_splits(prepared, SAMPLE, domains, [], 1)["train"]
        lengths = [Length("fine-tuning", settings["epochs"], warmup)]
    else:
        train, _ = pretraining_splits(prepared / "train.csv", SAMPLE)
        control = settings["ptloc_epochs"] * (1 + settings["local_steps"])
        epochs = {"CSSL.1": settings.get("cssl_epochs")}  # not of a public model
        epochs |= {"PTLOC.1": settings["ptloc_epochs"], "CSSL-continued.1": control}
        lengths = [Length(name, n, warmup) for name, n in epochs.items() if n]
    plan = make_plan(train, 1, **settings["plan"])
    told = long_recordings(train.duration, plan.max_utterance_seconds)
    return [*told, *doubts(plan, lengths)]


@pytest.mark.parametrize("command", [*COMMANDS, PRETRAINING + SHORT])
def test_a_first_try_suits_its_speech(command, prepared):
    assert doubts_about(command, prepared) == []


def test_the_commands_of_the_readme_are_those_of_training():
    assert len(COMMANDS) == 4


def test_settings_for_hours_of_speech_do_not_suit_minutes(prepared):
    """Hence the options; and each kind of warning is given once."""
    padded, warmup = doubts_about(PRETRAINING, prepared)
    assert "is padding" in padded
    assert all(f"batches of {domain}" in padded for domain in ("en", "es", "fr"))
    assert "longer than all of PTLOC.1" in warmup and "half of CSSL.1" in warmup

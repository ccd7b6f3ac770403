"""What a run says at its end."""

import logging
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from hetero_brain.pipelines.closing import end_finetuning, end_pretraining
from hetero_brain.pipelines.phases import alternation, continued
from hetero_brain.pipelines.rounds import run_phases
from hetero_brain.pipelines.yaml_files import Hparams
from tests.unit.test_rounds import CSSL, PTLOC, Toy, loader, make_hparams

RECIPE = Path(__file__).parents[2] / "recipes/VoicePrompts"


@pytest.fixture
def said(caplog):
    """said() → the last message."""
    caplog.set_level(logging.INFO, "hetero_brain.pipelines.closing")
    return lambda: caplog.messages[-1]


def hparams(folder, yaml="bestrq", **encoder):
    values = {
        "output_folder": str(folder),
        "data_folder": "/my data",
        "pretrain_domains": ["es", "en"],
        "modules": {"encoder": SimpleNamespace(**encoder)},
    }
    return Hparams(str(RECIPE / f"pretrain/hparams/{yaml}.yaml"), values)


def test_a_pretraining_names_its_models_and_the_next_command(tmp_path, said):
    phases = alternation(1, CSSL, PTLOC, control={"lr": 0.1})
    (tmp_path / "CSSL.1/model").mkdir(parents=True)
    end_pretraining(hparams(tmp_path), phases, ["PTLOC.1"])
    head, *models, following, command = said().splitlines()
    assert head == "Finished, with a model in:"
    assert [line.split() for line in models] == [
        ["CSSL.1", f"{tmp_path}/CSSL.1/model"],
        ["PTLOC.1", f"{tmp_path}/PTLOC.1"],  # whose modules cannot be described
        ["CSSL-continued.1", f"{tmp_path}/CSSL-continued.1"],
    ]
    assert following == "Next, fine-tune one of them:"
    python, script, yaml, *words = shlex.split(command)
    assert python == "python" and Path(script).is_file()
    assert Path(yaml).resolve() == RECIPE / "finetune/hparams/ctc.yaml"
    assert words == (
        ["--data_folder", "/my data", "--finetune_domains", "[es]"]
        + ["--pretrained", f"{tmp_path}/PTLOC.1"]
    )


def test_a_public_model_is_fine_tuned_by_its_yaml(tmp_path, said):
    phases = continued(PTLOC, {"lr": 0.1})
    end_pretraining(hparams(tmp_path, "hubert", checkpoint=1), phases, ["PTLOC.1"])
    assert "finetune/hparams/public.yaml" in said()


def test_where_there_is_no_fine_tuning_none_is_named(tmp_path, said, monkeypatch):
    own = hparams(tmp_path)
    own.path = str(tmp_path / "bestrq.yaml")
    phases = alternation(1, CSSL, PTLOC)
    monkeypatch.chdir("/")  # which has no parent
    for settings in (own, dict(own)):  # of a YAML elsewhere, and of none
        end_pretraining(settings, phases, ["PTLOC.1"])
        assert "PTLOC.1" in said() and "fine-tune" not in said()


def test_a_try_is_no_result(tmp_path, said):
    phases = alternation(1, CSSL, PTLOC)
    end_pretraining(hparams(tmp_path), phases, ["CSSL.1"], debug=True)
    assert said().endswith(
        f"This was a try with --debug: nothing in {tmp_path} is a result. "
        "Next, the same command without it"
    )
    assert "fine-tune" not in said()
    rates = {"dev": {"CER": 45.14, "WER": 90.0}}
    end_finetuning(tmp_path, rates, debug=True)
    assert "nothing in" in said() and "transcribe" not in said()


def test_a_second_start_says_that_all_was_finished(tmp_path, unplotted, said):
    phases = alternation(1, CSSL, PTLOC)
    toy = make_hparams(tmp_path, phases=phases)
    options = {"device": "cpu", "noprogressbar": True}
    assert run_phases(toy, options, Toy, loader()) == ["CSSL.1", "PTLOC.1"]
    trained = run_phases(make_hparams(tmp_path, phases=phases), options, Toy, loader())
    assert trained == []
    end_pretraining(hparams(tmp_path), phases, trained)
    assert said().startswith("All was finished before;")


def test_a_fine_tuning_says_how_to_transcribe(tmp_path, said):
    (tmp_path / "model").mkdir()
    rates = {"dev": {"CER": 45.14, "WER": 90.0, "CER/es": 45.14}}
    end_finetuning(tmp_path, rates)
    assert said().splitlines() == [
        f"Finished, with a model in {tmp_path}/model; dev: CER 45.1%, WER 90.0%",
        "Next, transcribe with it:",
        f"python -m hetero_brain transcribe {tmp_path}/model speech.wav",
    ]

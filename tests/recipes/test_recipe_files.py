"""The recipe's YAMLs agree with each other and with the package."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

from hetero_brain.models.readouts import LastLayer
from hetero_brain.pipelines.recipe import load_recipe
from tests.public_models import save_small

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ROOT / "recipes/VoicePrompts/pretrain/hparams/bestrq.yaml"
FINETUNE = ROOT / "recipes/VoicePrompts/finetune/hparams"
RECIPES = sorted(path.parent.name for path in ROOT.glob("recipes/*/finetune"))
MODEL_KEYS = ("sample_rate", "n_mels", "deltas", "stack", "size", "front_end")


def load(path, **overrides):
    """A YAML's hyperparameters, with a data folder."""
    with open(path, encoding="utf-8") as file:
        return load_hyperpyyaml(file, {"data_folder": "data", **overrides})


def test_one_key_has_one_default_in_every_yaml():
    pretrain, *others = [
        load(path)
        for path in (PRETRAIN, FINETUNE / "ctc.yaml", FINETUNE / "probe.yaml")
    ]
    for other in others:
        for key in MODEL_KEYS:
            assert other[key] == pretrain[key], key
        states = (pretrain["encoder"].state_dict(), other["encoder"].state_dict())
        shapes = [{k: v.shape for k, v in state.items()} for state in states]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "labels, n_codebooks", [("kmeans", 1), ("random_projection", 3)]
)
def test_the_output_layer_fits_the_labels(labels, n_codebooks):
    hparams = load(PRETRAIN, labels=labels, n_codebooks=n_codebooks, codebook_size=32)
    assert hparams["output"].out_features == 32 * n_codebooks
    assert hparams["quantizer"].n_codebooks == n_codebooks


@pytest.mark.parametrize("wrong", [{"labels": "k-means"}, {"n_codebooks": 2}])
def test_wrong_labels_are_named(wrong):
    with pytest.raises(
        ValueError, match=f"{next(iter(wrong))}: {next(iter(wrong.values()))}"
    ):
        load(PRETRAIN, **wrong)


def test_the_papers_input_has_240_dimensions():
    assert load(PRETRAIN, n_mels=40, deltas=True, stack=2)["input_size"] == 240


def test_control_takes_the_passes_of_ptloc():
    phases = {phase.name: phase for phase in load(PRETRAIN, local_steps=3)["phases"]}
    ptloc, control = phases["PTLOC.1"], phases["CSSL-continued.1"]
    assert ptloc.local_steps == 3 and control.local_steps == 0
    assert control.epochs == 4 * ptloc.epochs
    assert control.init == ptloc.init == "CSSL.1"


def test_a_missing_data_folder_stops_before_anything_is_written(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "pretrain_train", ROOT / "recipes/VoicePrompts/pretrain/train.py"
    )
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    argv = [str(PRETRAIN), "--data_folder", str(tmp_path / "nowhere")]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train.main([*argv, "--output_folder", str(tmp_path / "out")])
    assert not list((tmp_path / "out").glob("**/*.csv"))
    # What was to be run is there: the recipe's script, and no file of the package.
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert saved == {"train.py", "hyperparams.yaml", "env.log", "log.txt"}
    assert (tmp_path / "out/train.py").read_text("utf-8") == Path(
        train.__file__
    ).read_text("utf-8")


def test_the_record_of_a_run_is_replaced_when_the_run_says_so(tmp_path):
    argv = [str(PRETRAIN), "--data_folder", "a", "--output_folder", str(tmp_path)]
    argv += ["--size", "mini"]
    script, path = tmp_path / "x.py", tmp_path / "hyperparams.yaml"
    script.touch()
    load_recipe([*argv, "--cssl_epochs", "3"], script)
    assert "\ncssl_epochs: 3 " in path.read_text("utf-8")
    (tmp_path / "env.log").unlink()
    hparams, _ = load_recipe([*argv, "--cssl_epochs", "4"], script)
    assert "\ncssl_epochs: 3 " in path.read_text("utf-8")
    hparams.write_record()
    assert "\ncssl_epochs: 4 " in path.read_text("utf-8")
    assert (tmp_path / "env.log").exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*/*/train.py")))
def test_every_script_is_saved_with_its_run(path):
    assert "load_recipe(argv, __file__)" in path.read_text("utf-8")


def test_a_value_still_to_be_given_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="data_folder"):
        load_recipe([str(PRETRAIN), "--output_folder", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_override_given_twice_is_named(tmp_path):
    argv = [str(PRETRAIN), "--data_folder", "a", "--seed", "1", "--seed", "2"]
    with pytest.raises(SystemExit, match="seed"):
        load_recipe([*argv, "--output_folder", str(tmp_path / "out")])


@pytest.mark.parametrize("yaml", ["ctc.yaml", "attention.yaml"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_readout_of_the_paper_by_an_override(recipe, yaml, tmp_path):
    path = ROOT / "recipes" / recipe / "finetune/hparams" / yaml
    argv = [str(path), "--data_folder", "a", "--output_folder", str(tmp_path)]
    argv += ["--size", "mini"]
    readout = "!new:hetero_brain.models.readouts.LastLayer"
    assert f"--readout '{readout}'" in path.read_text("utf-8")
    modules = load_recipe(argv)[0]["modules"]
    layers = len(modules["encoder"].blocks.layers)
    assert modules["readout"].weights.shape == (layers + 1,)
    modules = load_recipe([*argv, "--readout", readout])[0]["modules"]
    assert isinstance(modules["readout"], LastLayer)


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*/pretrain/hparams/*.yaml")))
def test_blocks_are_recomputed_by_an_override(path, tmp_path):
    argv = [str(path), "--data_folder", "a", "--output_folder", str(tmp_path / "out")]
    argv += ["--recomputed", "blocks"]
    if path.stem in ("wav2vec2", "hubert"):
        argv += ["--source", save_small("wav2vec2", tmp_path, "ForPreTraining")]
        argv += ["--teacher_layer", "1"] if path.stem == "hubert" else []
    else:
        argv += ["--size", "mini"]
    hparams, _ = load_recipe(argv)
    blocks = hparams["modules"]["encoder"].blocks.layers
    assert all("forward" in vars(block) for block in blocks)


@pytest.fixture(autouse=True)
def same_path_afterwards(monkeypatch):
    """Recipes add their folder to sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))

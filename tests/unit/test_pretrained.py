"""A run takes its architecture from ``--pretrained``, and refuses what contradicts it."""

import re
import shutil

import pytest
import torch

from hetero_brain import load_encoder
from hetero_brain.errors import InputError
from hetero_brain.models.conformer import make_encoder
from hetero_brain.models.features import make_features
from hetero_brain.models.recorded import Call
from hetero_brain.models.run_folder import write_run
from hetero_brain.pipelines import experiment
from hetero_brain.pipelines.description import describe
from hetero_brain.pipelines.export import export
from hetero_brain.pipelines.pretrained import load_pretrained
from tests.unit.trained import BESTRQ, CPC, RECIPES, hparams_of, pretrained

FINETUNE = [
    str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/finetune/hparams/*.yaml")
]
CAUSAL = dict(front_end="conv1d", stack=4)  # of raw audio


def model(folder, rate=16000, front_end="linear", stack=4, causal=False, **features):
    """A phase that holds an encoder, with one checkpoint."""
    torch.manual_seed(5)
    modules = {"features": make_features(front_end, rate, stack, **features)}
    size = modules["features"].output_size
    modules["encoder"] = make_encoder(
        "mini", size, front_end, causal=causal, recomputed="blocks"
    )
    checkpoint = folder / "save/CKPT+2026-01-01+00-00-00+00"
    checkpoint.mkdir(parents=True)
    (checkpoint / "CKPT.yaml").write_text("unixtime: 1.0\nend-of-epoch: true\n")
    (checkpoint / "counter.ckpt").write_text("1")
    for name, module in modules.items():
        torch.save(module.state_dict(), checkpoint / f"{name}.ckpt")
    facts = dict(kind="encoder", title="PTLOC.1", sample_rate=rate, parameters=1)
    facts |= dict(hours={}, settings={}, seed=1, commit="c", start=None)
    write_run(folder, describe(modules, rate), 1, None, facts)
    return folder, modules


@pytest.mark.parametrize("yaml", [y for y in FINETUNE if "public" not in str(y)])
@pytest.mark.parametrize("kind", ["mel", "raw"])
def test_no_architecture_key_is_needed(yaml, kind, tmp_path):
    settings = {"n_mels": 20, "deltas": True, "stack": 2, "rate": 11025}
    settings = CAUSAL | {"causal": True} if kind == "raw" else settings
    folder, modules = model(tmp_path / "PTLOC.1", **settings)
    words = f"--pretrained {folder} --dropout 0.3"
    hparams, _ = hparams_of(yaml, words, tmp_path / "out")
    assert hparams["sample_rate"] == settings.get("rate", 16000)
    assert hparams["modules"]["features"].made_by == modules["features"].made_by
    theirs, ours = modules["encoder"].made_by, hparams["modules"]["encoder"].made_by
    differing = {"dropout": 0.3, "recomputed": "none"}
    assert ours == Call(theirs.tag, theirs.name, theirs.arguments | differing)
    for key in ("size", "stack", "front_end"):
        assert (
            hparams[key]
            == {**theirs.arguments, **modules["features"].made_by.arguments}[key]
        )
    encoder = hparams["modules"]["encoder"]
    load_pretrained(hparams["modules"], folder, hparams["sample_rate"], ["encoder"])
    for key, value in modules["encoder"].state_dict().items():
        assert torch.equal(encoder.state_dict()[key], value)


@pytest.mark.parametrize("part", ["", "model"])
def test_all_that_contradicts_is_named_by_key(part, tmp_path):
    folder, _ = model(tmp_path / "PTLOC.1")
    if part:
        folder = export(folder, tmp_path / "model")
    words = "--size tiny --sample_rate 8000 --causal True --n_mels 80 --stack 2"
    words += " --front_end conv1d --deltas True"
    with pytest.raises(SystemExit) as error:
        hparams_of(FINETUNE_CV, f"{words} --pretrained {folder}", tmp_path / "out")
    assert str(error.value).splitlines()[1:] == [
        f"  size: mini in {folder}, tiny here",
        f"  sample_rate: 16000 in {folder}, 8000 here",
        f"  causal: False in {folder}, True here",
        f"  stack: 4 in {folder}, 2 here",
        f"  front_end: linear in {folder}, conv1d here",
        f"  deltas: False in {folder}, True here",
    ]
    assert not (tmp_path / "out").exists()


def test_the_name_of_a_public_model_goes_elsewhere(tmp_path):
    words = "--pretrained facebook/hubert-base-ls960"
    with pytest.raises(SystemExit, match="no such folder; a public .* to public.yaml"):
        hparams_of(FINETUNE_CV, words, tmp_path / "out")


FINETUNE_CV = "CommonVoice/finetune/hparams/ctc.yaml"


@pytest.mark.parametrize(
    "yaml", [BESTRQ, CPC, "VoicePrompts/finetune/hparams/ctc.yaml"]
)
def test_any_recipe_refuses_another_sample_rate(yaml, tmp_path):
    folder, _ = model(tmp_path / "a", **(CAUSAL if yaml == CPC else {}))
    words = f"--pretrained {folder} --sample_rate 22050"
    with pytest.raises(SystemExit, match=f"sample_rate: 16000 in {folder}, 22050 here"):
        hparams_of(yaml, words)
    assert hparams_of(yaml, f"--pretrained {folder} --sample_rate 16000")


def test_what_agrees_may_be_given(tmp_path):
    folder, _ = model(tmp_path / "a")
    words = f"--pretrained {folder} --size mini --stack 4 --causal False"
    assert hparams_of(FINETUNE_CV, words)[0]["size"] == "mini"


def test_modules_that_are_given_are_refused(tmp_path):
    folder, _ = model(tmp_path / "a")
    with pytest.raises(SystemExit, match="encoder: taken from"):
        hparams_of(
            FINETUNE_CV, f"--pretrained {folder} --encoder !new:torch.nn.Identity"
        )


def test_a_model_that_is_not_there_is_named(tmp_path):
    for folder, named in (("nowhere", "no such folder"), (".", "no model")):
        with pytest.raises(SystemExit, match=f"{tmp_path / folder}: .*{named}"):
            hparams_of(FINETUNE_CV, f"--pretrained {tmp_path / folder}")


def test_checkpoints_without_a_description_are_refused(tmp_path):
    folder, _ = model(tmp_path / "a")
    (folder / "model.json").unlink()
    with pytest.raises(SystemExit, match="Run once more the command that made it"):
        hparams_of(FINETUNE_CV, f"--pretrained {folder}")


def test_modules_of_another_package_are_those_of_the_yaml(tmp_path):
    folder, _ = model(tmp_path / "a")
    write_run(folder, None, 1, None, {})
    hparams, _ = hparams_of(FINETUNE_CV, f"--pretrained {folder} --size mini")
    assert hparams["stack"] == 2  # of the YAML
    with pytest.raises(InputError, match="does not fit encoder"):
        load_pretrained(hparams["modules"], folder, 16000, ["encoder"])
    with pytest.raises(InputError, match="only be made by its own code"):
        load_encoder(folder)


def test_a_wrong_model_is_refused_without_a_command_line_too(tmp_path):
    """The same shapes, but another sample rate."""
    folder, modules = model(tmp_path / "a")
    with pytest.raises(InputError, match="sample_rate: 16000 in .*, 8000 here"):
        other = {**modules, "features": make_features("linear", 8000, 4)}
        load_pretrained(other, folder, 8000)


@pytest.fixture(scope="module")
def manifest(sample):
    return sample("train", ["es"]).subset([*range(8)])


@pytest.fixture(scope="module")
def phase(manifest, tmp_path_factory):
    words = "--sample_rate 8000 --n_positives 2"
    return pretrained(CPC, words, tmp_path_factory.mktemp("cpc"), manifest)


def test_pretraining_goes_on_from_a_model(phase, manifest, tmp_path):
    """All modules of a phase, the encoder alone of a model folder; CPC or BEST-RQ."""
    folder, modules = phase
    for source in (folder, folder / "model"):
        hparams, _ = hparams_of(CPC, f"--pretrained {source} --n_positives 2")
        load_pretrained(hparams["modules"], source, 8000)
        for name in ("encoder", "predictor"):
            same = [
                torch.equal(ours, theirs)
                for ours, theirs in zip(
                    hparams["modules"][name].parameters(), modules[name].parameters()
                )
            ]
            assert all(same) if source == folder or name == "encoder" else not all(same)
    words = (
        f"--pretrained {folder / 'model'} --codebook_size 16 --labels random_projection"
    )
    with pytest.raises(SystemExit, match="stack: 2 in .*, 4 here"):
        hparams_of(BESTRQ, f"{words} --stack 4")
    words = f"--pretrained {folder} --n_positives 2"
    again, _ = pretrained(CPC, words, tmp_path / "again", manifest)
    encoder = load_encoder(again / "model").encoder
    assert encoder.made_by.arguments["causal"] is True
    assert encoder.made_by.arguments["size"] == "mini"
    # The same folder again: with the same weights in another place, or with others.
    moved, other = (
        shutil.copytree(source, tmp_path / name)
        for source, name in ((folder, "moved"), (again, "other"))
    )
    words = "--n_positives 2 --pretrained"
    pretrained(CPC, f"{words} {moved}", tmp_path / "again", manifest)
    with pytest.raises(InputError, match="belongs to another run") as error:
        pretrained(CPC, f"{words} {other}", tmp_path / "again", manifest)
    # The run that was refused has not replaced the record of the one before.
    assert (tmp_path / "again/hyperparams.yaml").read_text().endswith(f" {moved}")
    _, line = str(error.value).splitlines()
    assert re.fullmatch(
        rf"  pretrained: {folder} \(weights \w+\) there, {other} \(weights \w+\) here",
        line,
    )


# ----------------------------------------------------------------------- experiments


def spec(options, pretraining, models=("scratch", "PTLOC.1")):
    judge = {"seeds": [1], "finetune_domains": ["cy"], "options": options}
    judge["hparams"] = "finetune/hparams/ctc.yaml"
    before = {"hparams": "pretrain/hparams/bestrq.yaml", "options": pretraining}
    spec = dict(data_folder="/data", seeds=[1], eval_splits=["dev"], models=[*models])
    return {**spec, "pretrain": before, "judges": {"ctc": judge}}


def commands(*args):
    found = experiment.finetuning_commands(
        spec(*args), RECIPES / "CommonVoice", RECIPES / "x"
    )
    return {path.parts[-3]: " ".join(words[3:]) for path, words in found.items()}


def test_a_model_from_scratch_is_as_the_pretrained_ones():
    found = commands("--epochs 1", "--size mini --stack 2")
    wanted = "--size mini --sample_rate 16000 --front_end linear --causal false"
    for pair in wanted.replace(" --", "\n--").splitlines():
        assert pair in found["scratch"], pair
        assert pair not in found["PTLOC.1"]
    assert "--stack" not in found["scratch"]  # 2 in the YAML, too
    assert "--pretrained null" in found["scratch"]


def test_a_judge_that_contradicts_the_pretraining_is_refused_at_once():
    with pytest.raises(InputError) as error:
        commands("--size tiny --sample_rate 48000", "--size mini")
    assert "judges: ctc" in str(error.value)
    assert "size: mini in pre-training, tiny here" in str(error.value)
    assert "sample_rate: 16000 in pre-training, 48000 here" in str(error.value)


def test_phases_can_be_read_while_others_are_written(phase, tmp_path):
    """A folder whose write was interrupted is not in the way."""
    folder, _ = phase
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "unfinished.model").mkdir()
    assert load_encoder(copy)

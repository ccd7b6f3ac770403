"""Public checkpoints in model folders: no hub and no source is needed to use them."""

import re
import sys

import pytest
import soundfile
import torch

from hetero_brain import load_encoder
from hetero_brain.data.recordings import Recordings, row_of
from hetero_brain.data.streaming import Windows
from hetero_brain.errors import InputError
from hetero_brain.models.conformer import make_encoder
from hetero_brain.models.features import make_features
from hetero_brain.models.model_folder import find_model
from hetero_brain.models.model_writing import write_model
from hetero_brain.models.public import PublicEncoder
from hetero_brain.models.public_features import make_public_features
from hetero_brain.models.public_source import published
from hetero_brain.pipelines.description import describe
from hetero_brain.pipelines.extraction import features
from hetero_brain.pipelines.pretrained import adopt, load_pretrained, refuse_source
from hetero_brain.pipelines.recipe import read_recipe
from hetero_brain.pipelines.yaml_files import read_tree
from tests.public_models import KINDS, save_small
from tests.unit.trained import RECIPES

RATE = 16000


def made(source):
    """Features and encoder of a checkpoint, changed a little as by pre-training."""
    modules = {
        "features": make_public_features(source, RATE),
        "encoder": PublicEncoder(source),
    }
    with torch.no_grad():
        for param in modules["encoder"].parameters():
            param.mul_(1.01)
    return modules


def written(modules, folder):
    """The model folder of some modules."""
    weights = folder.with_name("weights")
    weights.mkdir(exist_ok=True)
    torch.save(modules["encoder"].state_dict(), weights / "encoder.ckpt")
    names = ["encoder.ckpt"]
    files = {name: weights / name for name in names}
    write_model(folder, describe(modules, RATE), files, "card")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    source = save_small(kind, tmp_path / "source")
    modules = made(str(source))
    folder = written(modules, tmp_path / "model")
    (tmp_path / "source").rename(tmp_path / "moved")  # it is not needed
    wavs = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)) / 10
    lengths = torch.tensor([1.0, 0.7])
    modules["encoder"].eval()
    x, frames = modules["features"](wavs, lengths)
    expected, layers = modules["encoder"](x, frames)
    encoder = load_encoder(folder).eval()
    encoded, found, of_layers = encoder(wavs, lengths)
    assert torch.equal(found, frames)
    assert torch.equal(encoded[0], expected[0])
    assert len(of_layers) == len(layers)


def test_a_checkpoint_is_an_encoder_as_it_is(tmp_path):
    source = save_small("hubert", tmp_path / "source")
    encoder = load_encoder(str(source), freeze=True)
    wavs = torch.randn(1, 4000) / 10
    features = make_public_features(str(source), RATE)
    x, frames = features(wavs, torch.ones(1))
    expected, _ = PublicEncoder(str(source)).eval()(x, frames)
    assert torch.equal(encoder(wavs)[0], expected)
    assert encoder.sample_rate == RATE
    half = load_encoder(str(source), sample_rate=8000)
    assert half(torch.randn(1, 2000) / 10)[0].shape[1] == expected.shape[1]


@pytest.mark.parametrize("kind", ["wav2vec2", "w2v_bert"])
def test_recordings_are_encoded_as_a_whole_or_in_windows(kind, tmp_path):
    encoder = load_encoder(save_small(kind, tmp_path / "source"), freeze=True)
    sound = torch.randn(31_000, generator=torch.Generator().manual_seed(0)) / 10
    soundfile.write(tmp_path / "a.wav", sound.numpy(), RATE, subtype="FLOAT")
    rows = Recordings([row_of(str(tmp_path / "a.wav"))])
    ((_, whole),) = features(encoder, rows)
    torch.testing.assert_close(whole, encoder(sound[None])[0][0])
    ((_, joined),) = features(encoder, rows, window_seconds=0.6)
    assert len(joined) == len(whole) == 96
    size = Windows(RATE, 320, 0.6).size
    first = encoder(sound[None, :size])[0][0]
    kept = size // 320 * 5 // 6
    torch.testing.assert_close(joined[:kept], first[:kept], atol=1e-5, rtol=1e-4)


def test_a_name_that_is_no_folder_is_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="nobody/nothing-like-this"):
        load_encoder("nobody/nothing-like-this")
    with pytest.raises(InputError, match="there is no such folder"):
        load_encoder("results/1/nowhere")


@pytest.mark.parametrize("name", ["/x/hubb", "./hubb", "../x/hubb", "~/hubb", "./x/y"])
def test_a_path_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    with pytest.raises(InputError, match="there is no such folder$"):
        published(name)
    with pytest.raises(InputError, match="there is no such folder$"):
        load_encoder(name)


def test_a_phase_goes_on_with_a_yaml_for_its_kind(tmp_path):
    """Of public models, or of this package's own, which need other layers."""
    phase = written(
        made(str(save_small("hubert", tmp_path / "x"))), tmp_path / "public"
    )
    for kind, best in (
        ("finetune/hparams/ctc.yaml", "take public.yaml"),
        ("pretrain/hparams/bestrq.yaml", "take hubert.yaml"),
    ):
        path = RECIPES / "VoicePrompts" / kind
        words = ["--data_folder", "x", "--pretrained", str(phase)]
        with pytest.raises(SystemExit, match=f"is of a public model, .*{best}$"):
            read_recipe([str(path), *words])
    own = {"features": make_features("linear", RATE, 4)}
    own["encoder"] = make_encoder("mini", own["features"].output_size)
    phase = written(own, tmp_path / "own")
    path = RECIPES / "VoicePrompts/finetune/hparams/public.yaml"
    told = (
        "is not of a public model, .*: take attention.yaml or ctc.yaml or probe.yaml$"
    )
    with pytest.raises(SystemExit, match=told):
        read_recipe([str(path), "--data_folder", "x", "--pretrained", str(phase)])
    path = RECIPES / "VoicePrompts/finetune/hparams/ctc.yaml"
    with pytest.raises(SystemExit, match="with a source: take public.yaml; give the"):
        read_recipe([str(path), "--data_folder", "x", "--pretrained", "public"])


def test_a_folder_of_a_stranger_downloads_nothing(tmp_path):
    source = save_small("hubert", tmp_path / "source")
    folder = written(made(str(source)), tmp_path / "model")
    path = folder / "hyperparams.yaml"
    text = path.read_text("utf-8")
    calls = ("apply:hetero_brain.models.public_features.make_public_features",)
    calls += ("new:hetero_brain.models.public.PublicEncoder",)
    for call in calls:
        start = text.index(call) + len(call)
        end = text.index("\n", text.index("\n    source:", start) + 1)
        while text[end + 1 : end + 9].isspace():
            end = text.index("\n", end + 1)
        text = f"{text[:start]}\n    source: facebook/wav2vec2-base{text[end:]}"
    path.write_text(text, "utf-8")
    (folder / "files.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="a name in place of the model's settings"):
        load_encoder(folder)


def test_a_folder_of_a_stranger_runs_no_kernel_of_the_hub(tmp_path, monkeypatch):
    source = save_small("hubert", tmp_path / "source")
    folder = written(made(str(source)), tmp_path / "model")
    path = folder / "hyperparams.yaml"
    for key in ("attn_implementation", "_attn_implementation"):
        text = path.read_text("utf-8")
        line = re.search(r"\n( +)model_type: hubert\n", text)
        text = text.replace(line[0], f"{line[0]}{line[1]}{key}: nobody/kernel\n")
        path.write_text(text, "utf-8")
        encoder = load_encoder(folder).encoder
        assert encoder.model.config._attn_implementation == "sdpa"


def test_without_transformers_a_wrong_path_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "hetero_brain.models.public", None)
    with pytest.raises(InputError, match="nowhere/model: not a folder of ours"):
        load_encoder("nowhere/model")


def test_another_type_of_model_is_refused():
    with pytest.raises(InputError, match="a model of type bert"):
        PublicEncoder({"config": {"model_type": "bert"}, "inputs": {}})


YAML = """
pretrained: {folder}
source: {source}
freeze_front_end: False
sample_rate: 16000
dropout: 0.25
features: !apply:hetero_brain.models.public_features.make_public_features
    source: !ref <source>
    sample_rate: !ref <sample_rate>
encoder: !new:hetero_brain.models.public.PublicEncoder
    source: !ref <source>
    freeze_front_end: !ref <freeze_front_end>
    dropout: !ref <dropout>
"""


def test_fine_tuning_takes_the_model_and_its_own_dropout(tmp_path):
    source = save_small("wav2vec2", tmp_path / "source")
    modules = made(str(source))
    folder = written(modules, tmp_path / "model")
    path = tmp_path / "x.yaml"
    path.write_text(YAML.format(folder=folder, source="gone/from-the-hub"))
    tree = read_tree(path)
    adopt(tree, [], path)
    from hetero_brain.pipelines.yaml_files import load_tree

    hparams, _ = load_tree(path, tree)
    encoder = hparams["encoder"]
    assert (encoder.dropout, encoder.front_end_is_frozen) == (0.25, False)
    load_pretrained({"encoder": encoder}, folder, RATE)
    state = modules["encoder"].state_dict()
    assert all(torch.equal(t, state[name]) for name, t in encoder.state_dict().items())


def test_another_source_is_an_error(tmp_path):
    source = save_small("wav2vec2", tmp_path / "source")
    folder = written(made(str(source)), tmp_path / "model")
    theirs = find_model(folder)["encoder"].arguments["source"]
    refuse_source(str(source), theirs, folder)
    other = save_small("hubert", tmp_path / "other")
    for wrong in ((str(other), theirs), (str(source), None)):
        with pytest.raises(InputError, match="is not what .* went on from"):
            refuse_source(*wrong, folder)

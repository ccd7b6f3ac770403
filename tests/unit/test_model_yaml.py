"""Descriptions of models: they come back as they are, and a stranger's runs no code."""

import pickle

import pytest
import yaml
from hyperpyyaml import load_hyperpyyaml

from hetero_brain.errors import InputError
from hetero_brain.models.conformer import make_encoder, make_head
from hetero_brain.models.features import make_features
from hetero_brain.models.model_folder import find_model
from hetero_brain.models.model_yaml import read_description, write_description
from hetero_brain.models.readouts import WeightedLayers, weighted_layers
from hetero_brain.models.recorded import Call, Ref
from hetero_brain.pipelines.description import describe

TEXT = """sample_rate: 8000
features: !apply:hetero_brain.models.features.make_features
    front_end: linear
    sample_rate: 8000
    stack: 4
"""


def test_modules_remember_every_argument():
    encoder = make_encoder("mini", 40, dropout=0.2)
    assert encoder.made_by == Call(
        "apply",
        "hetero_brain.models.conformer.make_encoder",
        dict(
            size="mini",
            input_size=40,
            front_end="linear",
            dropout=0.2,
            causal=False,
            recomputed="none",
        ),
    )
    head, readout = make_head(encoder, 7), weighted_layers(encoder)
    assert head.made_by.arguments == {"d_model": 32, "n_outputs": 7}
    assert isinstance(readout, WeightedLayers)
    assert readout.made_by.tag == "new"
    assert readout.made_by.arguments == {"num_layers": 2}


def test_a_description_comes_back():
    values = {
        "text": "a: #b <c> 'é' \" ⁇ ",
        "word": "no",
        "number": 1e-5,
        "none": None,
        "flag": True,
        "list": ["1", 2.5, None],
        "plain": {"a": 1, "empty": {}},
        "bare": Call("name", "hetero_brain.recognition.interfaces.greedy"),
        "call": Call(
            "new",
            "hetero_brain.models.readouts.WeightedLayers",
            {"num_layers": Ref("number"), "more": {"deeper": Ref("flag")}},
        ),
    }
    text = write_description(values, {"flag": "a comment"})
    assert "flag: true  # a comment\n" in text
    assert read_description(text, "x") == values


def test_hyperpyyaml_reads_the_same():
    features = make_features("linear", 8000, 4)
    modules = {"features": features, "encoder": make_encoder("mini", 320, dropout=0.0)}
    theirs = load_hyperpyyaml(describe(modules, 8000))
    assert theirs["sample_rate"] == 8000
    assert theirs["audio_normalizer"].sample_rate == 8000
    for name, module in modules.items():
        assert theirs[name].made_by == module.made_by
    assert theirs["waveform_encoder"].encoder is theirs["encoder"]
    assert theirs["pretrainer"].loadables["encoder"] is theirs["encoder"]
    assert theirs["modules"]["encoder"] is theirs["waveform_encoder"]


@pytest.mark.parametrize(
    "line, named",
    [
        ("x: !apply:os.system [touch ran]", "!apply:os.system"),
        ("x: !new:subprocess.Popen {args: [touch, ran]}", "!new:subprocess.Popen"),
        ("x: !name:os.system", "!name:os.system"),
        ("x: !applyref:os.system [touch ran]", "!applyref:os.system"),
        ("x: !module:this", "!module:this"),
        ("x: !include:other.yaml", "!include:other.yaml"),
        ("x: !!python/object/apply:os.system [touch ran]", "!!python/object/apply:os"),
        ("x: !copy <sample_rate>", "!copy"),
        ("x: !ref <sample_rate> * 2", "!ref"),
        ("x: !tuple (1, 2)", "!tuple"),
        ("x: !PLACEHOLDER", "!PLACEHOLDER"),
        ("x: {a: [!apply:os.system [touch ran]]}", "!apply:os.system"),
        ("!apply:os.system [touch ran]: x", "!apply:os.system"),
        ("<<: {a: 1}", "!!merge"),
        ("x: !!int y", "!!int"),
        ("x: !new:hetero_brain.models.readouts.LastLayer [1]", "!new:hetero_brain"),
        ("x: !new:hetero_brain.pipelines.recipe.run", "!new:hetero_brain.pipelines"),
        ("x: !apply:builtins.getattr [a, b]", "!apply:builtins.getattr"),
    ],
)
def test_what_could_run_code_is_refused_by_name(line, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hyperparams.yaml").write_text(f"{TEXT}{line}\n", "utf-8")
    with pytest.raises(InputError) as error:
        find_model(tmp_path)
    assert f"hyperparams.yaml: line 6: {named}" in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text, named",
    [
        ("a: [", "not YAML"),
        ("", "not a mapping"),
        ("- a", "not a mapping"),
        ("a: &a [*a]", "contains itself"),
        ("a: 1\n\x00", "not YAML"),
    ],
)
def test_what_is_no_description_is_named(text, named):
    with pytest.raises(InputError, match=f"^x.yaml.*{named}"):
        read_description(text, "x.yaml")


def test_many_aliases_take_no_time():
    lines = ["a0: &a0 [1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    value = read_description("\n".join(lines), "x")["a29"]
    assert len(value) == 9 and value[0] is value[8]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("paths: {encoder: ../encoder.ckpt}", "../encoder.ckpt"),
        ("collect_in: /tmp/x", "/tmp/x"),
        ("custom_hooks: {encoder: 1}", "custom_hooks"),
    ],
)
def test_weights_from_elsewhere_are_refused(arguments, named, tmp_path):
    call = "!new:speechbrain.utils.parameter_transfer.Pretrainer"
    text = f"{TEXT}pretrainer: {call}\n    {arguments}\n"
    (tmp_path / "hyperparams.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError, match=f"pretrainer: .*{named}.*the folder alone"):
        find_model(tmp_path)


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return open, ("ran", "w")


def encoder_folder(folder):
    """A description of an encoder, without weights."""
    features = make_features("linear", 8000, 4)
    encoder = make_encoder("mini", 320)
    text = describe({"features": features, "encoder": encoder}, 8000)
    (folder / "hyperparams.yaml").write_text(text, "utf-8")
    return find_model(folder)


def test_a_pickle_in_place_of_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder.ckpt").write_bytes(pickle.dumps({"weight": Runs()}))
    with pytest.raises(InputError, match="encoder.ckpt: damaged, or not weights alone"):
        encoder_folder(tmp_path).build("encoder")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_place_of_a_tokenizer_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.ckpt").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(
        InputError, match="tokenizer.ckpt: not a model of SentencePiece"
    ):
        encoder_folder(tmp_path).tokenizer()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["encoder.ckpt", "hyperparams.yaml"])
def test_a_link_out_of_the_folder_is_refused(name, tmp_path):
    inner = tmp_path / "model"
    inner.mkdir()
    model = encoder_folder(inner)
    elsewhere = tmp_path / "elsewhere"
    if name == "hyperparams.yaml":
        (inner / name).rename(elsewhere)
    else:
        elsewhere.touch()
    (inner / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"{name}: a link out of the folder"):
        find_model(inner)
        model.build("encoder")


@pytest.mark.parametrize(
    "key, call, named",
    [
        ("encoder", Call("name", "a.b"), "not a module"),
        ("encoder", 3, "not a module"),
        ("features", Ref("encoder"), "not a module"),
    ],
)
def test_a_description_that_does_not_fit_is_named(key, call, named, tmp_path):
    model = encoder_folder(tmp_path)
    model.values[key] = call
    with pytest.raises(InputError, match=f"{key}: .*{named}"):
        model.build(key)


def test_wrong_arguments_are_named(tmp_path):
    model = encoder_folder(tmp_path)
    model.values["encoder"].arguments["size"] = "huge"
    with pytest.raises(InputError, match="encoder: .*size: huge; choose one of"):
        model.build("encoder")
    model.values["encoder"].arguments["colour"] = "blue"
    with pytest.raises(InputError, match="encoder: .*colour"):
        model.build("encoder")


def test_only_plain_values_are_arguments(tmp_path):
    model = encoder_folder(tmp_path)
    model.values["encoder"].arguments["size"] = Ref("features")
    with pytest.raises(InputError, match="plain values"):
        model.build("encoder")


def test_yaml_of_pyyaml_is_the_same():
    """What is written is YAML, also in the eyes of a stricter reader."""
    text = write_description({"a": "é: ⁇", "b": -1.5, "c": [True, None]})
    assert yaml.safe_load(text) == {"a": "é: ⁇", "b": -1.5, "c": [True, None]}

"""How an override on the command line is read, depending on the value in the YAML."""

import re
from pathlib import Path

import pytest

from hetero_brain.errors import InputError
from hetero_brain.pipelines.experiment import overrides
from hetero_brain.pipelines.key_names import OF_SPEECHBRAIN
from hetero_brain.pipelines.overrides import override
from hetero_brain.pipelines.recipe import read_recipe
from hetero_brain.pipelines.yaml_files import load_tree, read_tree

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
RECIPE = """
data_folder: !PLACEHOLDER
output_folder: !ref results/<seed>
save_folder: !ref <output_folder>/save
seed: 1
size: tiny
pretrained: null
lm: null
beam_size: null
causal: True
lr: 0.1
languages: [en, fr]
only_phases: []
milestones: [1, 2]
max_pretrain_hours: {en: 357, fr: 180}
max_hours: 2
window: (1, 2)
readout: !new:collections.Counter
    layers: 3
outputs: !ref <seed> * <max_hours>
pretrain:
    hparams: a.yaml
    options: ""
    languages: [en]
    epochs: 3
    control: {lr: 0.1, lr_decay: 0.5}
judges:
    probe: {hparams: b.yaml, seeds: [1]}
"""


@pytest.fixture
def load(tmp_path):
    """load(word, …) → the values of the recipe with these overrides."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")

    def load(*words, data="data"):
        tree = read_tree(path)
        override(tree, [*words, "--data_folder", data], path)
        return load_tree(path, tree)[0]

    return load


AS_THEY_STAND = [
    "/x/run #1",
    "2024-11-05",
    "2024-11-05 10:00:00",
    "1e-4",
    "007",
    "1_000",
    "12:30",
    "0x1f",
    "no",
    "on",
    "True",
    ".inf",
    " a: b ",
    'it\'s "a" dätä',
    "a\\nb\\",
    "[old] run",
    "{a}",
    "(old)",
    "!important",
    "!",
    "@home",
    "&x *y",
    "%TAG",
    "- a",
    "? a",
    "| a",
    "> a",
    "`a`",
    "a\tb",
    "a, b",
    "中文 é",
    "--",
    "~",
    "/x/a=b",
    "a  b " * 40 + "c",
]


@pytest.mark.parametrize("word", AS_THEY_STAND)
def test_a_string_is_taken_as_it_stands(load, word):
    joined = load(f"--output_folder={word}", f"--size={word}", data=f"/{word}")
    assert joined["output_folder"] == joined["size"] == word
    assert joined["data_folder"] == f"/{word}"
    for key in ("output_folder", "size", "pretrained", "lm"):
        if not word.startswith("--"):  # a key of its own
            assert load(f"--{key}", word)[key] == word


def test_a_reference_to_an_overridden_string(load):
    assert load("--output_folder", "/x/run #1")["save_folder"] == "/x/run #1/save"


def test_tags_are_heeded(load):
    assert load("--output_folder", "!ref runs/<seed>")["output_folder"] == "runs/1"
    assert load("--size", "!ref <seed>")["size"] == 1
    found = load("--readout", "!new:fractions.Fraction [3, 4]")["readout"]
    assert (found.numerator, found.denominator) == (3, 4)
    # A new object in place of the old one, not its arguments for the old one.
    assert load("--readout", "!new:builtins.dict {a: 1e-4}")["readout"] == {"a": 1e-4}
    assert load("--lr", "!ref <seed> / 4")["lr"] == 0.25


def test_null(load):
    lists = ("languages", "max_pretrain_hours")
    for key in (*lists, "pretrained", "beam_size", "lr", "readout"):
        assert load(f"--{key}", "null")[key] is None
    assert load("--size", "null")["size"] == "null"


@pytest.mark.parametrize(
    "key, words, value",
    [
        ("languages", ["es"], ["es"]),
        ("languages", ["no"], ["no"]),
        ("languages", ["es", "no"], ["es", "no"]),
        ("languages", ["es,no"], ["es", "no"]),
        ("languages", ["[es,", "no]"], ["es", "no"]),
        ("languages", ["[no, 2024-11-05, 007, 1e-4, on]"],
         ["no", "2024-11-05", "007", "1e-4", "on"]),
        ("languages", ["[\"a, b\", 'c # d']"], ["a, b", "c # d"]),
        ("languages", ["[]"], []),
        ("only_phases", ["PTLOC.1"], ["PTLOC.1"]),
        ("milestones", ["3"], [3]),
        ("milestones", ["[3, 4]"], [3, 4]),
        ("lr", ["1e-4"], 1e-4),
        ("lr", ["-5"], -5),
        ("seed", ["007"], 7),
        ("causal", ["false"], False),
        ("max_pretrain_hours", ["5"], 5),
        ("max_pretrain_hours", ["{es: 1.5, no: 2}"],
         {"en": 357, "fr": 180, "es": 1.5, "no": 2}),
        ("max_hours", ["{no: 1}"], {"no": 1}),
        ("causal", ["{es: False}"], {"es": False}),
        ("beam_size", ["5"], 5),
        ("beam_size", ["007"], "007"),
        ("beam_size", ["2024-11-05"], "2024-11-05"),
        ("beam_size", ["a: b"], "a: b"),
        ("beam_size", ["'5'"], "5"),
        ("beam_size", ["[no, 3]"], ["no", 3]),
        ("outputs", ["7"], 7),
        ("window", ["(3, 4)"], (3, 4)),
        ("pretrain", ["{options: '--size tiny # 1', languages: [no, 007]}"],
         {"hparams": "a.yaml", "options": "--size tiny # 1",
          "languages": ["no", "007"], "epochs": 3,
          "control": {"lr": 0.1, "lr_decay": 0.5}}),
        ("pretrain", ["{hparams: 2024-11-05, languages: es, epochs: 7}"],
         {"hparams": "2024-11-05", "options": "", "languages": ["es"], "epochs": 7,
          "control": {"lr": 0.1, "lr_decay": 0.5}}),
        ("judges", ["{ctc: {hparams: c.yaml}, probe: {seeds: 2}}"],
         {"probe": {"hparams": "b.yaml", "seeds": [2]}, "ctc": {"hparams": "c.yaml"}}),
    ],
)  # fmt: skip
def test_values_of_the_kind_that_the_yaml_has(load, key, words, value):
    found = load(f"--{key}", *words)[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--causal", "no"], "--causal no: 'no' is not True or False"),
        (["--lr", "1e-4x"], "--lr 1e-4x: '1e-4x' is not a number"),
        (["--lr", "True"], "True is not a number"),
        (["--milestones", "[1, x]"], "'x' is not a number"),
        (["--max_pretrain_hours", "es"], "'es' is not a mapping such as {key: value}"),
        (["--languages", "{a: 1}"], "is not a list such as [en, fr]"),
        (["--languages", "[es"], "--languages [es: line 1: expected ',' or ']'"),
        (["--pretrain", "{epochs: x}"], "'x' is not a number"),
        (["--pretrain", "{hparams: [x]}"], "is not a string"),
        (["--sead", "3"], "--sead: there is no such key; did you mean --seed?"),
        (["--pretrain", "{hparams: --a [x, {y}"], "of [ ] { } , : itself goes in quotes"),
        (["--lr_adam", "8"], "there is no such key; here it is --lr"),
        (["--xyz", "3"], "--xyz: there is no such key; as an option of a judge"),
        (["--pretrain", "{epoch: 4}"],
         "--pretrain: epoch: there is no such key; did you mean epochs?"),
        (["--pretrain", "{control: {lr: 1, decay: 2}}"],
         "--pretrain: control: decay: there is no such key; did you mean lr_decay?"),
        (["--pretrain", "{xyz: 4}"], "xyz: there is no such key, nor one like it; /"),
        (["--judges", "{probe: {seed: [1]}}"],
         "--judges: probe: seed: there is no such key; did you mean seeds?"),
        (["--judges.prob.seeds", "[1]"], "there is no prob among probe"),
        (["--judges.probe.seed", "[1]"],
         "--judges.probe.seed: there is no such key; did you mean seeds?"),
        (["--judges.probe.seeds", "x: 1"], "--judges.probe.seeds x: 1: "),
        (["--seed.x", "1"], "--seed.x: seed has no keys inside"),
        (["--seed", "1", "--seed=2"], "--seed is given twice"),
        (["--seed", "--size", "tiny"], "--seed has no value; for none write null"),
        (["--pretrained", ""], "--pretrained has no value; for none write null"),
        (["--pretrained="], "--pretrained has no value; for none write null"),
        (["tiny", "--seed", "1"], "'tiny' belongs to no --key"),
    ],
)  # fmt: skip
def test_wrong_overrides_are_named(load, words, told):
    with pytest.raises(InputError) as fault:
        load(*words)
    assert told in str(fault.value) and len(str(fault.value).splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--judges.probe.options=--epochs 3 --lr 1"],
        ["--judges.probe.options", "--epochs 3 --lr 1"],
    ],
)
def test_a_key_inside_a_mapping_is_given_by_itself(words):
    path = RECIPES / "VoicePrompts/demo.yaml"
    tree = read_tree(path)
    before, _ = load_tree(path, read_tree(path))
    words = [*words, "--pretrain.options", "--size mini", "--judges.probe.seeds", "[2]"]
    assert override(tree, words, path) == ["judges", "pretrain"]
    found, _ = load_tree(path, tree)
    assert found["pretrain"] == {**before["pretrain"], "options": "--size mini"}
    changed = {"options": "--epochs 3 --lr 1", "seeds": [2]}
    assert found["judges"] == {"probe": {**before["judges"]["probe"], **changed}}


def test_an_option_of_a_judge_is_named_as_such():
    path = RECIPES / "VoicePrompts/experiment.yaml"
    with pytest.raises(InputError, match="--judges.NAME.options '--epochs …'"):
        override(read_tree(path), ["--epochs", "3"], path)


def test_names_of_speechbrain_lead_to_ours():
    hparams = RECIPES / "VoicePrompts/pretrain/hparams/bestrq.yaml"
    with pytest.raises(InputError) as fault:
        words = [
            "--batch_size",
            "8",
            "--n_epochs",
            "3",
            "--train_csv",
            "x",
            "--lr",
            "1",
        ]
        override(read_tree(hparams), words, hparams)
    assert str(fault.value).splitlines() == [
        f"--{key}: there is no such key; here it is {ours}"
        for key, ours in {
            "batch_size": "--global_batch_seconds",
            "n_epochs": "--cssl_epochs or --ptloc_epochs",
            "train_csv": "--data_folder",
            "lr": "--cssl_lr or --ptloc_lr",
        }.items()
    ]
    yamls = [path.read_text("utf-8") for path in RECIPES.glob("*/*/hparams/*.yaml")]
    keys = {*re.findall(r"^(\w+):", "\n".join(yamls), re.M)}
    for theirs, ours in OF_SPEECHBRAIN.items():
        assert {*ours} <= keys and (theirs == "lr" or theirs not in keys)


def test_what_refers_to_the_output_folder_goes_to_that_of_a_debug_run(tmp_path):
    path, built = tmp_path / "recipe.yaml", "saved: !new:collections.Counter {a: 1}"
    path.write_text(
        f"output_folder: out\nsave_folder: !ref <output_folder>/save\n{built}"
    )
    found, _, resolved = read_recipe([str(path), "--device", "cpu", "--debug"])
    assert found["output_folder"] == "out/debug"
    assert found["save_folder"] == "out/debug/save" and found["saved"] == {"a": 1}
    assert "save_folder: out/debug/save" in resolved


def test_all_wrong_overrides_at_once(load):
    with pytest.raises(InputError) as fault:
        words = ["--lr", "x", "--causal", "no", "--sead", "1"]
        load(*words, "--pretrain", "{epoch: 4, option: x}")
    assert len(str(fault.value).splitlines()) == 5


def test_the_experiments_overrides_go_the_same_way(load, tmp_path):
    settings = {
        "output_folder": "/x/run #1: (a)",
        "pretrained": None,
        "lm": None,
        "languages": ["no", "2024-11-05", "a, b"],
        "max_pretrain_hours": {"no": 1},
        "seed": 3,
        "beam_size": 5,
        "causal": False,
    }
    found = load(*overrides(settings))
    settings["max_pretrain_hours"] = {"en": 357, "fr": 180, "no": 1}
    assert {key: found[key] for key in settings} == settings
    # Through the parser of SpeechBrain's own options, which may stand between.
    words = overrides(settings | {"data_folder": "-x y=z"})
    recipe = str(tmp_path / "recipe.yaml")
    words = [recipe, "--device", "cpu", *words, "--debug"]
    found, run_opts, _ = read_recipe([*words, "--debug_persistently"])
    assert {key: found[key] for key in settings} == settings
    assert found["data_folder"] == "-x y=z"
    assert run_opts["device"] == "cpu" and run_opts["debug"]
    found, _, resolved = read_recipe(words)
    assert found["output_folder"] == f"{settings['output_folder']}/debug"
    assert found["output_folder"] in resolved


FAULTS = {
    "missing": (None, "No such file or directory"),
    "folder": ("folder", "Is a directory"),
    "latin": ("grüße: 1".encode("latin-1"), "not UTF-8 text"),
    "binary": (bytes(range(256)), "not UTF-8 text"),
    "bracket": (b"a: [1, 2\nb: 3\n", "not YAML: line 2: expected ',' or ']'"),
    "control": (b"a: \x07\n", "not YAML"),
    "twice": (b"a: 1\na: 2\n", "not YAML: line 2: found duplicate key"),
    "list": (b"- a\n- b\n", "a list instead of a mapping"),
    "text": (b"some words\n", "a single value instead of a mapping"),
    "empty": (b"", "empty instead of a mapping"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_file_that_cannot_be_read(tmp_path, kind):
    content, told = FAULTS[kind]
    path = tmp_path / "a file.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as fault:
        read_tree(path)
    assert str(fault.value).startswith(f"{path}: {told}")
    assert len(str(fault.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content, told",
    [
        (
            "a: !PLACEHOLDER",
            "'a' is a !PLACEHOLDER and must be replaced. Give --a VALUE",
        ),
        ("a: !ref <b>", 'The reference "b" is not valid'),
        ("a: !new:no.such.Thing", "There is no such class as no.such.Thing"),
        ("a: !new:collections.OrderedDict [1]", "Invalid argument to class"),
        ("a: !include:nowhere.yaml", "No such file or directory"),
        ("a: !unknown x", "unknown"),
    ],
)
def test_a_tree_that_cannot_be_made(tmp_path, content, told):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as fault:
        load_tree(path, read_tree(path))
    assert str(fault.value).startswith(f"{path}: ") and told in str(fault.value)
    assert len(str(fault.value).splitlines()) == 1


def test_a_key_that_the_yaml_lacks(load):
    with pytest.raises(InputError, match="recipe.yaml: no key 'phases'; is this YAML"):
        load()["phases"]
    assert load().get("phases") is None and "phases" not in load()

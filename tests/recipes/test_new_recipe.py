"""A recipe that ``python -m hetero_brain recipe`` makes is like those of the repository,
runs on manifests, and knows nothing of the corpus whose recipe it was made from."""

import csv
import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from hetero_brain.__main__ import main
from hetero_brain.data import manifest
from hetero_brain.data.splits import finetuning_splits
from hetero_brain.errors import InputError
from hetero_brain.pipelines.experiment_checks import check as check_experiment
from hetero_brain.pipelines.new_recipe import MODELS, make_recipe, snake
from hetero_brain.pipelines.recipe import read_recipe
from tests.recipes.manifests_fixture import sample_manifests
from tests.recipes.test_commands import check, commands, files_in, run

ROOT = Path(__file__).resolve().parents[2]
NAMES = dict(zip(("FieldTalks", "Tongues", "lectures_2"), MODELS))
# What speaks of the corpora of the repository, in lower case.
TRACES = (
    r"voice.?prompts|asterisk|common.?voice|multi.?domain|english|libri|languages?\b"
)
TRACES += (
    r"|welsh|telephone|announce|\b8000|\b48000|\b8 khz|48 khz|five minutes|0\.0833"
)
TRACES += r"|/es\b|keep_speakers|max_test_hours|max_pretrain_hours|domains_file"
TRACES += "|alphabet|debian"


def tree(folder):
    """A folder that looks like a clone, as far as recipes are concerned."""
    (folder / "recipes").mkdir()
    for name in MODELS:
        (folder / "recipes" / name).symlink_to(ROOT / "recipes" / name)
    (folder / "templates").symlink_to(ROOT / "templates")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests/recipes", folder / "tests/recipes", ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """With a recipe like each of the repository's."""
    folder = tree(tmp_path_factory.mktemp("clone"))
    for name, like in NAMES.items():
        assert make_recipe(name, like, folder) == folder / "recipes" / name
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Manifests of the sample."""
    folder = tmp_path_factory.mktemp("data")
    sample_manifests(folder)
    return folder


def load(path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(clone, name):
    """The rows of a recipe's tests, as dicts."""
    with open(clone / f"tests/recipes/{name}.csv", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


# -------------------------------------------------------------------------- consistency


def test_its_keys_are_those_of_the_other_recipes(clone):
    keys = load(clone / "tests/recipes/test_keys.py")
    assert {*NAMES} < {*keys.NAMES}
    for kind in keys.KINDS:
        keys.test_yamls_of_a_kind_have_the_same_keys(kind)
        keys.test_yamls_of_a_kind_have_the_same_order_and_banners(kind)
    for kind in ("pretrain", "finetune"):
        keys.test_mappings_of_a_kind_have_the_same_keys(kind)
    keys.test_judges_have_the_same_keys()
    for name in NAMES:
        keys.test_pretraining_and_finetuning_share_their_names(name)


@pytest.mark.parametrize("name", NAMES)
def test_its_yamls_agree_with_the_package(clone, tmp_path, name):
    files = load(clone / "tests/recipes/test_recipe_files.py")
    assert name in files.RECIPES
    for yaml in ("ctc.yaml", "attention.yaml"):
        files.test_readout_of_the_paper_by_an_override(name, yaml, tmp_path)
    for path in sorted(clone.glob(f"recipes/{name}/pretrain/hparams/*.yaml")):
        files.test_blocks_are_recomputed_by_an_override(path, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_has_a_row_and_a_command(clone, name):
    rows, folder = rows_of(clone, name), clone / "recipes" / name
    yamls = {str(path.relative_to(clone)) for path in folder.glob("**/*.yaml")}
    assert {row["Hparam_file"] for row in rows} == yamls
    assert {row["Dataset"] for row in rows} == {name}
    words = " ".join(commands(folder / "README.md")).split()
    for row in rows:
        assert (clone / row["Data_prep_file"]).name == f"{snake(name)}_prepare.py"
        assert (clone / row["Data_prep_file"]).is_file()
        assert row["Hparam_file"] in words
        assert Path(row["Readme_file"]) == Path("recipes", name, "README.md")
        # Every option of a row is a key of its YAML.
        keys = re.findall(r"^(\w+):", (clone / row["Hparam_file"]).read_text(), re.M)
        if row["Hparam_file"].endswith("experiment.yaml"):
            continue
        assert {*re.findall(r"--(\w+)", row["test_debug_flags"])} <= {*keys}


@pytest.mark.parametrize("name", NAMES)
def test_public_models_are_apart_from_those_from_scratch(clone, name):
    """In the README, and in the words that a YAML begins with."""
    lines = commands(clone / "recipes" / name / "README.md")
    pattern = r"finetune/hparams/(\w+)\.yaml .*results/(\w+/(\w+)/1/PTLOC\.1) "
    found = [match for line in lines if (match := re.search(pattern, line))]
    assert len(found) >= 3
    for match in found:
        stem, phase, phases = match.groups()
        assert (stem == "public") == (phases in ("hubert", "wav2vec2"))
        text = (clone / f"recipes/{name}/finetune/hparams/{stem}.yaml").read_text()
        assert f"results/{phase}" in text
        assert text.startswith(("# Fine-tuning", "# A probe"))
    for path in clone.glob(f"recipes/{name}/pretrain/hparams/*.yaml"):
        continues = path.stem in ("hubert", "wav2vec2")
        about = "Continues" if continues else "Pre-training on"
        assert path.read_text("utf-8").startswith(f"# {about}")


@pytest.mark.parametrize("name", NAMES)
def test_it_knows_nothing_of_the_corpus_that_it_came_from(clone, name):
    files = [*files_in(clone / "recipes" / name), clone / f"tests/recipes/{name}.csv"]
    assert len(files) >= 9
    for path in files:
        for line in path.read_text("utf-8").splitlines():
            if "a kind of recording, a language" not in line:  # explains a column
                assert not re.search(TRACES, line.lower()), f"{path.name}: {line}"
        if "hparams" in path.parts:
            assert re.search("^sample_rate: 16000 ", path.read_text("utf-8"), re.M)


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_training_and_model_are_taken_over(clone, name):
    like = ROOT / "recipes" / NAMES[name]
    for path in sorted((clone / "recipes" / name).glob("*/hparams/*.yaml")):
        old = like / path.relative_to(clone / "recipes" / name)
        settings = [
            re.findall(r"^ *(\w+: [^#\n]+?) *(?=#|$)", text.read_text("utf-8"), re.M)
            for text in (old, path)
        ]
        gone = {line.split(":")[0] for line in {*settings[0]} - {*settings[1]}}
        assert gone <= {
            *("output_folder pretrain_domains finetune_domains sample_rate".split()),
            *("max_finetune_hours max_pretrain_hours max_test_hours".split()),
            *("data_seed eval_splits pretrain_splits keep_speakers_apart".split()),
            *("domains_file manifest_folder alphabet".split()),
            *("global_batch_seconds replicas_per_domain".split()),  # see below
        }
        assert "output_folder" in gone


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_expect_the_hardware_of_another(clone, name):
    for path in (clone / "recipes" / name).glob("*/hparams/*.yaml"):
        text = path.read_text("utf-8")
        assert not re.search(r"\b(24|80) GB|\d GPUs", text), path
        assert re.search(r"^replicas_per_domain: 1 ", text, re.M)
        (seconds,) = re.findall(r"^global_batch_seconds: (\d+)", text, re.M)
        assert int(seconds) <= 1600


@pytest.mark.parametrize("name", NAMES)
def test_commands_start_from_the_folder_of_the_clone(clone, name):
    """In the words that YAMLs and scripts begin with: their files exist there."""
    folder = clone / "recipes" / name
    for path in (*folder.glob("**/*.yaml"), *folder.glob("*/train.py")):
        head = path.read_text("utf-8").split("seed", 1)[0].split("import", 1)[0]
        named = re.findall(r"\S+\.(?:py|yaml)\b", head.split("python", 1)[1])
        assert named and all((clone / file).is_file() for file in named)
        assert set(re.findall(r"/data\S*", head)) == {f"/data/{name}"}


def test_the_first_try_is_short(clone, capsys, monkeypatch):
    """The command that ``recipe`` prints has keys of the YAML that it names."""
    monkeypatch.chdir(clone)
    for number, like in enumerate(MODELS):
        main(["recipe", f"Try{number}", "--like", like])
        words = capsys.readouterr().out.split("Try it: ")[1].split()
        hparams, _, _ = read_recipe([*words[2:], "--output_folder", "x"])
        assert len(hparams["phases"]) == 3 and hparams["global_batch_seconds"] == 20
        shutil.rmtree(clone / f"recipes/Try{number}")
        (clone / f"tests/recipes/Try{number}.csv").unlink()


def test_the_help_says_which_recipe_has_what(capsys):
    with pytest.raises(SystemExit):
        main(["recipe", "--help"])
    told = capsys.readouterr().out
    for like in MODELS:
        (line,) = re.findall(rf"^  {like} +(.*)$", told, re.M)
        words = {*re.findall(r"\w+", re.sub(r" and | \(.*?\)", ",", line))}
        stems = {p.stem for p in ROOT.glob(f"recipes/{like}/*/hparams/*.yaml")}
        assert words == stems - {"ctc", "attention"}


# -------------------------------------------------------------------------------- runs


def test_the_readme_makes_a_recipe_and_tries_it(tmp_path, data):
    """On folders of audio; then fine-tuning on all domains that have words."""
    folder = tree(tmp_path)
    section = (
        (ROOT / "README.md").read_text("utf-8").split("### A recipe of your own")[1]
    )
    lines = re.findall(r"^    (.+)$", section.split("\n#")[0], re.M)
    manifests, make, attempt = lines
    assert "| en     | 0.04  | 59    |" in run(manifests, folder)
    assert "recipes/MyCorpus is ready" in run(make, folder)
    rows = {Path(r["Hparam_file"]).name: r for r in rows_of(folder, "MyCorpus")}
    pretrain, ctc = rows["bestrq.yaml"], rows["ctc.yaml"]
    out = f"--output_folder {tmp_path}/out --device cpu"
    said = run(f"{attempt} {pretrain['test_debug_flags']} {out}", folder)
    check(pretrain, files_in(tmp_path / "out/debug"))
    assert re.search(r"\| en +\| train \| 57 +\| 0 ", said)
    assert "iterations an epoch" in said
    assert "sampled below the model's sample_rate of 16 kHz (en 8 kHz" in said
    flags = ctc["test_debug_flags"].replace("--finetune_domains [en]", "")
    words = f"python {ctc['Script_file']} {ctc['Hparam_file']} --data_folder $DATA"
    trained = f"--pretrained {tmp_path}/out/debug/PTLOC.1 --debug"
    out = out.replace("/out", "/ctc")
    said = run(f"{words} {flags} {trained} {out}", folder, data)
    check(ctc, files_in(tmp_path / "ctc/debug"))
    assert "fine-tuning: 1 epoch, " in said
    for domain in ("en", "es", "fr"):
        assert re.search(
            rf"^{domain} +[\d.]+ +\d+ .*%$", said, re.M
        )  # of the look-ahead


def test_an_experiment_asks_for_its_domains_before_it_trains(clone, tmp_path):
    path = clone / "recipes/FieldTalks/experiment.yaml"
    argv = [str(path), "--data_folder", "x", "--output_folder", str(tmp_path / "out")]
    with pytest.raises(InputError) as error:
        check_experiment(read_recipe(argv)[0])
    for judge in ("probe", "full"):
        assert f"judges: {judge}: finetune_domains is empty" in str(error.value)


@pytest.fixture
def prepare(clone):
    """The prepare script of a recipe."""
    return load(clone / "recipes/FieldTalks/field_talks_prepare.py")


def test_manifests_are_taken_over(prepare, data, tmp_path):
    for _ in range(2):
        prepare.prepare_field_talks(str(data), tmp_path)
    for split in ("train", "dev", "test"):
        old, new = (
            [{**row, "channel": None} for row in manifest.read(f / f"{split}.csv")]
            for f in (data, tmp_path)
        )
        assert old == new and old
    (data / "more").mkdir(exist_ok=True)
    shutil.copy(data / "train.csv", data / "more")
    prepare.prepare_field_talks(data / "more", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


def test_faults_of_manifests_are_named(prepare, data, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        prepare.prepare_field_talks(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="train.csv: no such file.*FILL IN"):
        prepare.prepare_field_talks(tmp_path, tmp_path / "out")
    header, first, *_ = (data / "train.csv").read_text("utf-8").splitlines()
    wrong = re.sub(r",\d[\d.]*,", ",-1,", first, count=1)
    (tmp_path / "train.csv").write_text(f"{header}\n{first}\n{wrong}x\n", "utf-8")
    (tmp_path / "dev.csv").write_text(f"{header}\n{first}\n{first}\n", "utf-8")
    with pytest.raises(InputError) as error:
        prepare.prepare_field_talks(tmp_path, tmp_path / "out")
    assert "row 3: duration '-1' is not a positive" in str(error.value)
    assert "dev.csv: 1 error\n  row 3: ID" in str(error.value)
    assert not (tmp_path / "out/train.csv").exists()


def test_keys_that_no_row_has_are_named_and_a_split_may_have_no_rows(
    prepare, tmp_path, monkeypatch
):
    row = {"ID": "a", "duration": 1.0, "wav": __file__, "domain": "en", "speaker": "x"}
    monkeypatch.setattr(
        prepare, "utterances", lambda folder, split: [row] if split == "train" else None
    )
    with pytest.raises(InputError, match=r"unknown columns \['speaker'\]"):
        prepare.prepare_field_talks(tmp_path, tmp_path / "out")
    del row["speaker"]
    prepare.prepare_field_talks(tmp_path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.csv"]


def test_faults_of_rows_that_are_made_are_named(prepare, tmp_path, monkeypatch):
    """Keys that are left away, and files that do not exist, in all splits at once."""

    def rows(folder, split):
        yield {"ID": "a", "wav": f"{{data_root}}/{split}.wav", "domain": "x"}
        yield {"ID": "b", "duration": 1, "wav": "b.wav"}

    monkeypatch.setattr(prepare, "utterances", rows)
    with pytest.raises(InputError) as error:
        prepare.prepare_field_talks(tmp_path, tmp_path / "out")
    for split in ("train", "dev", "test"):
        assert f"out/{split}.csv: 2 errors\n  row 2: duration ''" in str(error.value)
    rows = lambda *_: [{"ID": "a", "duration": 1, "wav": "no.wav", "domain": "x"}]  # noqa: E731
    monkeypatch.setattr(prepare, "utterances", rows)
    with pytest.raises(InputError) as error:
        prepare.prepare_field_talks(tmp_path, tmp_path / "out")
    assert str(error.value).count("no file 'no.wav'") == 3


def test_all_domains_that_have_words(data, tmp_path):
    """Those without any are for pre-training only."""
    for split in ("train", "dev"):
        text = (data / f"{split}.csv").read_text("utf-8")
        text = re.sub(r"^(fr/.*,)[^,\n]*$", r"\1", text, flags=re.M)
        (tmp_path / f"{split}.csv").write_text(text, "utf-8")
    splits = finetuning_splits(tmp_path, "", None, ["dev"], seed=1)
    assert splits["train"].domains == splits["dev"].domains == ("en", "es")
    text = re.sub(r",[^,\n]*$", ",", text, flags=re.M).replace("spk_id,", "spk_id,wrd")
    (tmp_path / "train.csv").write_text(text, "utf-8")
    with pytest.raises(InputError, match="train.csv: no row has words"):
        finetuning_splits(tmp_path, "", None, ["dev"], seed=1)


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "name", ["my-corpus", "2nd", "a b", "Größe", "", "../x", "a.b"]
)
def test_a_name_that_cannot_be_one(clone, name):
    before = {*clone.rglob("*")}
    with pytest.raises(InputError, match="begin with a letter"):
        make_recipe(name, root=clone)
    assert {*clone.rglob("*")} == before


@pytest.mark.parametrize("name", ["FieldTalks", "voiceprompts"])
def test_a_recipe_that_exists_is_left_alone(clone, name):
    with pytest.raises(InputError, match="exists already; choose another name"):
        make_recipe(name, root=clone)


def test_rows_that_exist_are_left_alone(tmp_path):
    rows = tree(tmp_path) / "tests/recipes/Mine.csv"
    rows.write_text("mine")
    with pytest.raises(InputError, match="Mine.csv exists already"):
        make_recipe("Mine", root=tmp_path)
    assert rows.read_text() == "mine" and not (tmp_path / "recipes/Mine").exists()


def test_outside_of_a_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["recipe", "Mine"])
    assert str(tmp_path) in end.value.code and "change to its folder" in end.value.code
    assert not [*tmp_path.iterdir()]


def test_nothing_is_left_of_a_recipe_that_cannot_be_made(tmp_path):
    (tree(tmp_path) / "tests/recipes/VoicePrompts.csv").unlink()
    before = {*tmp_path.rglob("*")}
    with pytest.raises(FileNotFoundError, match="VoicePrompts.csv"):
        make_recipe("Mine", root=tmp_path)
    assert {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "name, module",
    [("MyCorpus", "my_corpus"), ("TEDTalks2", "tedtalks2"), ("own_data", "own_data")],
)
def test_names_of_modules(name, module):
    assert snake(name) == module

"""A start that what is in its output folder contradicts is refused before anything."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from speechbrain.utils.epoch_loop import EpochCounter

from hetero_brain.errors import InputError
from hetero_brain.models.run_folder import progress, read_run
from hetero_brain.pipelines.experiment import pretraining_commands
from hetero_brain.pipelines.phases import alternation
from hetero_brain.pipelines.recipe import load_recipe
from hetero_brain.pipelines.run_record import origin
from hetero_brain.training.checkpoints import AtomicCheckpointer
from hetero_brain.training.fingerprint import fingerprint
from hetero_brain.training.recovery import AnotherRun
from tests.unit.test_rounds import CSSL, N_STEPS, PTLOC, make_hparams, run
from tests.unit.trained import BESTRQ, RECIPES, hparams_of, pretrained

pytestmark = pytest.mark.usefixtures("unplotted")


def phases(cssl=2, ptloc=2, rounds=1):
    """CSSL.1, PTLOC.1 and the control, of so many epochs, and further rounds."""
    settings = CSSL | {"epochs": cssl}, PTLOC | {"epochs": ptloc}
    return alternation(rounds, *settings, control={"lr": 0.02})


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    run(make_hparams(folder, phases=phases(rounds=2)))
    return folder


@pytest.fixture
def folder(two_rounds, tmp_path):
    return shutil.copytree(two_rounds, tmp_path / "run")


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(folder, **changed):
    """The lines of a refusal, after which the folder is as it was."""
    before = contents(folder)
    with pytest.raises(InputError) as error:
        run(make_hparams(folder, **changed))
    assert contents(folder) == before
    return str(error.value).splitlines()


def test_a_phase_that_others_started_from_does_not_train_on(folder):
    first, *told, last = refused(folder, phases=phases(cssl=4, rounds=2))
    assert first.startswith(f"{folder}: ") and "another output_folder" in last
    heirs = "PTLOC.1, CSSL-continued.1 started from it"
    assert told == [
        f"  CSSL.1: epochs: 2 there, 4 here: it would train on; {heirs}",
        "  CSSL.2: epochs: 2 there, 4 here: it would train on; PTLOC.2 started from it",
    ]


def test_no_phase_has_fewer_epochs_than_it_has_trained(folder):
    _, *told, _ = refused(folder, phases=phases(ptloc=1, rounds=2))
    assert [line.split("; ")[0] for line in told] == [
        "  PTLOC.1: epochs: 2 there, 1 here: fewer than it has trained",
        "  CSSL-continued.1: epochs: 4 there, 2 here: fewer than it has trained",
        "  PTLOC.2: epochs: 2 there, 1 here: fewer than it has trained",
    ]


def test_phases_that_are_no_longer_in_the_yaml_count(folder):
    _, line, _ = refused(folder, phases=phases(ptloc=3))
    assert line.endswith("would train on; CSSL.2 started from it")


def test_a_phase_that_is_not_run_is_as_it_is(folder):
    shutil.rmtree(folder / "PTLOC.1")
    changed = {"phases": phases(cssl=3), "only_phases": ["PTLOC.1"]}
    _, line, _ = refused(folder, **changed)
    assert line.startswith("  CSSL.1: epochs: 2 there, 3 here, but it is not among")
    run(make_hparams(folder, **{**changed, "phases": phases()}))


def test_the_last_phases_may_have_more_epochs(folder):
    for name in ("CSSL.2", "PTLOC.2"):
        shutil.rmtree(folder / name)
    done = run(make_hparams(folder, phases=phases(ptloc=3)))
    assert done.passes == {"PTLOC.1": 4 * N_STEPS, "CSSL-continued.1": 4 * N_STEPS}
    facts = read_run(folder / "PTLOC.1")["facts"]
    assert facts["settings"]["epochs"] == 3 == progress(folder / "PTLOC.1")[1]
    assert facts["start"]["settings"]["epochs"] == 2


def test_a_record_says_what_a_phase_came_from(folder):
    """An unfinished phase; what others started from it stays of what it was."""
    for name in ("PTLOC.1", "CSSL-continued.1", "CSSL.2", "PTLOC.2"):
        shutil.rmtree(folder / name)
    longer = phases(cssl=4)
    run(make_hparams(folder, phases=longer, only_phases=["CSSL.1"]), ("CSSL.1", 9))
    alone = {"phases": longer, "only_phases": ["PTLOC.1"]}
    for _ in range(2):
        run(make_hparams(folder, **alone))
        start = read_run(folder / "PTLOC.1")["facts"]["start"]
        assert start["settings"]["epochs"] == "3 of 4 (unfinished)"
    _, line, _ = refused(folder, phases=longer)
    assert line.startswith("  CSSL.1: epochs: 3 of 4 there, 4 here: it would train on")
    # Had it gone on nevertheless, the record would say what PTLOC.1 came from.
    shutil.copytree(folder / "PTLOC.1", folder / "aside/PTLOC.1")
    shutil.rmtree(folder / "PTLOC.1")
    run(make_hparams(folder, phases=longer, only_phases=["CSSL.1"]))
    shutil.move(folder / "aside/PTLOC.1", folder / "PTLOC.1")
    run(make_hparams(folder, **alone))
    assert read_run(folder / "PTLOC.1")["facts"]["start"] == start


def test_a_phase_without_the_one_before_is_refused(tmp_path):
    hparams = make_hparams(tmp_path, only_phases=["PTLOC.1", "CSSL.2"])
    with pytest.raises(InputError, match="CSSL.1: no checkpoint.* PTLOC.1 would start"):
        run(hparams)
    assert not [*tmp_path.iterdir()]


# ---------------------------------------------------------------- before any data is read


@pytest.fixture(scope="module")
def few(sample):
    return sample("train", ["es"]).subset([*range(8)])


@pytest.fixture(scope="module")
def bestrq(few, tmp_path_factory):
    """A phase of a recipe, CSSL.1."""
    folder = tmp_path_factory.mktemp("bestrq") / "run"
    pretrained(BESTRQ, "--codebook_size 16", folder, few)
    return folder


WORDS = "--data_folder x --device cpu --max_utterance_seconds 0.6 --cssl_epochs 1 "
WORDS += "--global_batch_seconds 12 --codebook_size 16 --num_workers 0 "


def start(folder, words=""):
    given = {**pairs(f"{WORDS} --size mini"), **pairs(words)}
    words = [word for pair in given.items() for word in pair]
    return load_recipe([str(RECIPES / BESTRQ), *words, "--output_folder", str(folder)])


def pairs(words):
    words = words.split()
    return dict(zip(words[::2], words[1::2]))


@pytest.mark.parametrize(
    "words, told",
    [
        ("--codebook_size 32", ["codebook_size: 16 there, 32 here"]),
        ("--n_mels 40", ["n_mels: 80 there, 40 here"]),
        ("--size tiny --seed 2", ["seed: 1 there, 2 here", "size: mini there, tiny"]),
        ("--cssl_lr 0.5 --only_phases [PTLOC.1]", ["phase.lr: 0.002 there, 0.5 here"]),
    ],
)
def test_other_settings_are_named_before_anything_is_read(bestrq, words, told):
    before = contents(bestrq)
    with pytest.raises(AnotherRun) as error:
        start(bestrq, words)
    assert contents(bestrq) == before
    for line, wanted in zip(str(error.value).splitlines()[1:], told):
        assert line.startswith(f"  {wanted}")
    assert "encoder." not in str(error.value)  # which follow from the size


def test_a_quantizer_of_no_phase_is_fitted_anew(bestrq, few, tmp_path):
    """Such as that of a start that was refused for its number of ranks."""
    (tmp_path / "run").mkdir()
    shutil.copy(bestrq / "quantizer.ckpt", tmp_path / "run")
    _, modules = pretrained(BESTRQ, "--codebook_size 24", tmp_path / "run", few)
    assert len(modules["quantizer"].centroids) == 24


def test_the_same_settings_may_begin(bestrq, tmp_path):
    copy = shutil.copytree(bestrq, tmp_path / "run")
    hparams, _ = start(
        copy, "--precision bf16 --log_interval 7"
    )  # the Brain compares it
    assert hparams["output_folder"] == str(copy)


def test_other_epochs_are_refused_before_anything_is_read(bestrq, tmp_path):
    copy = shutil.copytree(bestrq, tmp_path / "run")
    shutil.copytree(copy / "CSSL.1", copy / "PTLOC.1")
    before = contents(copy)
    with pytest.raises(InputError, match="CSSL.1: epochs: 1 there, 3 here.*PTLOC.1"):
        start(copy, "--cssl_epochs 3")
    assert contents(copy) == before


@pytest.mark.parametrize("stem", ["ctc", "attention"])
def test_other_settings_of_a_fine_tuning(stem, tmp_path):
    yaml = f"VoicePrompts/finetune/hparams/{stem}.yaml"
    hparams, _ = hparams_of(yaml, "--size mini")
    brain = SimpleNamespace(precision="fp32", max_grad_norm=5.0)
    brain.modules = torch.nn.ModuleDict(
        hparams["modules"] | {"ctc": torch.nn.Linear(1, 2)}
    )
    counter = EpochCounter(3)
    counter.current = 3
    saver = AtomicCheckpointer(tmp_path / "save", {"counter": counter})
    saver.fingerprint = fingerprint(brain, hparams, pretrained=None, units=["a"])
    saver.save_checkpoint()
    argv = [str(RECIPES / yaml), "--data_folder", "x", "--size", "mini"]
    argv += ["--device", "cpu", "--output_folder", str(tmp_path)]
    before = contents(tmp_path)
    with pytest.raises(AnotherRun, match="lr: 0.002 there, 0.5 here"):
        load_recipe([*argv, "--lr", "0.5"])
    with pytest.raises(
        InputError, match="epochs: 3 .*there, 2 here: fewer than it has"
    ):
        load_recipe([*argv, "--epochs", "2"])
    assert contents(tmp_path) == before
    load_recipe([*argv, "--epochs", "9"])


def test_an_experiment_is_refused_before_its_first_step(bestrq, tmp_path):
    copy = shutil.copytree(bestrq, tmp_path / "pretrain/1")
    shutil.copytree(copy / "CSSL.1", copy / "PTLOC.1")
    pretrain = {"hparams": "pretrain/hparams/bestrq.yaml"}
    options = pairs(WORDS) | {"--size": "mini", "--cssl_epochs": "3"}
    del options["--data_folder"]
    pretrain["options"] = " ".join(word for pair in options.items() for word in pair)
    spec = {"seeds": [1], "pretrain": pretrain, "data_folder": "x"}
    with pytest.raises(InputError, match="CSSL.1: epochs: 1 there, 3 here"):
        pretraining_commands(spec, RECIPES / "VoicePrompts", tmp_path)


def test_a_model_folder_whose_run_went_on_is_named_alone(bestrq, tmp_path):
    copy = shutil.copytree(bestrq / "CSSL.1", tmp_path / "CSSL.1")
    for start in (copy, copy / "model"):
        facts = origin(tmp_path / "new", start)
        assert facts["title"] == "CSSL.1" and facts["settings"]["epochs"] == 1
    path = copy / "model/files.json"
    listed = json.loads(path.read_text("utf-8"))
    listed["encoder.ckpt"][1] = "another digest"
    path.write_text(json.dumps(listed), "utf-8")
    assert origin(tmp_path / "new", copy / "model") == "CSSL.1/model"
    shutil.rmtree(copy / "save")
    assert origin(tmp_path / "new", copy) == facts  # all that is left of it

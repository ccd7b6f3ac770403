"""Domains without rows for dev or test: trained on, named, and left out of the rest."""

import logging

import pytest

from hetero_brain.data import manifest
from hetero_brain.data.splits import finetuning_splits, labelled, pretraining_splits
from hetero_brain.errors import InputError


@pytest.fixture
def write(tmp_path):
    """write(split, domain=words, …) → a manifest with two rows of each domain."""

    def write(split, /, **domains):
        domains = {name.replace("__", "/"): words for name, words in domains.items()}
        rows = []
        for domain, words in domains.items():
            for i in range(2):
                wav = f"{split}-{domain.replace('/', '-')}{i}.wav"
                (tmp_path / wav).touch()
                row = {
                    "ID": f"{domain}{i}",
                    "duration": 1,
                    "wav": f"{{data_root}}/{wav}",
                }
                rows.append({**row, "domain": domain, "wrd": words})
        manifest.write_if_any(tmp_path / f"{split}.csv", rows)
        return tmp_path

    return write


@pytest.fixture
def warnings(caplog):
    """warnings() → what has been warned of since it was last asked for."""

    def take():
        told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        caplog.clear()
        return told

    return take


def domains_of(splits):
    return {split: list(rows.domains) for split, rows in splits.items()}


def test_pretraining_validates_the_domains_that_it_can(write, warnings):
    folder = write("pretrain", en="", es="")
    write("dev", en="", fr="")  # of fr there is nothing to pre-train on
    train, dev = pretraining_splits(folder / "pretrain.csv", folder)
    assert train.domains == ("en", "es") and dev.domains == ("en",) and len(dev) == 2
    (told,) = warnings()
    assert told.endswith("dev.csv: no rows of es: pre-trained on, but not validated")


@pytest.mark.parametrize("others", [{}, {"fr": ""}])
def test_pretraining_without_any_validation(write, warnings, others):
    folder = write("pretrain", en="", es="")
    write("dev", **others)
    train, dev = pretraining_splits(folder / "pretrain.csv", folder, ["en", "es"])
    assert len(train) == 4 and dev is None
    (told,) = warnings()
    missing = "" if others else "no such file, and so "
    rows = "no rows of en, es: pre-trained on, but not validated"
    assert told.endswith(f"dev.csv: {missing}{rows}")


def test_a_domain_to_pretrain_on_has_rows(write):
    folder = write("pretrain", en="")
    with pytest.raises(InputError, match=r"no rows of domain \['es'\]"):
        pretraining_splits(folder / "pretrain.csv", folder, ["en", "es"])


def test_finetuning_evaluates_the_domains_that_it_can(write, warnings):
    folder = write("train", cy="a", tr="b", sv="c")
    write("dev", cy="a", tr="")  # rows without words are as good as none
    write("test", tr="b", sv="c")
    splits = finetuning_splits(folder, folder, ["cy", "tr", "sv"], ["dev", "test"], 1)
    assert domains_of(splits) == {
        "train": ["cy", "sv", "tr"],
        "dev": ["cy"],
        "test": ["sv", "tr"],
    }
    dev, test = warnings()
    assert dev.endswith("dev.csv: no transcribed rows of tr, sv: not validated")
    assert test.endswith("test.csv: no transcribed rows of cy: not evaluated on test")


def test_finetuning_without_test_rows(write, warnings):
    folder = write("train", cy="a", tr="b")
    write("dev", cy="a", tr="b")
    splits = finetuning_splits(folder, folder, ["cy"], ["test"], 1)
    assert domains_of(splits) == {"train": ["cy"], "dev": ["cy"]}
    (told,) = warnings()
    missing = "no such file, and so "
    rows = "no transcribed rows of cy: not evaluated on test"
    assert told.endswith(f"test.csv: {missing}{rows}")


@pytest.mark.parametrize("dev", [{}, {"cy": ""}, {"tr": "b"}])
def test_finetuning_without_dev_rows_says_what_to_do(write, dev):
    folder = write("train", cy="a")
    write("dev", **dev)
    missing = "" if dev else "no such file, and so "
    told = (
        f"dev.csv: {missing}no transcribed rows of cy. .*best epoch.* give one of the "
    )
    with pytest.raises(InputError, match=told):
        finetuning_splits(folder, folder, ["cy"], ["test"], 1)


def test_test_sets_are_found_by_the_entrys_name(write, warnings):
    folder = write("train", libri="a")
    write("dev", libri="a")
    write("test", libri__clean="a", libri__other="b", hindi="c", ted="d")
    splits = finetuning_splits(
        folder, folder, ["libri"], ["test"], 1, test_domains=["libri", "hindi"]
    )
    test = domains_of(splits)["test"]
    assert test == ["hindi", "libri/clean", "libri/other"] and not warnings()


def test_a_split_that_does_not_exist(write):
    folder = write("train", cy="a")
    write("dev", cy="a")
    with pytest.raises(InputError, match=r"eval_splits: \['tset'\] unknown; known: "):
        finetuning_splits(folder, folder, ["cy"], ["dev", "tset"], 1)


def test_domains_that_have_no_transcript_within_their_hours_are_named(write):
    folder = write("train", en="a", fr="b", it="")
    rows = manifest.read(folder / "train.csv", folder)
    with pytest.raises(InputError, match=r"no transcripts in domains \['it'\]"):
        labelled(rows, 1)
    with pytest.raises(
        InputError, match=r"domains \['fr', 'it'\] \(max_finetune_hours"
    ):
        labelled(rows, 1, {"fr": 0.0002})  # less than a second
    rows = manifest.read(folder / "train.csv", folder, ["en", "fr"])
    kept = labelled(rows, 1, {"fr": 0.0003})
    assert [row["domain"] for row in kept] == ["en", "en", "fr"]


def test_rows_to_evaluate_on_that_are_trained_on(write, warnings):
    folder = write("train", en="a", es="b")
    write("test", en="a", es="b")
    train, others = (
        [*manifest.read(folder / f"{split}.csv", folder)] for split in ("train", "test")
    )
    part = {**train[2], "start": 0, "stop": 16000}
    manifest.write(folder / "dev.csv", [others[1], part, train[3], others[0]])
    finetuning_splits(folder, folder, ["en", "es"], ["train", "test"], 1)
    (told,) = warnings()
    assert "dev.csv: 1 of its 4 rows is in " in told and "such as es1" in told
    pretraining_splits(folder / "train.csv", folder, ["es"])
    (told,) = warnings()
    assert "dev.csv: 1 of its 2 rows is in " in told


def test_speakers_of_dev_that_train_has_are_told(tmp_path, caplog):
    speakers = {
        "train": ["en:1", "en:2", "es:3", "es:"],
        "dev": ["en:1", "es:1", "es:"],
    }
    for split, named in speakers.items():
        rows = []
        for name in named:
            (tmp_path / f"{split}-{name}.wav").touch()
            domain, speaker = name.split(":")
            row = {
                "ID": name,
                "duration": 1,
                "wav": f"{{data_root}}/{split}-{name}.wav",
            }
            rows.append({**row, "domain": domain, "spk_id": speaker, "wrd": "one"})
        manifest.write(tmp_path / f"{split}.csv", rows)
    with caplog.at_level(logging.INFO):
        finetuning_splits(tmp_path, tmp_path, ["en", "es"], ["dev"], seed=1)
    (told,) = [r.getMessage() for r in caplog.records if "speaker" in r.getMessage()]
    assert "dev.csv: 1 of its 2 speakers is in" in told

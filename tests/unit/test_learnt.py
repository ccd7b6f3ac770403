"""What pre-training has learnt, from logs."""

import json
import math

import pytest

from hetero_brain.pipelines import learnt as module
from hetero_brain.pipelines.learnt import chance, learnt
from hetero_brain.pipelines.report import print_learnt


def write(folder, *entries, **settings):
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"facts": {"settings": settings}}))
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / "log.jsonl").write_text(text)


def train(epoch, **figures):
    stats = {key.replace("_of_", "/"): value for key, value in figures.items()}
    return {"epoch": epoch, "iteration": epoch, "train": stats}


def valid(epoch, **losses):
    stats = {f"loss/{domain}": loss for domain, loss in losses.items()}
    stats |= {"loss": 1.0, "loss_at_phi/en": 0.5}
    return {"epoch": epoch, "iteration": epoch, "train": {"loss": 9.0}, "valid": stats}


@pytest.fixture
def phases(tmp_path):
    cssl = [
        train(1, accuracy_of_en=0.0, accuracy_of_fr=0.0),
        valid(1, en=4.1, fr=4.2),
        valid(2, en=5.0, fr=5.0),
        train(3, accuracy_of_en=0.10, accuracy_of_fr=0.3),
        train(3, accuracy_of_en=0.15, accuracy_of_fr=0.3),
        valid(3, en=3.123, fr=3.9),
    ]
    ptloc = [train(1, local_gain_of_en=0.04, accuracy_of_en=0.2), valid(1, en=3.0)]
    write(tmp_path / "CSSL.1", *cssl, **{module.CODES: 64})
    write(tmp_path / "PTLOC.1", *ptloc, **{module.CODES: 64})
    return tmp_path


def test_the_first_and_the_last_dev_loss_and_means_of_the_last_epoch(phases):
    table, line = learnt(phases).split("\n\n")
    assert table.splitlines() == [
        "phase    domain  dev loss: first  last  accuracy  local gain",
        "CSSL.1   en      4.10             3.12  12.5%     –",
        "CSSL.1   fr      4.20             3.90  30.0%     –",
        "PTLOC.1  en      3.00             3.00  20.0%     0.040",
    ]
    line = " ".join(line.split())
    assert "guessing among 64 codes: loss 4.16, accuracy 1.6%" in line
    assert "local steps" in line


def test_only_what_is_logged_is_shown(tmp_path):
    write(tmp_path / "CSSL.1", valid(1, en=2.0))
    table, line = learnt(tmp_path).split("\n\n")
    assert table.splitlines()[0] == "phase   domain  dev loss: first  last"
    assert not any(word in line for word in ("guessing", "ccuracy", "ocal gain"))


def test_many_domains_have_their_mean(tmp_path):
    losses = {f"d{i}": float(i) for i in range(9)}
    write(tmp_path / "CSSL.1", valid(1, **losses), valid(2, **losses))
    (_, row), _ = (part.splitlines() for part in learnt(tmp_path).split("\n\n"))
    assert row == "CSSL.1  mean of 9  4.00             4.00"


def test_nothing_is_said_before_the_first_validation(tmp_path, capsys):
    assert learnt(tmp_path) == ""
    write(tmp_path / "pretrain/1/CSSL.1", train(1, accuracy_of_en=0.1))
    write(tmp_path / "pretrain/1/PTLOC.1")
    print_learnt({"seeds": [1]}, tmp_path)
    print_learnt({"seeds": []}, tmp_path)
    assert capsys.readouterr().out == ""


def test_it_is_printed_for_the_first_seed(phases, tmp_path, capsys):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/2").symlink_to(phases)
    print_learnt({"seeds": [2, 1]}, tmp_path)
    title, table, *_ = capsys.readouterr().out.split("\n\n")
    assert title == "What pre-training has learnt (seed 2)"
    assert table.startswith("phase ")


def test_chance_is_that_of_a_codebook():
    assert chance({"facts": {"settings": {module.CODES: 64}}}) == math.log(64)
    assert chance({"epochs": 3}) is None

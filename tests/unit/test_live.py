"""Where the commands of an experiment are, in a line."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from hetero_brain.pipelines import live


def write(folder, epochs, *entries, age=0, **facts):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"epochs": epochs, "facts": facts}))
    begun = time.time() - age
    os.utime(folder / "model.json", (begun, begun))
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / "log.jsonl").write_text(text)


def entry(epoch, iteration=1, **train):
    return {"epoch": epoch, "iteration": iteration, "train": train}


def test_the_newest_phase_is_shown(tmp_path):
    phases = [tmp_path / "pretrain/1" / name for name in ("CSSL.1", "PTLOC.1")]
    assert live.status(phases) == "pretrain/1/CSSL.1 begins"
    write(phases[0], 6, entry(6, loss=3.0))
    os.utime(phases[0] / "log.jsonl", (1, 1))
    figures = {"loss_at_theta/en": 9.0, "loss_at_phi/en": 4.0, "loss_at_phi/fr": 5.0}
    write(phases[1], 2, entry(1, **figures), {"epoch": 1, "iteration": 9, "valid": {}})
    assert live.status(phases) == "pretrain/1/PTLOC.1, epoch 1 of 2, loss 4.5"
    first = live.status(phases[:1])
    assert first.startswith("pretrain/1/CSSL.1, epoch 6 of 6, loss 3")


@pytest.mark.parametrize("ago, left", [(0, "3:50"), (30, "3:20"), (300, "0:00")])
def test_time_left_is_that_of_the_iterations_so_far(tmp_path, ago, left):
    """20 iterations an epoch, of a second each."""
    run = tmp_path / "finetune/full/CSSL.1/1/es"
    steps = [entry(epoch, 20 * epoch, loss=80.0) for epoch in (1, 2, 3)]
    write(run, 15, *steps, entry(4, 70, loss=70.0), age=70 + ago)
    written = time.time() - ago
    os.utime(run / "log.jsonl", (written, written))
    line = f"CSSL.1/1/es, epoch 4 of 15, loss 70, done in about {left}"
    assert live.status([run]) == line


def test_a_loss_stands_beside_that_of_guessing(tmp_path):
    run = tmp_path / "pretrain/1/CSSL.1"
    write(run, 6, entry(1, loss=4.26), settings={"codebook size": 64})
    told = "pretrain/1/CSSL.1, epoch 1 of 6, loss 4.26 (guessing: 4.16)"
    assert live.status([run]) == told


def test_half_an_entry_and_entries_without_a_loss_are_passed_over(tmp_path):
    run = tmp_path / "pretrain/1/CSSL.1"
    write(run, 6, entry(1, 4, loss=3.0), entry(2, 5, **{"cosine/a~b": 0.1}), age=10)
    with open(run / "log.jsonl", "a") as log:
        log.write('{"epoch": 2, "tr')
    assert live.status([run]) == (
        "pretrain/1/CSSL.1, epoch 1 of 6, loss 3, done in about 0:38"
    )
    write(run, 6, entry(2, **{"cosine/a~b": 0.1}))
    assert live.status([run]) == "pretrain/1/CSSL.1 begins"


def test_lines_are_printed_when_something_has_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "LOG_SECONDS", 0.01)
    write(tmp_path / "one", 6, entry(1, loss=3.0))
    end, begun = Event(), Event()

    def command():
        begun.set()
        end.wait()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(command)
        second = pool.submit(time.sleep, 0)
        begun.wait()
        printed = []
        monkeypatch.setattr(
            "builtins.print",
            lambda line, **_: (printed.append(line), end.set()),
        )
        live.watch({first: [tmp_path / "one"], second: [tmp_path / "two"]}, 3, 7)
    name = "/".join((tmp_path / "one").parts[-3:])
    assert printed[0] == f"3 of 7 steps done; {name}, epoch 1 of 6, loss 3"
    assert printed[-1] == "5 of 7 steps done" and len({*printed}) == len(printed)


def test_a_command_that_fails_ends_the_wait(tmp_path):
    def fail():
        raise OSError("no space")

    with ThreadPoolExecutor(1) as pool:
        futures = {pool.submit(fail): [tmp_path]}
        with pytest.raises(OSError, match="no space"):
            live.watch(futures, 0, 1)

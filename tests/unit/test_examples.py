"""The diffs of docs/your_brain.md are applied to recipes of that shape, which run."""

import math
import re
from pathlib import Path

import pytest
import soundfile
import torch
from speechbrain.dataio.dataio import merge_csvs
from speechbrain.lobes.models import BESTRQ

from hetero_brain import HeteroBrain

ROOT = Path(__file__).parents[2]
PLAIN = Path(__file__).parent / "plain_recipes"
PAGE = (ROOT / "docs/your_brain.md").read_text("utf-8")
RECIPES = ["ctc", "bestrq"]
DOMAINS = ["en", "fr", "it"]
PITCH = {"en": 200, "fr": 500, "it": 1100}  # Hz
ROWS = 8  # of a domain


def hunks(name):
    """The diffs of a recipe: (file, lines before, lines after) …"""
    section = PAGE.split("\n## ")[1 + RECIPES.index(name)]
    for block in re.findall(r"```diff\n(.*?)```", section, re.DOTALL):
        for file, hunk in re.findall(r"@@ (\S+?)[ ,].*?@@\n((?:[ +-].*\n)+)", block):
            lines = hunk.splitlines()
            before = [line[1:] for line in lines if line[0] != "+"]
            after = [line[1:] for line in lines if line[0] != "-"]
            yield file, before, after


def applied(text, name, ending):
    """A file of a recipe with the diffs for files of its kind; each has one place."""
    for file, before, after in hunks(name):
        if not file.endswith(ending):
            continue
        if not before:
            text += "\n".join(["", *after, ""])
            continue
        old, new = ("\n".join(["", *lines, ""]) for lines in (before, after))
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A folder with tones of three domains: train.csv of all, and one for each."""
    folder = tmp_path_factory.mktemp("speech")
    torch.manual_seed(1)
    header = "ID,duration,wav,wrd\n"
    for domain in DOMAINS:
        (folder / domain / domain / "clips").mkdir(parents=True)
        lines = []
        for i in range(ROWS):
            seconds = 0.4 + 0.05 * i
            text = "abcacb"[i % 3 : i % 3 + 2]
            parts = [
                (2 * math.pi * PITCH[domain] * (1 + "abc".index(c) / 4))
                * torch.arange(round(8000 * seconds))
                / 16000
                for c in text
            ]
            wav = torch.cat(parts).sin() + 0.1 * torch.randn(2 * len(parts[0]))
            path = f"{domain}/{domain}/clips/{domain}{i}.wav"  # for both recipes
            soundfile.write(folder / path, 0.3 * wav.numpy(), 16000)
            lines.append(f"{domain}{i},{seconds},$data_root/{path},{text}\n")
        (folder / f"{domain}.csv").write_text(header + "".join(lines), "utf-8")
        (folder / "valid.csv").write_text(header + "".join(lines[:4]), "utf-8")
    merge_csvs(folder, [f"{domain}.csv" for domain in DOMAINS], "train.csv")
    return folder


def run(name, speech, folder, changed=True, **overrides):
    """Run a recipe, changed as the page says or as it is; returns its Brain."""
    code = (PLAIN / f"{name}.py").read_text("utf-8")
    hparams = (PLAIN / f"{name}.yaml").read_text("utf-8")
    if changed:
        code, hparams = applied(code, name, ".py"), applied(hparams, name, ".yaml")
    folder.mkdir(exist_ok=True)
    (folder / "hparams.yaml").write_text(hparams, "utf-8")
    words = {
        "data_folder": speech,
        "output_folder": folder,
        "device": "cpu",
    } | overrides
    argv = [str(folder / "hparams.yaml"), "--noprogressbar"]
    argv += [word for key, value in words.items() for word in (f"--{key}", str(value))]
    recipe = {"__name__": name}
    exec(compile(code, f"{name}.py", "exec"), recipe)
    return recipe["main"](argv)


def weights(brain):
    return [param.detach().clone() for param in brain.modules.parameters()]


@pytest.mark.parametrize("name", RECIPES)
def test_one_domain_without_local_steps_is_the_recipe(
    name, speech, tmp_path, monkeypatch
):
    def mask(shape, sample_lens, mask_prob, mask_length):  # that draws nothing
        return torch.arange(mask_length, 3 * mask_length)

    monkeypatch.setattr(BESTRQ, "compute_mask", mask)
    options = {"train_csv": speech / "en.csv", "number_of_epochs": 1}
    theirs = run(name, speech, tmp_path / "theirs", changed=False, **options)
    options |= {"local_steps": 0, "solve_seed": "null"}
    ours = run(name, speech, tmp_path / "ours", **options)
    assert not isinstance(theirs, HeteroBrain) and isinstance(ours, HeteroBrain)
    assert theirs.optimizer_step == ours.optimizer_step > 1
    assert theirs.losses == ours.losses
    for a, b in zip(weights(theirs), weights(ours), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", RECIPES)
def test_three_domains_with_a_local_step(name, speech, tmp_path, monkeypatch):
    options = {"number_of_epochs": 3, "ckpt_interval_steps": 2}
    whole = run(name, speech, tmp_path / "whole", **options)
    assert whole.losses[-1] < 0.95 * whole.losses[0]
    domains = {key.split("/")[1] for key in whole.interval_stats() if "/" in key}
    assert domains == {*DOMAINS}

    end, left = HeteroBrain.end_iteration, [8]  # of 3 epochs of 4 iterations

    def interrupted(brain, loss):
        end(brain, loss)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(HeteroBrain, "end_iteration", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(name, speech, tmp_path / "resumed", **options)
    left[0] = -1
    resumed = run(name, speech, tmp_path / "resumed", **options)
    assert left[0] == -1 - 6  # from the checkpoint after the second of an epoch
    assert resumed.optimizer_step == whole.optimizer_step
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)


def test_a_recipe_whose_batches_are_of_fixed_size(speech, tmp_path):
    """``dynamic_batching: False`` with ``domain_key`` in ``dataloader_options``."""
    options = {
        "dynamic_batching": False,
        "dataloader_options": "{batch_size: 4, domain_key: domain}",
        "number_of_epochs": 1,
    }
    brain = run("ctc", speech, tmp_path, **options)
    assert brain.optimizer_step == ROWS // 4


def test_every_diff_of_the_page_is_applied():
    """Else a diff that :func:`hunks` cannot read would go untested."""
    assert sum(len([*hunks(name)]) for name in RECIPES) == PAGE.count("\n@@ ") == 13

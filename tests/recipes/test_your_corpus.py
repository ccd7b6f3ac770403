"""The example of docs/your_corpus.md makes the rows of files of several kinds."""

import importlib.util
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hetero_brain.data import manifest
from hetero_brain.errors import MissingData
from hetero_brain.pipelines.new_recipe import train_script
from tests.recipes.manifests_fixture import sample_manifests

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/your_corpus.md").read_text("utf-8")
# File → sample rate, channels, seconds, and the text beside it.
FILES = {
    "office/anna/toma 1.flac": (44100, 2, 0.5, "Sì, «certo»!\n"),
    "office/dino/toma 2.flac": (44100, 2, 0.25, "L'ora\nè 12"),
    "office/dino/toma 3.flac": (44100, 2, 0.25, "l'ora"),
    "phone/carla/call 7.wav": (8000, 1, 1.0, "Pronto?"),
    "phone/dino/call, long.WAV": (8000, 1, 30.5, None),
    "web/elio/page.mp3": (48000, 1, 2.0, "ciao"),
}


@pytest.fixture
def prepare(tmp_path):
    """The prepare script of a new recipe, with the example in place of ``utterances``."""
    script = (ROOT / "templates/recipe/prepare.py").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    replaced = re.sub(
        r"def utterances.*?(?=\ndef )", lambda _: example, script, flags=re.S
    )
    assert replaced.count("def utterances") == replaced.count("def rows_of") == 1
    path = tmp_path / "my_corpus_prepare.py"
    path.write_text(replaced, "utf-8")
    spec = importlib.util.spec_from_file_location("my_corpus_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.prepare_my_corpus


def test_a_hash_can_choose_the_speakers(tmp_path):
    """The example with the lines that the page gives for hundreds of speakers."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (lines,) = re.findall(r"  ```\n(.*?)  ```", PAGE, re.S)
    *head, _, condition, end = (line[2:] for line in lines.splitlines())
    pattern = r"        if split != next.*?\n            continue"
    chosen, n = re.subn(pattern, f"{condition}\n{end}", example, flags=re.S)
    assert n == 1
    found = {"logger": logging.getLogger(__name__), "MissingData": MissingData}
    exec("\n".join([*head, chosen]), found)
    for number in range(60):
        path = tmp_path / f"office/speaker{number}/a.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.zeros(800), 8000)
    speakers = [
        {row["spk_id"] for row in found["utterances"](tmp_path, split)}
        for split in ("train", "dev", "test")
    ]
    assert len(set.union(*speakers)) == 60 == sum(map(len, speakers))
    assert all(speakers) and len(speakers[0]) > 45


@pytest.fixture
def data(tmp_path):
    """Noise in a folder for each domain, and in it one for each speaker."""
    folder = tmp_path / "data"
    draw = np.random.default_rng(0).normal
    for name, (rate, channels, seconds, text) in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, draw(0, 0.1, (int(rate * seconds), channels)), rate)
        if text is not None:
            path.with_suffix(".txt").write_text(text, "utf-8")
    (folder / "phone/dino/broken.wav").write_bytes(b"not audio")
    (folder / "list.wav").touch()  # of no speaker
    return folder


def test_rows_of_the_example(prepare, data, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    prepare(data, tmp_path / "out")
    rows = {
        split: [*manifest.read(tmp_path / f"out/{split}.csv", data)]
        for split in ("train", "dev", "test")
    }
    assert [row["ID"] for row in rows["dev"]] == ["office/anna/toma 1.flac"]
    assert [row["ID"] for row in rows["test"]] == ["phone/carla/call 7.wav"]
    found = {row["ID"]: row for row in rows["train"]}
    long = "phone/dino/call, long.WAV"
    assert [*found] == [
        *("office/dino/toma 2.flac", "office/dino/toma 3.flac"),
        *(f"{long}/0", f"{long}/96000", f"{long}/192000"),
        "web/elio/page.mp3",
    ]
    assert rows["dev"][0]["wrd"] == "sì certo" and rows["test"][0]["wrd"] == "pronto"
    assert [r["wrd"] for r in found.values()] == ["", "l'ora", "", "", "", "ciao"]
    assert {(r["domain"], r["spk_id"]) for r in found.values()} == {
        *(("office", "dino"), ("phone", "dino"), ("web", "elio")),
    }
    for row in (*found.values(), *rows["dev"], *rows["test"]):
        name = str(Path(row["wav"]).relative_to(data))
        rate, _, seconds, _ = FILES[name]
        if name == long:
            assert row["duration"] == (row["stop"] - row["start"]) / rate
        else:
            assert row["start"] is row["stop"] is None
            assert row["duration"] == pytest.approx(seconds, abs=0.1)
    assert sum(r["duration"] for i, r in found.items() if long in i) == 30.5
    assert "{data_root}/web/elio/page.mp3" in (tmp_path / "out/train.csv").read_text()
    assert "toma 2.txt counts as untranscribed: digits" in caplog.text
    assert "broken.wav is left out: unreadable" in caplog.text


def test_manifests_are_taken_as_they_are(prepare, tmp_path):
    """By such a recipe, too: the tests of the repository give it manifests."""
    sample_manifests(tmp_path)
    prepare(tmp_path, tmp_path / "out")
    for split in ("train", "dev", "test"):
        before, after = (
            [row["ID"] for row in manifest.read(folder / f"{split}.csv")]
            for folder in (tmp_path, tmp_path / "out")
        )
        assert after == before and after


def test_a_wrong_folder_is_named(prepare, tmp_path):
    with pytest.raises(MissingData, match="no DOMAIN/SPEAKER/FILE of"):
        prepare(tmp_path, tmp_path / "out")


def test_a_domain_that_is_not_there_is_said_before_anything_else(tmp_path):
    """As the template stands: no audio is looked for, and nothing is written."""
    path = ROOT / "templates/recipe/prepare.py"
    spec = importlib.util.spec_from_file_location("template_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "train.csv").write_text(
        "ID,duration,wav,start,stop,domain,spk_id,wrd\na,1,gone.wav,,,en,,\n"
    )
    with pytest.raises(manifest.ManifestError, match=r"\['enn'\].* did you mean en\?$"):
        module.prepare_my_corpus(tmp_path, tmp_path / "save", ["enn"])
    assert not (tmp_path / "save").exists()
    with pytest.raises(manifest.ManifestError, match="no file"):
        module.prepare_my_corpus(tmp_path, tmp_path / "save", ["en"])
    text = (ROOT / "recipes/VoicePrompts/pretrain/train.py").read_text("utf-8")
    made = train_script(text, "pretrain", "MyCorpus", {"pretrain": ["x"]})
    assert "args=[data_folder, save_folder, domains])" in made

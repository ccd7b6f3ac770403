"""``python -m hetero_brain manifests``: rows of all audio in folders."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hetero_brain.__main__ import main
from hetero_brain.data import manifest
from hetero_brain.data.audio import read_audio
from hetero_brain.data.corpora.selection import held_out
from hetero_brain.data.splits import pretraining_splits

SPLITS = "train", "dev"
# Name of a file below its folder → domain, sample rate, channels, seconds.
FILES = {
    "calls/anna/à demain, «1».wav": ("calls", 8000, 1, 30.3001),
    "calls/anna/b c.WAV": ("calls", 11025, 2, 0.5),
    "more calls/anna/b c.WAV": ("calls", 8000, 1, 12.0),
    "radio/show.mp3": ("radio", 44100, 2, 25.0),
    "radio/deep/er/news.flac": ("radio", 37800, 1, 12.001),
    "radio/deep/jingle.ogg": ("radio", 48000, 1, 0.3),
}
BROKEN = {"radio/empty.wav": b"", "radio/not.flac": b"not audio"}


@pytest.fixture
def audio(tmp_path):
    """Noise, with files that cannot be used among it."""
    folder = tmp_path / "some audio"
    draw = np.random.default_rng(0).normal
    for name, (_, rate, channels, seconds) in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, draw(0, 0.1, (round(rate * seconds), channels)), rate)
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    soundfile.write(folder / "radio/click.wav", np.ones(100), 16000)
    (folder / "radio/notes.txt").write_text("no audio")
    return folder


def words_for(output, audio, *options):
    """The command line for :data:`FILES`."""
    folders = {"calls": "calls", "radio": "radio", "more calls": "calls"}
    given = (f"{name}={audio}/{folder}" for folder, name in folders.items())
    return ["manifests", str(output), *given, *options]


def rows_of(output):
    """The rows of train and of dev, whose folder is the data folder."""
    return [[*manifest.read(output / f"{split}.csv", output)] for split in SPLITS]


def test_every_sample_is_in_one_row(audio, tmp_path, capsys):
    output = tmp_path / "out"
    main(words_for(output, audio))
    train, dev = rows_of(output)
    parts = {}
    for row in train + dev:
        parts.setdefault(row["wav"], []).append(row)
    assert {*parts} == {str(audio / name) for name in FILES}
    for name, (domain, rate, _, seconds) in FILES.items():
        rows = parts[str(audio / name)]
        assert {row["domain"] for row in rows} == {domain}
        frames = soundfile.info(audio / name).frames
        assert frames == pytest.approx(rate * seconds, abs=0.1 * rate)
        edges = [row[edge] for row in rows for edge in ("start", "stop")]
        if len(rows) == 1:
            assert edges == [None, None] and frames <= 12 * rate
        else:
            assert (edges[0], edges[-1]) == (0, frames)
            assert edges[1:-1:2] == edges[2::2]
            assert len(rows) == np.ceil(frames / rate / 12)
        lengths = [row["duration"] for row in rows]
        assert max(lengths) <= 12
        assert sum(lengths) == pytest.approx(frames / rate, abs=1e-3)
        read = sum(len(read_audio(row, 16000)) for row in rows)
        assert read == pytest.approx(16000 * frames / rate, abs=len(rows))
    ids = [row["ID"] for row in train + dev]
    assert len({*ids}) == len(ids) and "calls/calls/anna/b c.WAV" in ids
    out, err = capsys.readouterr()
    reasons = "empty", "unreadable", "too short"
    for name, why in zip([*BROKEN, "radio/click.wav"], reasons):
        assert f"{str(audio / name)!r} is left out: {why}\n" in err
        assert f"1 {why}" in out
    assert "| calls  | 0.01  | 3     |" in out and "| 8, 11.025 " in out
    assert f"--data_folder '{output}'" in out or f"--data_folder {output}" in out


def test_no_recording_is_in_train_and_in_dev(audio, tmp_path):
    main(words_for(tmp_path / "out", audio, "--window_seconds", "1"))
    train, dev = rows_of(tmp_path / "out")
    for rows in (train, dev):
        assert {row["domain"] for row in rows} == {"calls", "radio"}
    assert not {row["wav"] for row in train} & {row["wav"] for row in dev}
    splits = pretraining_splits(tmp_path / "out/train.csv", tmp_path)
    assert [len(split) for split in splits] == [len(train), len(dev)]


def test_audio_below_the_output_can_be_moved(audio, tmp_path):
    main(words_for(audio, audio))
    assert f",{{data_root}}/radio/show.mp3,0,{25 * 44100 // 3}," in (
        audio / "train.csv"
    ).read_text("utf-8") + (audio / "dev.csv").read_text("utf-8")
    moved = audio.rename(tmp_path / "moved")
    train, dev = rows_of(moved)
    assert {row["wav"] for row in train + dev} == {str(moved / name) for name in FILES}


def test_manifests_that_exist_are_left_alone(audio, tmp_path):
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(SystemExit, match=f"{name} exists; .*--overwrite"):
            main(words_for(tmp_path, audio))
        assert (tmp_path / name).read_text() == "mine"
        main(words_for(tmp_path, audio, "--overwrite"))
        assert len(rows_of(tmp_path)[0]) > 3
        (tmp_path / "train.csv").unlink()
    main(words_for(tmp_path, audio, "--overwrite", "--dev_fraction", "0"))
    assert not (tmp_path / "dev.csv").exists()  # its rows are in train now


@pytest.mark.parametrize(
    "word, why",
    [
        ("radio={}/nowhere", "nowhere: no such folder"),
        (
            "x={}/radio/deep",
            "radio/deep/ is in .*radio/; each recording has one domain",
        ),
        ("x={}/calls", "calls/ is given twice"),
        ("x={}/bad", "x: nothing can be used in .*bad: 2 unreadable, 1 empty"),
        ("x={}/none", "x: nothing can be used in .*none: no audio files"),
    ],
)
def test_folders_that_cannot_be_used(word, why, audio, tmp_path):
    for number, content in enumerate((b"", b"no", b"not audio either")):
        path = audio / f"bad/{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (audio / "none").mkdir()
    with pytest.raises(SystemExit, match=why):
        main([*words_for(tmp_path / "out", audio), word.format(audio)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, why",
    [
        (
            ["de={0}", "it={0}"],
            "de=.* is NAME=FOLDER: the folder of the manifests comes",
        ),
        (
            ["{0}/out", "de={0}", "De={0}"],
            "domains de .* and De .* are spelt in another",
        ),
    ],
)
def test_names_and_folders_that_are_not_meant(words, why, audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = [*audio.rglob("*")]
    with pytest.raises(SystemExit, match=why):
        main(["manifests", *(word.format(audio) for word in words)])
    assert [*audio.rglob("*")] == before


@pytest.mark.parametrize("word", ["radio", "=radio", "radio=", " =radio"])
def test_a_word_that_is_not_name_and_folder(word, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["manifests", str(tmp_path), word])
    assert f"{word!r} is not NAME=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, value",
    [("dev_fraction", "1"), ("dev_fraction", "-0.1"), ("window_seconds", "0.5")],
)
def test_a_number_that_cannot_be_one(option, value, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["manifests", str(tmp_path), "a=b", f"--{option}", value])
    assert f"--{option}" in capsys.readouterr().err


def test_names_that_a_manifest_cannot_hold(audio, tmp_path, capsys):
    for name in (b"two\nlines.wav", b"latin-\xe9.wav"):
        path = os.fsencode(audio / "radio") + b"/" + name
        Path(os.fsdecode(path)).write_bytes((audio / "calls/anna/b c.WAV").read_bytes())
    main(words_for(tmp_path / "out", audio))
    assert {r["wav"] for split in rows_of(tmp_path / "out") for r in split} == {
        str(audio / name) for name in FILES
    }
    assert "2 line break in its name, or not UTF-8" in capsys.readouterr().out


def test_links_to_files_are_followed_and_links_to_folders_are_not(audio, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "show.mp3").symlink_to(audio / "radio/show.mp3")
    (folder / "calls").symlink_to(audio / "calls")
    main(["manifests", str(tmp_path / "out"), f"x={folder}"])
    rows = [*manifest.read(tmp_path / "out/train.csv")]
    assert {row["wav"] for row in rows} == {str(folder / "show.mp3")}
    assert not (tmp_path / "out/dev.csv").exists()  # of one recording, it is in train


# ------------------------------------------------------------------------ what is in dev


def dev_of(seconds, fraction=0.02):
    """Names of dev; ``seconds`` maps names to durations."""
    dev = held_out([*seconds], np.array([*seconds.values()], float), fraction)
    return {name for name, held in zip(seconds, dev) if held}


def speakers(n, files=10):
    """Recordings of equal length in a folder for each speaker."""
    return {f"speaker{i}/{j}.wav": 5 for i in range(n) for j in range(files)}


@pytest.mark.parametrize("fraction", [0.01, 0.02, 0.1])
def test_whole_folders_where_there_are_many(fraction):
    dev = dev_of(speakers(1000), fraction)
    names = {name.split("/")[0] for name in dev}
    assert len(dev) == 10 * len(names)
    assert len(dev) == pytest.approx(1e4 * fraction, rel=0.4)


def test_the_choice_stays_when_files_are_added():
    for before in (speakers(200), {f"{i}.wav": 4 for i in range(500)}):
        dev = dev_of(before)
        added = {f"speaker{i}/more.wav": 5 for i in range(20)}
        added |= {f"new{i}/{j}.wav": 7 for i in range(30) for j in range(10)}
        added |= {f"more-{i}.wav": 7 for i in range(80)}
        after = dev_of(dict(sorted({**added, **before}.items())))
        assert dev and after & {*before} == dev and after - dev


def test_files_where_there_are_few_folders():
    dev = dev_of(speakers(3, 100))
    assert 3 <= len(dev) < 20
    large = {f"host/{i}.wav": 100 for i in range(100)} | speakers(100)
    dev = dev_of(large)
    assert any("host" in name for name in dev) and any("speaker" in n for n in dev)
    assert sum(large[name] for name in dev) < 0.06 * sum(large.values())


def test_one_recording_at_least_on_either_side():
    for seed in range(20):
        for n in (2, 3, 8):
            names = {f"{seed}-{i}.wav": 1 + i for i in range(n)}
            for fraction in (0.02, 0.5, 0.99):
                assert 0 < len(dev_of(names, fraction)) < n
            assert len(dev_of(names)) == 1
    assert dev_of({"a.wav": 9}) == set()


def test_no_large_recording_if_there_are_others():
    for i in range(20):
        seconds = {f"{i}.wav": 36000, f"{i + 1}.wav": 18000}
        jingles = {f"jingle{i}.wav": 5, f"jingle{i + 1}.wav": 5}
        dev = dev_of(seconds | jingles)
        assert dev and dev <= {*jingles}

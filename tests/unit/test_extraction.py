"""Features are what the encoder gives, for recordings of any length, in any file."""

import sys

import numpy as np
import pytest
import soundfile
import torch

from hetero_brain import load_encoder
from hetero_brain.__main__ import main
from hetero_brain.data.audio import read_audio
from hetero_brain.data.recordings import Recordings, row_of
from hetero_brain.pipelines import extraction
from hetero_brain.pipelines.extraction import features
from tests.unit.trained import BESTRQ, pretrained

RATE, FRAME = 8000, 320


@pytest.fixture(scope="module")
def phase(sample, tmp_path_factory):
    """The folder of a phase, and the encoder that it leaves."""
    train = sample("train", ["es"]).subset(range(6))
    folder = tmp_path_factory.mktemp("run")
    folder, _ = pretrained(BESTRQ, "--codebook_size 16", folder, train)
    return folder, load_encoder(folder, freeze=True)


@pytest.fixture(scope="module")
def files(sample, tmp_path_factory):
    """Paths and waveforms of three prompts."""
    rows, folder = (
        sample("train", ["es"]).subset([0, 5, 9]),
        tmp_path_factory.mktemp("x"),
    )
    sounds = [read_audio(row, RATE) for row in rows]
    paths = [folder / f"{i}.wav" for i in range(3)]
    for path, sound in zip(paths, sounds):
        soundfile.write(path, sound.numpy(), RATE, subtype="FLOAT")
    return paths, sounds


def close(found, expected):
    torch.testing.assert_close(
        torch.as_tensor(found).float(), expected, atol=1e-4, rtol=1e-4
    )


def expected_of(encoder, sound, layers=None):
    """The encodings of a waveform alone."""
    with torch.no_grad():
        encoded, _, hidden = encoder(sound[None])
    return encoded[0] if layers is None else torch.stack([hidden[i][0] for i in layers])


@pytest.mark.parametrize("batch_seconds", [1, 100])
@pytest.mark.parametrize("words, layers", [([], None), (["0", "-1"], [0, -1])])
def test_files_of_a_folder(words, layers, batch_seconds, phase, files, tmp_path):
    paths, sounds = files
    words = ["--layers", *words] if words else []
    for kind, load in (("npy", np.load), ("pt", torch.load)):
        out = tmp_path / kind
        options = ["--output", out, "--format", kind, "--batch_seconds", batch_seconds]
        options = map(str, [phase[0] / "model", *paths, *options, *words])
        assert main(["features", *options]) == 0
        found = sorted(out.iterdir())
        assert [path.name for path in found] == [f"{i}.{kind}" for i in range(3)]
        for path, sound in zip(found, sounds):
            array = load(path)
            assert array.dtype in (np.float32, torch.float32)
            close(array, expected_of(phase[1], sound, layers))


def test_one_file_of_all(phase, files, tmp_path):
    paths, sounds = files
    out = tmp_path / "all.pt"
    words = [str(phase[0]), *map(str, paths), "--output", str(out), "--layers", "all"]
    assert main(["features", *words, "--float16"]) == 0
    found = torch.load(out, weights_only=True)
    assert [*found] == [*map(str, paths)]
    n_layers = len(phase[1](sounds[0][None])[2])
    for sound, one in zip(sounds, found.values()):
        assert one.dtype == torch.float16 and len(one) == n_layers > 2
        expected = expected_of(phase[1], sound, range(n_layers))
        torch.testing.assert_close(one.float(), expected, atol=4e-3, rtol=2e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["all.pt"]


def test_one_recording_to_a_file_of_numpy(phase, files, tmp_path):
    paths, sounds = files
    out = tmp_path / "f.npy"
    assert main(["features", *map(str, (phase[0], paths[1], "--output", out))]) == 0
    close(np.load(out), expected_of(phase[1], sounds[1]))
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]


def test_hdf5(phase, files, tmp_path):
    h5py = pytest.importorskip("h5py")
    paths, sounds = files
    out = tmp_path / "all.h5"
    words = [str(phase[0]), *map(str, paths), "--output", str(out)]
    assert main(["features", *words]) == 0
    with h5py.File(out) as file:
        for path, sound in zip(paths, sounds):
            close(file[str(path)][:], expected_of(phase[1], sound))
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]


def test_hdf5_without_its_package_is_named(phase, files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit, match=r"pip install 'hetero_brain\[hdf5\]'"):
        words = [str(phase[0]), str(files[0][0]), "--output", str(tmp_path / "x.h5")]
        main(["features", *words])
    assert not [*tmp_path.iterdir()]


def test_long_recordings_are_joined_at_the_centres_of_windows(phase, files, tmp_path):
    sound, path = torch.cat(files[1] * 2), tmp_path / "long.wav"
    soundfile.write(path, sound.numpy(), RATE, subtype="FLOAT")
    rows = Recordings([row_of(str(path))])
    ((_, found),) = features(phase[1], rows, [1, 2], 3.12, 7)
    size, step, context = 78 * FRAME, 52 * FRAME, 13  # of 3.12 s
    starts = [0]
    while starts[-1] + size < len(sound):
        starts.append(starts[-1] + step)
    assert len(starts) > 3
    parts = []
    for start in starts:
        window = expected_of(phase[1], sound[start : start + size], [1, 2])
        end = window.shape[1] if start == starts[-1] else 65
        parts.append(window[:, context if start else 0 : end])
    close(found, torch.cat(parts, 1))
    assert found.shape[1] == len(sound) // FRAME + 1


def test_what_cannot_be_read_is_left_out(phase, files, tmp_path, capsys):
    paths, sounds = files
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    words = map(str, [phase[0], paths[0], tmp_path / "bad.wav", paths[1]])
    assert main(["features", *words, "--output", str(tmp_path / "out.pt")]) == 1
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert [*found] == [str(paths[0]), str(paths[1])]
    told = capsys.readouterr().err
    assert "bad.wav" in told and "1 could not be read" in told


def test_wrong_words_are_refused_before_anything_is_encoded(
    phase, files, tmp_path, monkeypatch
):
    monkeypatch.setattr(extraction, "features", None)
    sound = files[0][0]
    (tmp_path / "file").touch()
    for words, said in [
        ((phase[0], sound, "--layers", "9"), r"--layers 9: this encoder has 0 to \d"),
        ((phase[0], sound, "--layers", "top"), "--layers top: this encoder has"),
        ((phase[0], sound, sound), "would be written twice"),
        ((tmp_path, sound), "no model"),
        ((phase[0],), "no recordings"),
    ]:
        with pytest.raises(SystemExit, match=said):
            main(["features", *map(str, words), "--output", str(tmp_path / "out")])
    for name, said in [("file", "is a file"), ("no/x.pt", "there is no folder")]:
        with pytest.raises(SystemExit, match=said):
            words = [phase[0], sound, "--output", tmp_path / name]
            main(["features", *map(str, words)])
    with pytest.raises(SystemExit, match="x.npy is for a single recording, but .* 2;"):
        words = [phase[0], *files[0][:2], "--output", tmp_path / "x.npy"]
        main(["features", *map(str, words)])
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.h5"])
def test_a_recording_given_twice_is_refused(name, phase, files, tmp_path):
    """A file of all holds each by its ID."""
    words = [phase[0], files[0][0], files[0][0], "--output", tmp_path / name]
    with pytest.raises(SystemExit, match=f"{files[0][0]} is given twice"):
        main(["features", *map(str, words)])
    assert not [*tmp_path.iterdir()]

"""Files whose header does not say how long they are: preparation and training read all
of them, and agree."""

import os
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from hetero_brain.data.audio import AudioFile, BadAudio, read_audio
from hetero_brain.data.corpora.headers import read_header
from hetero_brain.data.decoders import named
from hetero_brain.data.streaming import stream

RATE = 48000
WHOLE = {"start": None, "stop": None, "duration": None}
SECONDS = 3.0
KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
SOX, GSTREAMER, ALSA, FFMPEG = 0x7FFFF000, 0x7FFF0000, 0x80000000, 0xFFFFFFFF


@pytest.fixture(scope="module")
def samples():
    """A second of faint noise, then two of loud: VBR needs more bits for these."""
    noise = np.random.default_rng(0).standard_normal(round(SECONDS * RATE))
    noise[:RATE] *= 1e-3
    return (0.1 * noise).astype("float32")


@pytest.fixture(scope="module")
def mp3(samples, tmp_path_factory):
    """A VBR mp3, its first frame a table of its length."""
    path = tmp_path_factory.mktemp("mp3") / "table.mp3"
    kind = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    soundfile.write(path, samples, RATE, **kind)
    return path.read_bytes()


def without_table(mp3):
    """An mp3 of version 1 at 48 kHz less its first frame."""
    length = 144_000 * KBITS[mp3[2] >> 4] // RATE + (mp3[2] >> 1 & 1)
    assert b"Xing" in mp3[:length] and mp3[length] == 0xFF
    return mp3[length:]


def with_table(mp3, flags, frames=0, length=0):
    """An mp3 with another table."""
    at = mp3.index(b"Xing") + 4
    return mp3[:at] + struct.pack(">III", flags, frames, length) + mp3[at + 12 :]


def id3(content):
    """A tag."""
    size = bytes(len(content) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + content


def seconds_of(path):
    """What the manifest will say, if training finds as much."""
    header = read_header(path)
    assert not header.problem
    row = {"wav": str(path), "start": None, "stop": None}
    row["duration"] = header.frames / header.rate
    for duration in (row["duration"], None):
        found = read_audio({**row, "duration": duration}, header.rate)
        assert len(found) == header.frames
    return row["duration"]


MP3S = {
    "no table": without_table,
    "empty table": lambda mp3: with_table(mp3, 0),
    "placeholders": lambda mp3: with_table(mp3, 3),
    "large placeholders": lambda mp3: with_table(mp3, 3, FFMPEG, FFMPEG),
    "no size": lambda mp3: with_table(mp3, 1, 126),
    "title": lambda mp3: id3(b"TIT2" + b"Info" * 9 + b"Xing" * 9) + without_table(mp3),
    "picture": lambda mp3: id3(bytes(200_000)) + without_table(mp3),
    "picture, table": lambda mp3: id3(bytes(200_000)) + mp3,
    "two tags": lambda mp3: id3(bytes(30)) + id3(bytes(3000)) + without_table(mp3),
    "padding": lambda mp3: id3(bytes(30)) + bytes(2000) + without_table(mp3),
    "tag at the end": lambda mp3: without_table(mp3) + b"TAG" + bytes(125),
    "tag at the end, table": lambda mp3: mp3 + b"TAG" + bytes(125),
    "zeros at the end": lambda mp3: without_table(mp3) + bytes(5000),
    "zeros at the end, table": lambda mp3: mp3 + bytes(5000),
    "a hole": lambda mp3: without_table(mp3)[:9000] + bytes(3000) + mp3[9000:],
}


@pytest.mark.parametrize("kind", MP3S)
def test_an_mp3_is_as_long_as_what_is_in_it(mp3, tmp_path, kind):
    (tmp_path / "a.mp3").write_bytes(MP3S[kind](mp3))
    assert seconds_of(tmp_path / "a.mp3") == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("cut_first", [without_table, bytes])
def test_two_mp3s_in_one_file(mp3, tmp_path, cut_first):
    (tmp_path / "a.mp3").write_bytes(cut_first(mp3) + mp3)
    assert seconds_of(tmp_path / "a.mp3") == pytest.approx(2 * SECONDS, abs=0.2)


@pytest.mark.parametrize("rate, channels", [(8000, 1), (22050, 2), (44100, 2)])
def test_constant_bit_rate(samples, tmp_path, rate, channels):
    path = tmp_path / "a.mp3"
    content = np.stack([samples[: 2 * rate]] * channels, 1)
    soundfile.write(path, content, rate, bitrate_mode="CONSTANT")
    assert seconds_of(path) == pytest.approx(2.0, abs=1e-6)
    path.write_bytes(path.read_bytes().replace(b"Info", bytes(4)))
    assert seconds_of(path) == pytest.approx(2.0, abs=0.2)


def test_an_mp3_whose_table_fits_is_not_decoded(mp3, tmp_path, monkeypatch):
    monkeypatch.setattr(AudioFile, "decode", None)
    monkeypatch.setattr(AudioFile, "read", None)
    (tmp_path / "a.mp3").write_bytes(mp3)
    header = read_header(tmp_path / "a.mp3")
    assert header.frames == SECONDS * RATE and not header.cut


def test_what_a_decoder_prints_names_the_file(mp3, tmp_path, capfd, caplog):
    path, whole = tmp_path / "hole.mp3", tmp_path / "whole.mp3"
    path.write_bytes(MP3S["a hole"](mp3))
    whole.write_bytes(mp3)
    files = os.listdir("/dev/fd")
    row = {"start": 24000, "stop": 3 * RATE, "duration": 2.5}
    for each in (path, whole):
        read_audio({"wav": str(each), **row}, RATE)
    assert os.listdir("/dev/fd") == files
    assert caplog.messages and all(m.startswith(f"{path}: ") for m in caplog.messages)
    assert any("Illegal Audio-MPEG-Header" in m for m in caplog.messages)
    os.write(2, b"afterwards")
    assert capfd.readouterr().err == "afterwards"


def test_an_error_within_an_mp3_names_the_file(mp3, tmp_path):
    """Also where the header fits the size, so that the file is read without a view."""
    path = tmp_path / "damaged.mp3"
    middle = len(mp3) // 2
    path.write_bytes(mp3[:middle] + b"\x55" * 2000 + mp3[middle + 2000 :])
    with AudioFile(path) as file:
        assert file._view is None
        with pytest.raises(soundfile.LibsndfileError):
            [*file.decode()]
    with pytest.raises(BadAudio, match=f"^{path}: "):
        [*stream({"wav": str(path), **WHOLE}, RATE)]


def test_what_is_no_mp3_is_said_to_be_unreadable(tmp_path):
    path = tmp_path / "text.mp3"
    path.write_bytes(b"hello" * 100)
    with pytest.raises(BadAudio, match=f"^{path}: unreadable$"):
        AudioFile(path)


def test_what_another_thread_redirects_is_left_alone(capfd, caplog):
    with named("a.mp3"), named("b.mp3"):
        os.write(2, b"Note: 1\nNote: 2\n")
    with named("a.mp3"):  # it is read again, as in every epoch
        os.write(2, b"Note: 1\n")
    assert caplog.messages == ["a.mp3: Note: 1", "a.mp3: Note: 2"]
    with pytest.raises(KeyError), named("c.mp3"):
        os.write(2, b"Note: 3\n")
        raise KeyError
    assert caplog.messages[2:] == ["c.mp3: Note: 3"]
    os.write(2, b"afterwards")
    assert capfd.readouterr().err == "afterwards"


@pytest.mark.parametrize("content", [b"", b"\0\5\26\7" + bytes(4000)])
def test_an_mp3_beside_a_file_that_macos_left(mp3, tmp_path, content):
    (tmp_path / "a.mp3").write_bytes(mp3)
    (tmp_path / "._a.mp3").write_bytes(content)
    assert seconds_of(tmp_path / "a.mp3") == pytest.approx(SECONDS, abs=0.1)


def test_an_mp3_that_is_cut(mp3, tmp_path):
    (tmp_path / "a.mp3").write_bytes(mp3[: len(mp3) // 2])
    header = read_header(tmp_path / "a.mp3")
    assert header.cut and 0.3 < header.frames / (SECONDS * RATE) < 0.8
    assert seconds_of(tmp_path / "a.mp3") < 0.8 * SECONDS


@pytest.mark.parametrize("kind", ["no table", "zeros at the end"])
def test_segments_and_windows_of_an_mp3(mp3, tmp_path, kind):
    path = tmp_path / "a.mp3"
    path.write_bytes(MP3S[kind](mp3))
    row = {"wav": str(path), "start": None, "stop": None, "duration": SECONDS}
    whole = read_audio(row, RATE)
    for start in (1, 70_000, 130_000):
        segment = {**row, "start": start, "stop": start + 8000}
        part = read_audio(segment, RATE)
        np.testing.assert_allclose(part, whole[start : start + 8000], atol=1e-6)
    starts = set()
    for seed in range(8):
        window = read_audio(row, RATE, 0.5, np.random.default_rng(seed))
        (start,) = np.flatnonzero(abs(whole[: -RATE // 2 + 1] - window[0]) < 1e-7)[:1]
        np.testing.assert_allclose(window, whole[start : start + RATE // 2], atol=1e-6)
        starts.add(start)
    assert max(starts) > 1.5 * RATE  # libsndfile's guess is a third of the file


# ------------------------------------------------------------------------------- WAV


def wav(pcm, riff=None, data=None, before=b"", channels=1):
    """A 16-bit WAV with sizes as given, or right."""
    form = struct.pack("<HHIIHH", 1, channels, RATE, 2 * RATE, 2 * channels, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + before
    body += b"data" + struct.pack("<I", len(pcm) if data is None else data) + pcm
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


@pytest.fixture(scope="module")
def pcm(samples):
    return (32767 * samples).astype("<i2").tobytes()


COMMENT = b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf60.16.100\0"
SIZES = [(size + 36 & FFMPEG, size) for size in (SOX, GSTREAMER, ALSA)] + [
    (FFMPEG, FFMPEG),
    (0x7FFFFFFF, 0x7FFFFFFF - 36),
    (0, 0),
    (8, 0),
    (36, 0),
    (FFMPEG, 0),
    (0, None),
    (FFMPEG, None),
]


@pytest.mark.parametrize("before", [b"", COMMENT, COMMENT * 50], ids=len)
@pytest.mark.parametrize("sizes", SIZES)
def test_placeholders_are_no_promise(pcm, samples, tmp_path, sizes, before):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(pcm, *sizes, before))
    assert seconds_of(path) == SECONDS and not read_header(path).cut
    row = {"wav": str(path), "start": 5000, "stop": 9000, "duration": 1.0}
    np.testing.assert_allclose(read_audio(row, RATE), samples[5000:9000], atol=1e-4)


@pytest.mark.parametrize("riff", [None, 0, FFMPEG, SOX])
def test_a_wav_that_is_cut(pcm, tmp_path, riff):
    content = wav(pcm, riff, before=COMMENT)
    (tmp_path / "a.wav").write_bytes(content[:-2000])
    header = read_header(tmp_path / "a.wav")
    assert header.cut and header.frames == SECONDS * RATE - 1000


def test_a_wav_that_is_whole_though_sizes_are_a_little_off(pcm, tmp_path):
    path = tmp_path / "a.wav"
    for riff, data in ((len(pcm) + 44, len(pcm)), (len(pcm) + 44, len(pcm) + 44)):
        path.write_bytes(wav(pcm, riff, data))
        assert seconds_of(path) == SECONDS and not read_header(path).cut


def test_an_empty_wav(tmp_path):
    for content in (wav(b""), wav(b"", 0, 0), wav(b"", FFMPEG, FFMPEG)):
        (tmp_path / "a.wav").write_bytes(content)
        assert read_header(tmp_path / "a.wav").problem == "empty"


@pytest.mark.parametrize("size", [0, 2**64 - 1, 2**63 - 1])
def test_rf64_of_unknown_size(pcm, tmp_path, size):
    sizes = struct.pack("<IQQQI", 28, size, size, size, 0)
    content = wav(pcm, FFMPEG, FFMPEG).replace(b"RIFF", b"RF64")
    content = content.replace(b"WAVE", b"WAVEds64" + sizes)
    (tmp_path / "a.wav").write_bytes(content)
    assert seconds_of(tmp_path / "a.wav") == SECONDS


@pytest.mark.parametrize("kind", ["AIFF", "AU", "RF64", "NIST", "WAVEX"])
def test_other_files_that_are_cut(samples, tmp_path, kind):
    path = tmp_path / "a"
    soundfile.write(path, samples, RATE, format=kind)
    assert seconds_of(path) == SECONDS and not read_header(path).cut
    path.write_bytes(path.read_bytes()[: len(samples)])
    header = read_header(path)
    assert header.cut and header.frames < SECONDS * RATE / 2


@pytest.mark.parametrize("count", [b"2147483647", b"-1", b"0"])
def test_sphere_of_unknown_length(samples, tmp_path, count):
    path = tmp_path / "a.sph"
    soundfile.write(path, samples, RATE, format="NIST")
    head, tail = path.read_bytes()[:1024], path.read_bytes()[1024:]
    head = re.sub(rb"(?<=sample_count -i )\d+", count, head).ljust(1024)[:1024]
    path.write_bytes(head + tail)
    assert seconds_of(path) == SECONDS and not read_header(path).cut


def test_flac_of_unknown_length(samples, tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # the number of samples
    path.write_bytes(content)
    assert seconds_of(path) == SECONDS
    row = {"wav": str(path), "start": 70_001, "stop": 90_000, "duration": 1.0}
    np.testing.assert_allclose(read_audio(row, RATE), samples[70_001:90_000], atol=1e-4)


def test_gsm_in_which_nothing_can_be_looked_for(samples, tmp_path):
    soundfile.write(tmp_path / "a.wav", samples[::6], 8000, subtype="GSM610")
    assert seconds_of(tmp_path / "a.wav") == pytest.approx(SECONDS, abs=0.05)


# ------------------------------------------------------- what libsndfile does not know


needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg")


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["adts", "ipod"])
def test_aac_called_mp3(samples, tmp_path, kind):
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    command = f"ffmpeg -v error -i a.wav -c:a aac -f {kind} a.mp3"
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    assert seconds_of(tmp_path / "a.mp3") == pytest.approx(SECONDS, abs=0.1)


def test_ctrl_c_does_not_reach_ffmpeg(tmp_path, monkeypatch):
    """It goes to the whole process group, of which ffmpeg is not one."""
    program, path = tmp_path / "ffmpeg", tmp_path / "a.mp3"
    program.write_text("#!/bin/sh\nps -o pgid= -p $$ >&2; exit 1\n")
    program.chmod(0o755)
    path.write_bytes(b"\xff\xf1\x4c\x80" * 99)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BadAudio, match=r"ffmpeg: +\d+$") as error:
        AudioFile(path)
    assert int(str(error.value).split()[-1]) != os.getpgrp()


@pytest.mark.parametrize(
    "content", [b"\xff\xf1\x4c\x80" * 99, bytes(4) + b"ftypM4A "], ids=["AAC", "MP4"]
)
def test_without_ffmpeg(tmp_path, monkeypatch, content):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    assert read_header(path).problem == "unreadable"
    with pytest.raises(
        BadAudio, match="a.mp3: AAC, MP4 or WebM needs the program ffmpeg"
    ):
        AudioFile(path)


def test_reasons_have_the_same_words_everywhere(mp3, tmp_path):
    """Those of prepare scripts, of training, and of commands that take recordings."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE)
    soundfile.write(tmp_path / "whole.flac", noise, RATE)
    flac = (tmp_path / "whole.flac").read_bytes()
    contents = {
        "empty.wav": (b"", "empty"),
        "noise.mp3": (b"hello" * 100, "unreadable"),
        "noise.wav": (b"hello" * 100, "unreadable"),
        "cut.flac": (flac[: len(flac) // 2], "cut short"),
        "none.wav": (None, "no such file"),
    }
    for name, (content, words) in contents.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        assert read_header(path).problem == words
        row = {"wav": str(path), **WHOLE}
        for read in (lambda r: read_audio(r, RATE), lambda r: [*stream(r, RATE)]):
            with pytest.raises(BadAudio, match=f"^{path}: {words}"):
                read(row)

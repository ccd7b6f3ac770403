"""Transcription gives what the evaluation gave, for any kind and length of input."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR

from hetero_brain.__main__ import main
from hetero_brain.data import manifest, streaming
from hetero_brain.data.audio import BadAudio, read_audio
from hetero_brain.data.recordings import Recordings, row_of
from hetero_brain.data.resampling import ratio, resampler
from hetero_brain.data.streaming import (
    Window,
    Windows,
    batches,
    padded,
    resampled,
    stream,
)
from hetero_brain.errors import InputError
from hetero_brain.models.conformer import linear_head
from hetero_brain.pipelines import finetuning
from hetero_brain.recognition import recogniser as recogniser_module
from hetero_brain.recognition import transcription
from hetero_brain.recognition.error_rates import describe
from hetero_brain.recognition.recogniser import load_recogniser
from hetero_brain.recognition.timing import (
    BeamWords,
    GreedyWords,
    likely_pause,
    segments,
    timed,
)
from hetero_brain.recognition.transcription import recognised, transcribe
from hetero_brain.recognition.writers import srt
from tests.processes import python
from tests.unit.trained import BESTRQ, finetuned, pretrained

RATE, FRAME = 8000, 320  # of the models: 40 ms a frame
YAMLS = "VoicePrompts/finetune/hparams"


@pytest.fixture(scope="module")
def ten(sample, tmp_path_factory):
    """A manifest of the ten shortest transcribed Spanish prompts of the sample."""
    train = sample("train", ["es"])
    order = sorted(range(len(train)), key=lambda i: train.duration[i])
    rows = [train[i] for i in order if " " in train[i]["wrd"]][:10]
    path = tmp_path_factory.mktemp("ten") / "ten.csv"
    manifest.write(path, rows)
    return manifest.read(path)


def loud_head(encoder, n_outputs):
    """A layer whose best output changes from frame to frame; often, it is the blank."""
    head = linear_head(encoder.d_model, n_outputs)
    with torch.no_grad():
        head.weight.mul_(8)
        head.bias[-1] += 4
    return head


@pytest.fixture(scope="module")
def runs(ten, tmp_path_factory):
    """runs(kind) → the folder of a recogniser that says a lot, and its evaluation."""
    words = "--size mini --lr 0"
    kinds = {
        "ctc": ("ctc.yaml", f"{words} --unit unigram --vocab_size 30"),
        "ctc, beam": ("ctc.yaml", f"{words} --beam_size 4"),
        "attention": (
            "attention.yaml",
            f"{words} --beam_size 2 --max_decode_ratio 0.2",
        ),
    }
    done = {}

    def run(kind):
        if kind not in done:
            yaml, options = kinds[kind]
            heard, folder = [], tmp_path_factory.mktemp(kind.replace(", ", "_"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(finetuning, "make_head", loud_head)
                finetuned(f"{YAMLS}/{yaml}", options, folder, ten, heard)
            done[kind] = folder, heard
        return done[kind]

    return run


@pytest.fixture(scope="module")
def recogniser(runs):
    return load_recogniser(runs("ctc")[0])


def test_a_text_has_single_spaces(recogniser):
    space, *letters = recogniser.tokenizer.piece_to_id(["▁", "a", "o"])
    ids = [space, letters[0], space, space, letters[1], space]
    assert "  " in recogniser.tokenizer.decode(ids)
    assert recogniser.text(ids) == "a o"


@pytest.fixture(scope="module")
def speech(ten):
    """All ten prompts, one after another: half a minute."""
    return torch.cat([read_audio(row, RATE) for row in ten])


@pytest.fixture
def talk(speech, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, speech.numpy(), RATE, subtype="FLOAT")
    return path


def command(capsys, *words):
    """The exit code of a transcription, its lines of JSON by ID, and its stderr."""
    capsys.readouterr()
    code = main(["transcribe", *map(str, words)])
    out, told = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    return code, {line["id"]: line for line in lines}, told


def normal(text):
    return " ".join(text.split())


def in_centres(model, samples, seconds):
    """What is heard in windows, put together at their centres: as in the README."""
    sixth = round(seconds * RATE / FRAME / 6)  # in frames
    size, starts = 6 * sixth * FRAME, [0]
    while starts[-1] + size < len(samples):
        starts.append(starts[-1] + 4 * sixth * FRAME)
    parts = []
    for start in starts:
        log_probs, _ = model.log_probs(samples[None, start : start + size])
        first = sixth if start else 0
        end = len(log_probs[0]) if start == starts[-1] else 5 * sixth
        parts.append(log_probs[0, first:end])
    return torch.cat(parts), len(starts)


# -------------------------------------------------------------------- as evaluated


@pytest.mark.parametrize(
    "kind, batch_seconds",
    # The longest output of SpeechBrain's search depends on the batch.
    [("ctc", 1), ("ctc", 60), ("ctc, beam", 1), ("ctc, beam", 60), ("attention", 60)],
)
def test_a_manifest_gives_what_the_evaluation_gave(
    kind, batch_seconds, runs, ten, capsys
):
    run, _ = runs(kind)
    evaluated = json.loads((run / "dev.json").read_text("utf-8"))
    words = "--manifest", ten.path, "--batch_seconds", batch_seconds
    code, found, told = command(capsys, run / "model", *words)
    assert code == 0
    texts = {key: one["text"] for key, one in found.items()}
    assert texts == {one["id"]: one["hypothesis"] for one in evaluated}
    assert all(len(text) > 3 for text in texts.values())
    assert [*found] == [row["ID"] for row in ten]
    assert describe(evaluated) in told and "10 recordings, 0.0" in told


def test_posteriors_are_those_of_the_evaluation(runs, recogniser, ten):
    _, heard = runs("ctc")
    cut = Windows(RATE, FRAME, 30)
    found = {
        window.row["ID"]: recognised(recogniser, [window])[0] for window in cut.of(ten)
    }
    for _, _, (expected, lengths), ids in heard:
        for key, log_probs, n in zip(ids, expected, lengths):
            torch.testing.assert_close(found[key], log_probs[:n], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ctc", "ctc, beam", "attention"])
def test_a_file_gives_what_speechbrain_gives(kind, runs, ten, capsys):
    run, _ = runs(kind)
    interface = EncoderDecoderASR if kind == "attention" else EncoderASR
    theirs = interface.from_hparams(source=str(run / "model"))
    path = ten[3]["wav"]
    code, found, told = command(capsys, run, path)
    assert code == 0 and "CER" not in told
    assert found[path]["text"] == normal(theirs.transcribe_file(path))
    assert found[path]["seconds"] == pytest.approx(soundfile.info(path).duration, 0.01)


# ------------------------------------------------------------------- long recordings


@pytest.mark.parametrize("seconds", [3, 4.8, 10, 30])
@pytest.mark.parametrize("batch_seconds", [1, 20])
def test_windows_are_joined_at_their_centres(
    seconds, batch_seconds, recogniser, speech, talk
):
    log_probs, n_windows = in_centres(recogniser, speech, seconds)
    assert len(log_probs) == len(speech) // FRAME + 1
    assert n_windows == (1 if len(speech) <= seconds * RATE else n_windows)
    ids = ctc_greedy_decode(log_probs[None], torch.ones(1), len(recogniser.tokenizer))
    rows = Recordings([row_of(str(talk))])
    ((_, found),) = transcribe(recogniser, rows, seconds, batch_seconds)
    assert found["text"] == normal(recogniser.text(ids[0]))
    assert found["seconds"] == len(speech) / RATE


def test_a_centre_depends_on_its_context_alone(recogniser, speech):
    """The samples of a frame that is kept are in the middle of its window."""
    cut = Windows(RATE, FRAME, 4.8)
    windows = [
        Window({}, speech[start : start + cut.size], start, False)
        for start in (0, cut.size - 2 * cut.context)
    ]
    kept = [cut.kept(window, 121) for window in windows]
    assert kept == [(0, 100), (20, 100)]
    assert cut.size == 120 * FRAME and cut.context == 20 * FRAME


def test_a_beam_search_begins_anew_behind_pauses(runs):
    recogniser = load_recogniser(runs("ctc, beam")[0])
    blank, generator = len(recogniser.tokenizer), torch.Generator().manual_seed(0)
    logits = torch.randn(300, blank + 1, generator=generator) * 4
    for pause in (70, 160, 230):
        logits[pause : pause + 9] = -50
        logits[pause : pause + 9, blank] = 50
    log_probs = logits.log_softmax(1)
    assert likely_pause(log_probs[:100, blank]) == 74
    expected, start = [], 0
    for end in (74, 164, 234, 300):  # within 100 frames of each other
        best = recogniser.search(log_probs[None, start:end])[0][0]
        expected.append(best.text)
        start = end
    whole, pieces = (BeamWords(recogniser, longest) for longest in (300, 100))
    for i in range(0, 300, 50):
        whole.add(log_probs[i : i + 50])
        pieces.add(log_probs[i : i + 50])
        assert len(pieces.held) <= 100
    texts, times = zip(*((text, times) for text, *times in pieces.words()))
    assert " ".join(texts) == normal(" ".join(expected))
    flat = [frame for pair in times for frame in pair]
    assert flat == sorted(flat) and 0 <= flat[0] and flat[-1] <= 300
    texts = [text for text, *_ in whole.words()]
    assert " ".join(texts) == normal(recogniser.search(log_probs[None])[0][0].text)


def test_an_attention_model_hears_what_is_between_pauses(runs, ten, tmp_path):
    recogniser = load_recogniser(runs("attention")[0])
    prompts = [read_audio(row, RATE) for row in ten][-4:]
    gap = torch.zeros(RATE // 2)
    parts = [torch.cat([gap, prompt, gap]) for prompt in prompts]
    soundfile.write(tmp_path / "a.wav", torch.cat(parts).numpy(), RATE, "FLOAT")
    longest = max(len(part) for part in parts) / RATE
    rows = Recordings([row_of(str(tmp_path / "a.wav"))])
    ((_, found),) = transcribe(recogniser, rows, 1.5 * longest, batch_seconds=1)
    ends = np.cumsum([len(part) for part in parts]) / RATE
    heard = found["segments"]
    assert len(heard) >= 2 and "words" not in found
    assert heard[0]["start"] == 0 and heard[-1]["end"] == ends[-1]
    for one, next_one in zip(heard, heard[1:]):
        assert one["end"] == next_one["start"]
        assert min(abs(ends - one["end"])) < 0.5  # in the silence between two prompts
    samples = torch.cat(parts)
    for one in heard:
        audio = samples[round(one["start"] * RATE) : round(one["end"] * RATE)]
        assert one["text"] == normal(recogniser.transcribe(audio[None])[0])
    assert found["text"] == " ".join(one["text"] for one in heard)


HOUR = """
import resource, sys
from hetero_brain.__main__ import main
assert main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_an_hour_takes_little_memory(runs, recogniser, speech, tmp_path):
    """All windows but the first and the last are alike: what is kept of each is 20 s, and
    the recording repeats itself after 20 s."""
    path, out = tmp_path / "hour.wav", tmp_path / "hour.txt"
    block = speech.repeat(3)[: 20 * RATE]
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(180):
            file.write(block.numpy())
    words = [
        "transcribe",
        runs("ctc")[0],
        path,
        "--output",
        "txt",
        "--output_file",
        out,
    ]
    done = subprocess.run(
        [python(), "-c", HOUR, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1500
    assert "1 recording, 1.00 h" in done.stderr and "× real time" in done.stderr
    samples, _ = soundfile.read(path, 80 * RATE, dtype="float32")
    few, n_windows = in_centres(recogniser, torch.from_numpy(samples), 30)
    assert n_windows == 4  # from 0, 20, 40 and 60 s on; kept from 0, 25, 45 and 65 s on
    first, middle, last = few[:625], few[625:1125], few[1625:]
    log_probs = torch.cat([first, *[middle] * 178, last])
    assert len(log_probs) == 3600 * RATE // FRAME + 1
    ids = ctc_greedy_decode(log_probs[None], torch.ones(1), len(recogniser.tokenizer))
    assert out.read_text("utf-8") == normal(recogniser.text(ids[0])) + "\n"


# ---------------------------------------------------------------------------- streams


@pytest.mark.parametrize("before", [8000, 11025, 44100, 48000, 7990])
@pytest.mark.parametrize("length", [1, 5, 700, 12345])
def test_a_stream_is_resampled_as_a_whole_would_be(before, length):
    generator = torch.Generator().manual_seed(length)
    samples = torch.randn(length, generator=generator)
    expected = torchaudio.functional.resample(samples, before, RATE)
    for size in (999, 5000):
        found = torch.cat([*resampled(samples.split(size), before, RATE)])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
@pytest.mark.parametrize("rate", [RATE, 16000])
def test_a_stream_is_what_is_read_as_a_whole(name, rate, speech, tmp_path):
    path = tmp_path / name
    stereo = torch.stack([speech, speech.flip(0)], 1)
    stereo = torchaudio.functional.resample(stereo.T, RATE, rate).T
    soundfile.write(path, stereo.numpy(), rate)
    row = row_of(str(path))
    whole = read_audio({**row, "duration": len(speech) / RATE}, RATE)
    blocks = [*stream(row, RATE)]
    assert max(map(len, blocks)) <= 6 * RATE < len(speech)
    found = torch.cat(blocks)
    torch.testing.assert_close(found[: len(whole)], whole, atol=1e-5, rtol=1e-5)
    part = {**row, "start": rate, "stop": 4 * rate, "duration": 3.0, "channel": 1}
    found = torch.cat([*stream(part, RATE)])
    torch.testing.assert_close(found, read_audio(part, RATE), atol=1e-5, rtol=1e-5)
    assert len(found) == 3 * RATE


def test_what_cannot_be_streamed_is_said(speech, talk, tmp_path):
    row = row_of(str(talk))
    for wrong, said in [
        ({"wav": str(tmp_path / "none.wav")}, "no such file"),
        ({"duration": 100.0}, "samples where the manifest has 800000"),
        ({"start": 0, "stop": 900000, "duration": 1.0}, "the manifest has 900000"),
        ({"channel": 1}, "no channel 1"),
    ]:
        with pytest.raises(BadAudio, match=said):
            list(stream({**row, **wrong}, RATE))
    samples = speech.numpy().copy()
    samples[-5] = np.nan
    soundfile.write(talk, samples, RATE, subtype="FLOAT")
    with pytest.raises(BadAudio, match="not finite"):
        list(stream(row, RATE))
    soundfile.write(talk, samples[:0], RATE)
    with pytest.raises(BadAudio, match=": empty"):
        list(stream(row, RATE))


def test_batches_hold_no_more_than_they_may(speech, talk):
    cut = Windows(RATE, FRAME, 3)
    rows = [row_of(str(talk))] * 2
    for seconds, most in ((1, 1), (7, 2), (12.5, 4)):
        found = [*batches(cut.of(rows), RATE, seconds)]
        sizes = [len(batch) for batch in found]
        assert max(sizes) == most
        assert sum(sizes) == len([*cut.of(rows)])
        assert all(padded(b)[0].numel() <= seconds * RATE for b in found if len(b) > 1)


@pytest.mark.parametrize("before, after", [(44101, 16000), (11127, 8000)])
def test_an_odd_rate_takes_little_memory(before, after):
    """torchaudio's filter would have as many values as the product of the rates."""
    wave = (440 * 2 * torch.pi * torch.arange(3 * before) / before).sin()
    wanted = (440 * 2 * torch.pi * torch.arange(3 * after) / after).sin()
    whole = resampler(before, after)(wave)
    blocks = torch.cat([*resampled(wave.split(9999), before, after)])
    for found in (whole, blocks):
        assert abs(len(found) - len(wanted)) <= 1
        middle = slice(after, 2 * after)
        torch.testing.assert_close(found[middle], wanted[middle], atol=0.02, rtol=0)
    assert resampler(before, after).kernel.numel() < 1e7
    assert ratio(1, 8000) == (1, 8000)


# ----------------------------------------------------------------------------- inputs


def test_every_kind_of_input(runs, ten, tmp_path, capsys, monkeypatch):
    run, _ = runs("ctc")
    sound = read_audio(ten[0], RATE).numpy()
    (tmp_path / "in/deep").mkdir(parents=True)
    names = ["in/a.wav", "in/deep/b.FLAC", "in/c.ogg"]
    for name in names:
        soundfile.write(tmp_path / name, sound, RATE)
    (tmp_path / "in/readme.txt").touch()
    monkeypatch.chdir(tmp_path)

    def ids(*words):
        code, found, _ = command(capsys, run, *words)
        assert code == 0
        assert all(len(one["text"]) > 3 for one in found.values())
        return [*found]

    assert ids("in/a.wav") == names[:1]
    assert ids("in") == ["in/a.wav", "in/c.ogg", "in/deep/b.FLAC"]
    assert ids("in/?.???") == ["in/a.wav", "in/c.ogg"]
    assert ids("in/**/*.[wF]*", "in/c.ogg") == [*names[:2], names[2]]
    monkeypatch.setattr(sys, "stdin", io.StringIO("in/c.ogg\n\nin/deep\n"))
    assert ids("in/a.wav", "-") == ["in/a.wav", "in/c.ogg", "in/deep/b.FLAC"]
    rows = [row["ID"] for row in ten]
    assert ids("in/a.wav", "--manifest", ten.path) == ["in/a.wav", *rows]


def test_stereo_is_averaged_or_taken_apart(runs, ten, tmp_path, capsys):
    run, _ = runs("ctc")
    one, two = (read_audio(row, RATE)[:6000].numpy() for row in ten.subset([4, 5]))
    parts = {"one": one, "two": two, "mean": (one + two) / 2}
    for name, sound in parts.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
    both = tmp_path / "both.wav"
    soundfile.write(both, np.stack([one, two], 1), RATE, subtype="FLOAT")
    _, found, _ = command(capsys, run, *(tmp_path / f"{name}.wav" for name in parts))
    text = {name: found[str(tmp_path / f"{name}.wav")]["text"] for name in parts}
    assert len({*text.values()}) == 3
    _, mixed, _ = command(capsys, run, both)
    assert mixed[str(both)]["text"] == text["mean"]
    _, apart, _ = command(capsys, run, both, tmp_path / "one.wav", "--channels", "each")
    assert {key: one["text"] for key, one in apart.items()} == {
        f"{both}:0": text["one"],
        f"{both}:1": text["two"],
        str(tmp_path / "one.wav"): text["one"],
    }


def test_what_cannot_be_read_does_not_stop_the_others(runs, ten, tmp_path, capsys):
    run, _ = runs("ctc")
    paths = [tmp_path / name for name in ("a.wav", "bad.wav", "none.wav", "b.wav")]
    for path in (paths[0], paths[3]):
        soundfile.write(path, read_audio(ten[2], RATE).numpy(), RATE)
    paths[1].write_bytes(b"RIFF of nothing")
    code, found, told = command(capsys, run, *paths)
    assert code == 1
    assert [*found] == [str(paths[0]), str(paths[3])]
    assert found[str(paths[0])]["text"] == found[str(paths[3])]["text"] != ""
    assert f"{paths[1]}: " in told and f"{paths[2]}: " in told
    assert "2 recordings" in told and "2 could not be read" in told


def test_a_file_that_breaks_off_is_left_out(recogniser, talk, monkeypatch):
    """Whatever was heard before the error does not go into the next recording."""
    rows, whole = Recordings([row_of(str(talk))] * 2), streaming.stream
    ((_, alone),) = transcribe(recogniser, Recordings(rows.files[:1]), 3, 7)
    calls = []

    def breaks_off(row, rate):
        calls.append(row)
        for i, block in enumerate(whole(row, rate)):
            if len(calls) == 1 and i == 2:
                raise BadAudio("broken")
            yield block

    monkeypatch.setattr(streaming, "stream", breaks_off)
    ((_, found),) = transcribe(recogniser, rows, 3, 7)
    assert found == alone


def test_wrong_words_are_refused_before_anything_is_heard(runs, tmp_path, ten):
    run, _ = runs("ctc")
    attention = runs("attention")[0]
    sound = ten[0]["wav"]
    (tmp_path / "empty").mkdir()
    for words, said in [
        ((run,), "no recordings: give files"),
        ((run, tmp_path / "*.wav"), r"\*.wav: no such files"),
        ((run, tmp_path / "empty"), "empty: no audio files"),
        ((run, "--manifest", tmp_path / "none.csv"), "none.csv: no such file"),
        ((run, sound, "--output_file", tmp_path / "no/a"), "no folder .*no"),
        ((run, sound, "--output_file", tmp_path), "is a folder"),
        ((run, sound, sound, "--output", "srt"), "cannot share a file of subtitles"),
        ((run, sound, "--device", "cuda:99"), "--device cuda:99 cannot be used"),
        ((run, sound, "--device", "gpu"), "--device gpu cannot be used"),
        ((attention, sound, "--beam_size", "0"), "needs a beam_size from 1"),
        ((run, sound, "--beam_size", "-1"), "beam_size: -1 is not 1 or more"),
        ((attention, sound, "--lm", sound), "takes no language model"),
        ((run, sound, "--lm", sound), "needs a beam search"),
        ((run, sound, "--lm", "no.arpa", "--beam_size", "4"), "no such file"),
        ((tmp_path, sound), "no model"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(["transcribe", *map(str, words)])
        assert re.search(said, end.value.code), (said, end.value.code)


def test_an_encoder_does_not_transcribe(ten, tmp_path):
    folder, _ = pretrained(BESTRQ, "--codebook_size 16", tmp_path, ten)
    with pytest.raises(SystemExit, match="an encoder, not a recogniser; fine-tune it"):
        main(["transcribe", str(folder / "model"), ten[0]["wav"]])


# ---------------------------------------------------------------------------- outputs


def test_words_of_the_best_path_are_those_of_the_tokenizer(recogniser):
    tokenizer, generator = recogniser.tokenizer, torch.Generator().manual_seed(3)
    blank, seen = len(tokenizer), 0
    for _ in range(20):
        ids = torch.randint(blank + 1, (90,), generator=generator)
        ids = ids.repeat_interleave(torch.randint(1, 4, (90,), generator=generator))
        log_probs = torch.nn.functional.one_hot(ids, blank + 1).float()
        words = GreedyWords(recogniser)
        for part in log_probs.split(17):
            words.add(part)
        found = words.words()
        collapsed = ctc_greedy_decode(log_probs[None], torch.ones(1), blank)[0]
        assert [text for text, *_ in found] == recogniser.text(collapsed).split()
        seen += sum("⁇" in text for text, *_ in found)
        assert all(a < b for _, a, b in found)
        assert all(x[2] <= y[1] for x, y in zip(found, found[1:]))
    assert seen


def test_times_are_where_units_are(recogniser):
    tokenizer = recogniser.tokenizer
    blank = len(tokenizer)
    a, space = (tokenizer.piece_to_id(piece) for piece in ("a", "\u2581"))
    ids = [blank] * 5 + [a] * 2 + [blank] + [space, a] + [blank] * 30 + [space, a, a]
    words = GreedyWords(recogniser)
    words.add(torch.nn.functional.one_hot(torch.tensor(ids), blank + 1))
    assert words.words() == [["a", 5, 7], ["a", 9, 10], ["a", 41, 43]]
    found = segments(timed(words.words(), 0.04))
    assert [one["text"] for one in found] == ["a a", "a"]
    assert found[0]["start"] == pytest.approx(0.2)
    assert found[0]["end"] == pytest.approx(0.4)
    text = srt({"segments": found})
    assert text == (
        "1\n00:00:00,200 --> 00:00:00,400\na a\n\n2\n00:00:01,640 --> 00:00:01,720\na\n"
    )


def test_a_segment_ends_where_it_is_long_enough():
    words = timed([["la", i, i + 1] for i in range(400)], 0.04)
    found = segments(words)
    assert [len(one["text"].split()) for one in found] == [175, 175, 50]


def test_every_kind_of_output(runs, ten, tmp_path, capsys):
    run, _ = runs("ctc")
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], read_audio(ten[i], RATE).numpy(), RATE)
    _, found, _ = command(capsys, run, *paths)

    def output(kind, *more):
        words = [*paths, "--output", kind, "--output_file", tmp_path / "out"]
        assert command(capsys, run, *words, *more)[:2] == (0, {})
        return (tmp_path / "out").read_text("utf-8")

    lines = [json.loads(line) for line in output("jsonl").splitlines()]
    assert lines == [*found.values()]
    for one in lines:
        assert [*one] == ["id", "seconds", "text", "segments", "words"]
        assert " ".join(word["text"] for word in one["words"]) == one["text"]
        assert all(
            0 <= w["start"] < w["end"] <= one["seconds"] + 0.04 for w in one["words"]
        )
    assert output("txt") == "".join(f"{one['text']}\n" for one in lines)
    for line in output("tsv").splitlines():
        key, start, end, text = line.split("\t")
        times = {"start": float(start), "end": float(end), "text": text}
        assert times in found[key]["segments"]
    (tmp_path / "subtitles").mkdir()
    words = [*paths, "--output", "srt", "--output_file", tmp_path / "subtitles"]
    assert command(capsys, run, *words)[0] == 0
    names = sorted(path.name for path in (tmp_path / "subtitles").iterdir())
    assert names == ["0.srt", "1.srt"]
    for name, one in zip(names, lines):
        assert (tmp_path / "subtitles" / name).read_text("utf-8") == srt(one)


def test_an_output_file_is_replaced_when_it_is_whole(
    runs, ten, tmp_path, monkeypatch, capsys
):
    run, out = runs("ctc")[0], tmp_path / "out.txt"
    out.write_text("old")
    whole = transcription.transcribe

    def killed(*args):
        yield next(iter(whole(*args)))
        assert out.read_text() == "old"
        raise KeyboardInterrupt

    words = ["transcribe", str(run), "--manifest", ten.path, "--output", "txt"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transcription, "transcribe", killed)
        main([*words, "--output_file", str(out)])
    assert out.read_text() == "old"
    assert main([*words, "--output_file", str(out)]) == 0
    assert out.read_text().count("\n") == 10
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_whoever_reads_may_stop_reading(runs, ten):
    """As ``head`` does: no traceback, and the exit code of a program that is told so."""
    words = [python(), "-m", "hetero_brain", "transcribe", runs("ctc")[0]]
    words += ["--manifest", ten.path, "--batch_seconds", 1]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*map(str, words)], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 128 + signal.SIGPIPE
    assert "Broken pipe" not in done.stderr and "Traceback" not in done.stderr


def test_a_terminal_sees_how_fast_it_is(runs, talk, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, _, told = command(capsys, runs("ctc")[0], talk, "--window_seconds", 3)
    assert code == 0
    assert re.search(r"100 % \|█+\| 00:0\d<00:00, [\d.]+ × real time", told)
    assert told.splitlines()[-1].startswith("1 recording, 0.00 h, ")


def test_a_terminal_sees_that_an_attention_model_searches(
    runs, talk, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("hetero_brain.data.progress.SHOWN_SECONDS", 0)
    code, _, told = command(capsys, runs("attention")[0], talk, "--window_seconds", 3)
    assert code == 0
    assert re.search(r"0 % \|.*searching, 2 tokens", told)


@pytest.mark.parametrize("name", ["transcribe", "features"])
def test_help_says_what_exit_codes_mean(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "1 if some recordings could not be read" in told


@pytest.mark.parametrize(
    "words, search",
    [
        ("", {}),
        ("--beam_size 0", {"beam_size": None}),
        (
            "--beam_size 9 --lm a.arpa --lm_alpha 2",
            {"beam_size": 9, "lm": "a.arpa", "lm_alpha": 2, "lm_beta": 1.5},
        ),
    ],
)
def test_a_search_can_be_asked_for(words, search, runs, ten, monkeypatch):
    asked = []

    def load(folder, device, **search):
        asked.append(search)
        raise InputError("enough")

    monkeypatch.setattr(recogniser_module, "load_recogniser", load)
    with pytest.raises(SystemExit, match="enough"):
        main(["transcribe", "model", ten[0]["wav"], *words.split()])
    assert asked == [search]


def test_greedy_search_and_beams(runs, ten):
    """The keys of a search reach it."""
    run, wavs = runs("ctc, beam")[0], read_audio(ten[5], RATE)[None]
    greedy, beam = (load_recogniser(run, beam_size=size) for size in (None, 7))
    assert greedy.search is None and beam.search.beam_size == 7
    rows = Recordings([row_of(ten[5]["wav"])])
    for one in (greedy, beam):
        ((_, found),) = transcribe(one, rows)
        assert found["text"] == normal(one.transcribe(wavs)[0])


def test_another_search_of_an_encoder_decoder(runs):
    with pytest.raises(InputError, match="beam_size from 1"):
        load_recogniser(runs("attention")[0], beam_size=None)

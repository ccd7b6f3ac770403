"""Preparing VoicePrompts, on the shipped sample and on what can be wrong."""

import gzip
import importlib.util
import logging
import shutil
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hetero_brain.data import manifest
from tests.recipes import corpora_fixtures as fixtures

RECIPE = Path(__file__).parents[2] / "recipes/VoicePrompts"
SAMPLE = RECIPE / "sample"
LANGUAGES = ("en", "es", "fr")

spec = importlib.util.spec_from_file_location(
    "voice_prompts_prepare", RECIPE / "voice_prompts_prepare.py"
)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)
prompt_text = sys.modules["prompt_text"]


def read(save_folder, data_folder):
    """{ID: row, with its split} of all three manifests, files checked."""
    return {
        row["ID"]: {**row, "split": split}
        for split in ("train", "dev", "test")
        for row in manifest.read(save_folder / f"{split}.csv", data_folder)
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What prepare returns for the sample, and the rows it writes."""
    folder = tmp_path_factory.mktemp("sample")
    summary = prepare.prepare_voice_prompts(SAMPLE, folder, LANGUAGES)
    assert sorted(p.name for p in folder.iterdir()) == [
        "dev.csv",
        "test.csv",
        "train.csv",
    ]
    return summary, read(folder, SAMPLE)


@pytest.fixture
def corpus(tmp_path):
    """An English corpus of three good prompts, one a split, to be spoiled."""
    folder = tmp_path / "data"
    (folder / "en").mkdir(parents=True)
    for name in ("hello-world", "vm-changeto", "vm-sorry"):
        samples, rate = soundfile.read(SAMPLE / f"en/{name}.flac", dtype="int16")
        soundfile.write(folder / f"en/{name}.wav", samples, rate)
    shutil.copy(SAMPLE / "en/core-sounds-en.txt", folder / "en")
    return folder


def debian_layout(root):
    """The sample, as Debian packages unpack it: WAV, and gzipped transcripts."""
    for language in LANGUAGES:
        sounds = root / "usr/share/asterisk/sounds" / prepare.VOICES[language]
        for path in (SAMPLE / language).rglob("*.flac"):
            wav = sounds / path.relative_to(SAMPLE / language).with_suffix(".wav")
            wav.parent.mkdir(parents=True, exist_ok=True)
            samples, rate = soundfile.read(path, dtype="int16")
            soundfile.write(wav, samples, rate)
        name = f"core-sounds-{language}.txt"
        doc = root / "usr/share/doc" / f"asterisk-core-sounds-{language}"
        doc.mkdir(parents=True)
        text = (SAMPLE / language / name).read_bytes()
        (doc / f"{name}.gz").write_bytes(gzip.compress(text))
    return root


def by_language(reasons):
    """{language: {reason: number}}, summed over splits."""
    sums = {}
    for (language, _), counter in reasons.items():
        sums[language] = sums.get(language, Counter()) + counter
    return sums


def test_sample(prepared):
    summary, rows = prepared
    assert by_language(summary.left_out) == {
        language: {"silence": 1, "sound effect": 2} for language in LANGUAGES
    }
    beep = prepare.split_of("beep")
    assert summary.left_out["en", beep]["sound effect"] > 0
    assert by_language(summary.without_transcript) == {
        "en": {"digits": 1, "spelled letters": 1},
        "es": {
            "digits": 1,
            "no transcript": 1,
            "spelled letters": 1,
            "two transcripts": 1,
            "words in brackets": 1,
        },
        "fr": {
            "digits": 1,
            "no transcript": 1,
            "spelled letters": 1,
            "words in brackets": 1,
        },
    }
    files = {
        f"{language}/{path.relative_to(SAMPLE / language).with_suffix('')}"
        for language in LANGUAGES
        for path in (SAMPLE / language).rglob("*.flac")
    }
    gone = {
        f"{language}/{name}"
        for language in LANGUAGES
        for name in ("silence/1", "beep", "confbridge-join")
    }
    assert set(rows) == files - gone
    assert rows["en/conf-hasleft"]["wrd"] == "has left the conference"
    assert rows["es/vm-passchanged"]["wrd"] == "sus contrasenas han sido cambiadas"
    assert rows["fr/vm-sorry"]["spk_id"] == "fr_CA_f_June"


def test_rows_tell_the_truth(prepared):
    summary, rows = prepared
    for id_, row in rows.items():
        info = soundfile.info(row["wav"])
        assert row["duration"] == pytest.approx(info.frames / info.samplerate, abs=1e-4)
        assert id_.startswith(row["domain"] + "/") and id_[3:] in row["wav"]
    for (language, split), n in summary.totals.items():
        ours = [
            row
            for row in rows.values()
            if (row["domain"], row["split"]) == (language, split)
        ]
        assert n.utterances == len(ours) > 0
        assert n.transcribed == sum(row["wrd"] != "" for row in ours) > 0
        seconds = sum(row["duration"] for row in ours)
        assert n.seconds == pytest.approx(seconds, abs=0.1)
    assert len(summary.totals) == 9


def test_a_prompt_is_in_one_split(prepared):
    _, rows = prepared
    splits = {}
    for id_, row in rows.items():
        splits.setdefault(id_.partition("/")[2], set()).add(row["split"])
    assert all(len(of_prompt) == 1 for of_prompt in splits.values())
    assert {split for (split,) in splits.values()} == {"train", "dev", "test"}
    assert len(splits) < len(rows) / 2  # so that there is something to see


def test_splits_are_stable():
    names = ["conf-muted", "letters/a", "tt-weasels", "vm-sorry"]
    assert [prepare.split_of(n) for n in names] == ["train", "train", "dev", "test"]
    counts = Counter(prepare.split_of(f"prompt {i}") for i in range(10_000))
    assert counts["train"] == pytest.approx(7000, abs=150)
    assert counts["dev"] == pytest.approx(1500, abs=120)
    for stem in ("mute", "lock", "inc-talk-vol", "leave", "menu-exit", "minutes"):
        variants = [f"confbridge-{stem}-in", f"confbridge-{stem}-out", f"vm-{stem}"]
        assert {prepare.split_of(name) for name in variants} == {prepare.split_of(stem)}


def test_debian_layout_gives_the_same(prepared, tmp_path):
    root = debian_layout(tmp_path / "root")
    summary = prepare.prepare_voice_prompts(root, tmp_path / "save", LANGUAGES)
    assert summary.table() == prepared[0].table()
    rows = read(tmp_path / "save", root)
    assert rows["es/vm-sorry"]["wav"] == (
        f"{root}/usr/share/asterisk/sounds/es_MX_f_Allison/vm-sorry.wav"
    )
    assert {id_: {**row, "wav": ""} for id_, row in rows.items()} == {
        id_: {**row, "wav": ""} for id_, row in prepared[1].items()
    }


def test_missing_data_is_listed(tmp_path):
    root = debian_layout(tmp_path / "root")
    shutil.rmtree(root / "usr/share/asterisk/sounds/es_MX_f_Allison")
    (root / "usr/share/doc/asterisk-core-sounds-fr/core-sounds-fr.txt.gz").unlink()
    with pytest.raises(FileNotFoundError) as error:
        prepare.prepare_voice_prompts(root, tmp_path / "save", ("en", "es", "fr", "it"))
    told = str(error.value)
    lines = [line for line in told.splitlines() if line.startswith("  ")]
    for line, start in zip(
        lines,
        ("es: no audio", "fr: no transcript", "it: no audio", "it: no transcript"),
        strict=True,
    ):
        assert line.startswith(f"  {start}")
    assert f"{root}/usr/share/asterisk/sounds/es_MX_f_Allison or {root}/es" in told
    assert f"{root}/fr/core-sounds-fr.txt" in told
    assert "asterisk-core-sounds-XX-wav" in told and "current.tar.gz" in told
    assert not (tmp_path / "save").exists()


@pytest.mark.parametrize("languages", [("en", "de"), ()])
def test_unknown_language(tmp_path, languages):
    with pytest.raises(ValueError, match=r"are unknown; known: \["):
        prepare.prepare_voice_prompts(SAMPLE, tmp_path / "save", languages)


def test_bad_audio_is_left_out(corpus):
    good = corpus / "en/hello-world.wav"
    samples, rate = soundfile.read(good)
    noise = np.random.default_rng(0).standard_normal(rate)
    (corpus / "en/no-bytes.wav").touch()
    (corpus / "en/no-audio.wav").write_bytes(b"no audio" * 100)
    (corpus / "en/cut.wav").write_bytes(good.read_bytes()[:-2000])
    flac = (SAMPLE / "en/vm-sorry.flac").read_bytes()
    (corpus / "en/cut-too.flac").write_bytes(flac[: len(flac) // 2])
    soundfile.write(corpus / "en/no-samples.wav", samples[:0], rate)
    soundfile.write(corpus / "en/faint.wav", noise * 10 ** (-62 / 20), rate)
    soundfile.write(corpus / "en/low.wav", noise * 10 ** (-58 / 20), rate)
    soundfile.write(corpus / "en/tt-monkeys.wav", samples, rate)
    summary = prepare.prepare_voice_prompts(corpus, corpus / "save", ["en"])
    assert by_language(summary.left_out)["en"] == {
        "unreadable": 1,
        "cut short": 2,
        "empty": 2,
        "silence": 1,
        "sound effect": 1,
    }
    rows = read(corpus / "save", corpus)
    good = ["en/hello-world", "en/low", "en/vm-changeto", "en/vm-sorry"]
    assert sorted(rows) == good


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wavs_written_to_a_pipe(corpus, size):
    prepare.prepare_voice_prompts(corpus, corpus / "before", ["en"])
    for path in corpus.rglob("*.wav"):
        fixtures.pipe(path, size)
    summary = prepare.prepare_voice_prompts(corpus, corpus / "after", ["en"])
    assert not summary.left_out
    assert read(corpus / "after", corpus) == read(corpus / "before", corpus)


@pytest.mark.parametrize("gzipped", [True, False])
def test_dirty_transcript_file(tmp_path, gzipped):
    text = "\ufeff; comment: no prompt\r\n\r\nvm-INBOX: a: b\r\nx:\r\ny: 1\r\nY: 2\r\n"
    content = (text + "no colon\r\n").encode() + b"z: \xe9t\xe9\r\n"
    path = tmp_path / ("t.txt.gz" if gzipped else "t.txt")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    assert prepare.read_transcripts(path) == {
        "vm-inbox": {"a: b"},
        "x": {""},
        "y": {"1", "2"},
        "z": {"\ufffdt\ufffd"},
    }


def test_a_transcript_file_cut_short_is_named(tmp_path):
    path = tmp_path / "t.txt.gz"
    path.write_bytes(gzip.compress(b"hello-world: Hello, world.")[:-12])
    with pytest.raises(ValueError, match=f"{path} is cut short or damaged"):
        prepare.read_transcripts(path)


@pytest.mark.parametrize(
    "language, text, words",
    [
        ("en", "Invalid pin!  Re-enter it.", "invalid pin re enter it"),
        ("en", "I’m, that's “Extension”…", "i'm that's extension"),
        ("en", "'quoted' o'clock", "quoted o'clock"),
        ("en", "dash [-]", "dash"),
        ("en", "space [ ]", "space"),
        (
            "es",
            "[!] Número, trés, ó pingüino. ¿Mañana?",
            "numero tres o pinguino manana",
        ),
        ("fr", "À la tonalité, s'il-vous-plaît…", "à la tonalité s'il vous plaît"),
        ("it", "C’è un altro partecipante?", "c'è un altro partecipante"),
        ("it", "E' in uso.", "è in uso"),
        ("it", "Perché? Grazie.", "perché grazie"),
        ("ru", "Нажмите «решётку» – ещё раз.", "нажмите решетку еще раз"),
    ],
)
def test_normalised_words(language, text, words):
    for form in ("NFC", "NFD"):
        got = prompt_text.normalise(unicodedata.normalize(form, text), language)
        assert got == (words, None)


@pytest.mark.parametrize(
    "language, text, fault",
    [
        ("en", "Press 1 for", "digits"),
        ("en", "separated by * and", "symbols"),
        ("en", "press # to exit", "symbols"),
        ("en", "visit www.asterisk.org", "symbols"),
        ("en", "A.M.", "symbols"),
        ("it", "attivare/disattivare", "symbols"),
        ("it", "Spiacente, [quello] non è valido.", "words in brackets"),
        ("fr", "Pour (emphase)", "words in brackets"),
        ("en", "one (two", "words in brackets"),
        ("it", "Al segnale, il tempo sar? esattamente..", "damaged letters"),
        ("it", "La conferenza ? piena.", "damaged letters"),
        ("fr", "\ufffdt\ufffd", "damaged letters"),
        ("ru", "первoe", "foreign letters"),  # the last two are Latin
        ("en", "été", "foreign letters"),
        ("es", "l'eco", "foreign letters"),
        ("en", "N B S", "spelled letters"),
        ("fr", "Radio U S B", "spelled letters"),
        ("it", "eliminato vm-then-pound: poi premere", "two prompts in one line"),
        ("en", "...", "no transcript"),
    ],
)
def test_uncertain_text_is_no_transcript(language, text, fault):
    assert prompt_text.normalise(text, language) == ("", fault)


def test_label_rules():
    assert prompt_text.label("vm-and", {"y"}, "es", 1.0) == ("y", None)
    assert prompt_text.label("letters/y", {"y"}, "es", 1.0) == ("", "spelled letters")
    assert prompt_text.label("letters/zed", {"zed"}, "en", 1.0) == ("zed", None)
    assert prompt_text.label("x", {"", "one"}, "en", 1.0) == ("", "two transcripts")
    assert prompt_text.label("x", (), "en", 1.0) == ("", "no transcript")
    assert prompt_text.label("x", {""}, "en", 1.0) == ("", "no transcript")
    text = "x" * 50
    assert prompt_text.label("x", {text}, "en", 2.01) == (text, None)
    assert (
        prompt_text.label("x", {text}, "en", 1.99)[1] == "text too long for the audio"
    )


def test_sound_effects_by_name_and_by_text():
    for name, text in [
        ("beep", "un suono beep"),
        ("silence/3", "three"),
        ("x", "[ascending tones]"),
        ("x", "(beep)"),
        ("x", "<beep ascending>"),
    ]:
        assert prompt_text.is_sound_effect(name, {text})
    assert not prompt_text.is_sound_effect("x", {"[quello] non è"})
    assert not prompt_text.is_sound_effect("beeper", {})


def test_names_match_in_any_case(corpus):
    (corpus / "en/hello-world.wav").rename(corpus / "en/Hello-World.wav")
    prepare.prepare_voice_prompts(corpus, corpus / "save", ["en"])
    assert read(corpus / "save", corpus)["en/Hello-World"]["wrd"] == "hello world"


def test_second_run_follows_the_data(corpus):
    prepare.prepare_voice_prompts(corpus, corpus / "save", ["en"])
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in corpus.glob("save/*")}
    prepare.prepare_voice_prompts(corpus, corpus / "save", ["en"])
    assert before == {
        p: (p.stat().st_ino, p.read_bytes()) for p in corpus.glob("save/*")
    }
    text = corpus / "en/core-sounds-en.txt"
    text.write_text(text.read_text().replace("Hello world", "Hello there world"))
    prepare.prepare_voice_prompts(corpus, corpus / "save", ["en"])
    rows = read(corpus / "save", corpus)
    assert rows["en/hello-world"]["wrd"] == "hello there world"


def test_command_line_prints_the_table(corpus, monkeypatch, caplog):
    command = ["voice_prompts_prepare.py", str(corpus), str(corpus / "save")]
    monkeypatch.setattr("sys.argv", [*command, "--languages", "en"])
    (corpus / "en/silent.wav").touch()
    with caplog.at_level(logging.INFO):
        prepare.main()
    assert f"| en     | {prepare.split_of('silent')} | 1 empty  |" in caplog.text
    for split in ("train", "dev  ", "test "):
        assert f"| en     | {split} | 1          | 1           | 0.00  |" in caplog.text

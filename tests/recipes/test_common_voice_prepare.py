"""Preparing Common Voice: small releases in the official layout, and their dirt."""

import hashlib
import io
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
from hetero_brain.data.audio import read_audio
from hetero_brain.data.corpora import commonvoice_clips, commonvoice_tables
from hetero_brain.data.corpora.commonvoice import read_release
from hetero_brain.data.corpora.selection import HEARD, SPEAKER_HELD_OUT
from hetero_brain.data.corpora.summary import Summary
from hetero_brain.errors import InputError
from tests.benchmarks import data_path
from tests.recipes.common_voice_fixture import (
    CLIPS,
    SAMPLE,
    SENTENCE,
    Table,
    client,
    common_voice_tree,
    load,
    make_release,
    speech,
    spoil,
)
from tests.recipes.small_sample import small_sample

prepare = load("common_voice_prepare")
from_voice_prompts = load("from_voice_prompts")
SPLITS = ("pretrain", "train", "dev", "test")


def rows_of(save_folder, data_folder):
    """{split: {ID: row}} of all manifests, files checked."""
    return {
        split: {row["ID"]: row for row in manifest.read(path, data_folder)}
        for split in SPLITS
        if (path := save_folder / f"{split}.csv").exists()
    }


def run(data_folder, save_folder, **settings):
    """Prepare: the summary, and the rows."""
    summary = prepare.prepare_common_voice(data_folder, save_folder, **settings)
    rows = rows_of(save_folder, data_folder)
    for split, of_split in rows.items():  # the table tells of the manifests
        seconds, transcribed, counts = Counter(), Counter(), Counter()
        for row in of_split.values():
            counts[row["domain"]] += 1
            seconds[row["domain"]] += row["duration"]
            transcribed[row["domain"]] += row["wrd"] != ""
        for language in counts:
            total = summary.totals[language, split]
            assert total.utterances == counts[language]
            assert total.transcribed == transcribed[language]
            assert total.seconds == pytest.approx(seconds[language], abs=0.01)
    return summary, rows


def names(rows):
    """What stands after ``en/`` in IDs."""
    return {id_.partition("/")[2] for id_ in rows}


@pytest.fixture
def release(tmp_path):
    """A release of one language, to be spoiled."""
    return make_release(tmp_path / "data", ["en"])


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("durations", [True, False])
def test_clean_release(tmp_path, old, durations):
    data = make_release(tmp_path / "data", ["en", "sv-SE"], old, durations)
    languages = {"pretrain_domains": ["en"], "finetune_domains": ["sv-SE"]}
    summary, rows = run(data, tmp_path / "save", **languages)
    assert not summary.left_out and not summary.without_transcript
    assert {split: len(of_split) for split, of_split in rows.items()} == {
        "pretrain": 4,
        "train": 4,
        "dev": 4,
        "test": 4,
    }
    for split, of_split in rows.items():
        for id_, row in of_split.items():
            info = soundfile.info(row["wav"])
            seconds = info.frames / info.samplerate
            assert row["duration"] == pytest.approx(seconds, abs=1e-3)
            language, _, name = id_.partition("/")
            assert row["wav"] == f"{data}/{language}/clips/{name}.mp3"
            assert row["domain"] == language
            assert row["spk_id"] == client(name)[:16]
            assert row["wrd"] == "some words read aloud", split
    assert {row["domain"] for row in rows["pretrain"].values()} == {"en"}
    assert {row["domain"] for row in rows["train"].values()} == {"sv-SE"}
    for split in ("dev", "test"):
        assert {row["domain"] for row in rows[split].values()} == {"en", "sv-SE"}


@pytest.mark.parametrize("durations", [True, False])
@pytest.mark.parametrize("old", [False, True])
def test_dirt_is_left_out_and_counted(tmp_path, durations, old):
    data = make_release(tmp_path / "data", ["en"], old, durations)
    left_out, kept = spoil(Table(data / "en/train.tsv"))
    summary, rows = run(data, tmp_path / "save", pretrain_domains=["en"])
    good = {f"common_voice_en_{number}" for number in range(CLIPS["train"])}
    assert names(rows["pretrain"]) == good | kept
    assert summary.left_out == {("en", "pretrain"): left_out}
    for reason, count in left_out.items():
        assert f"{count} {reason}" in summary.table()
    assert rows["pretrain"]["en/no-duration"]["duration"] == pytest.approx(
        speech(1)[1], abs=1e-4
    )


def test_tables_of_windows(release, tmp_path):
    _, before = run(release, tmp_path / "a", pretrain_domains=["en"])
    for path in release.glob("en/*.tsv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (release / "en/clips/common_voice_en_0.mp3").write_bytes(speech(0)[0] * 2)
    summary, after = run(release, tmp_path / "b", pretrain_domains=["en"])
    assert after == before  # durations as in the table, so that it was read
    assert not summary.left_out
    lines = ["client_id\tpath\tsentence", f"a\tcommon_voice_en_0.mp3\t{SENTENCE}", ""]
    (release / "en/train.tsv").write_text("\r\n".join(lines), newline="")
    (clip,) = read_release(release, "en", ["train"], Summary(), "en")["train"]
    assert clip.sentence == SENTENCE


@pytest.mark.parametrize(
    "sentence, read, words",
    [
        ('"Un seul', '"Un seul', "un seul"),
        ('Il dit "non', 'Il dit "non', "il dit non"),
        ('"Non"', '"Non"', "non"),
        ('"Il dit ""non"""', 'Il dit "non"', "il dit non"),
        ('"""Non"", dit-il."', '"Non", dit-il.', "non dit il"),
        ('"Non", dit-il, "oui"', '"Non", dit-il, "oui"', "non dit il oui"),
        ('""', '""', ""),
        (unicodedata.normalize("NFD", "Été"), "E\u0301te\u0301", "été"),
        ("deux\u2028lignes\u0085ici", "deux\u2028lignes\u0085ici", "deux lignes ici"),
        ("un\rretour", "un\rretour", "un retour"),
        (" des  espaces ", " des  espaces ", "des espaces"),
        ("", "", ""),
    ],
)
def test_sentences(tmp_path, sentence, read, words):
    data = make_release(tmp_path / "data", ["fr"])
    table = Table(data / "fr/train.tsv")
    table.add_speech("one", sentence=sentence)
    table.add_speech("next")
    clips = read_release(data, "fr", ["train"], Summary(), "fr")["train"]
    assert clips[-2].sentence == read
    assert clips[-1] == ("next.mp3", clips[-2].seconds, client("next")[:16], SENTENCE)
    summary, rows = run(data, tmp_path / "save", pretrain_domains=["fr"])
    assert rows["pretrain"]["fr/one"]["wrd"] == words
    reasons = {} if words else {("fr", "pretrain"): {"no words": 1}}
    assert summary.without_transcript == reasons


def test_bytes_that_are_not_utf8(release, tmp_path):
    table = Table(release / "en/train.tsv")
    table.add_speech("one", sentence="cafX")
    table.path.write_bytes(table.path.read_bytes().replace(b"cafX", b"caf\xe9"))
    summary, rows = run(release, tmp_path / "save", pretrain_domains=["en"])
    assert rows["pretrain"]["en/one"]["wrd"] == ""
    assert summary.without_transcript["en", "pretrain"] == {"damaged letters": 1}


@pytest.mark.parametrize("split, kept", [("pretrain", True), ("train", False)])
def test_clips_without_words(release, tmp_path, split, kept):
    table = Table(release / "en/train.tsv")
    for name, sentence in [
        ("year", "In 1990"),
        ("year-too", "in ۱۹۹۰"),
        ("percent", "ten %"),
        ("greek", "the letter π"),
    ]:
        table.add_speech(name, sentence=sentence)
    key = "pretrain_domains" if kept else "finetune_domains"
    summary, rows = run(release, tmp_path / "save", **{key: ["en"]})
    reasons = {"digits": 2, "symbols": 1, "foreign letters": 1}
    if kept:
        assert summary.without_transcript == {("en", split): reasons}
        assert rows[split]["en/year"]["wrd"] == "" and len(rows[split]) == 8
    else:
        reasons = {f"without transcript: {key}": n for key, n in reasons.items()}
        assert summary.left_out == {("en", split): reasons}
        assert len(rows[split]) == 4 and "pretrain" not in rows


@pytest.mark.parametrize("old", [False, True])
def test_rows_of_some_accents(tmp_path, old):
    data = make_release(tmp_path / "data", ["en"], old)
    table = Table(data / "en/train.tsv")
    for name, accents in [
        ("a", "Australian English"),
        ("b", "England English,Australian English"),
        ("c", "england english|Scottish English"),
        ("d", "India and South Asia (India, Pakistan, Sri Lanka)"),
        ("e", "australia"),
        ("f", "New Australian English"),
    ]:
        table.add_speech(name, accents=accents)
    if old:  # where accent is the last column
        table.path.write_bytes(table.path.read_bytes().replace(b"\n", b"\r\n"))
    for wanted, found in [
        (["australian english", "australia"], "abe"),
        (["England English"], "bc"),
        ("India and South Asia (India, Pakistan, Sri Lanka)", "d"),
        ("Pakistan", ""),
    ]:
        for column in ("accents", "accent"):
            summary = Summary()
            where = {column: wanted}
            clips = read_release(data, "en", ["train"], summary, "accent", where)
            assert "".join(clip.name[0] for clip in clips["train"]) == found
            others = {f"other {column}": 10 - len(found)}
            assert summary.left_out == {("accent", "train"): others}
    with pytest.raises(ValueError, match=r"train.tsv: no column 'region'; the first"):
        read_release(data, "en", ["train"], Summary(), "en", {"region": ["x"]})


def test_speakers_of_dev_and_test_are_never_trained_on(release, tmp_path):
    for split in ("train", "other", "invalidated"):
        Table(release / f"en/{split}.tsv").add_speech(
            f"of-dev-{split}", client_id=client("common_voice_en_4")
        )
    Table(release / "en/train.tsv").add_speech("unlike", client_id="somebody")
    settings = {
        "pretrain_domains": ["en"],
        "finetune_domains": ["en"],
        "pretrain_splits": ["validated", "train", "other", "invalidated"],
    }
    summary, rows = run(release, tmp_path / "save", **settings)
    assert summary.left_out == {
        ("en", "train"): {SPEAKER_HELD_OUT: 1},
        ("en", "pretrain"): {
            "duplicate": 4,  # validated has train's
            "clip also in dev or test": 4,  # and theirs
            SPEAKER_HELD_OUT: 3,
        },
    }
    trained = {"unlike", *(f"common_voice_en_{number}" for number in range(4))}
    assert names(rows["train"]) == trained
    untold = {f"common_voice_en_{number}" for number in (8, 9, 10)}
    assert names(rows["pretrain"]) == trained | untold
    held = {row["spk_id"] for s in ("dev", "test") for row in rows[s].values()}
    for split in ("pretrain", "train"):
        assert not held & {row["spk_id"] for row in rows[split].values()}
    assert {name for name, row in rows["pretrain"].items() if not row["wrd"]} == {
        f"en/{name}" for name in untold
    }
    assert summary.without_transcript["en", "pretrain"] == {"not validated": 3}

    cap = max(speech(number)[1] for number in (4, 5, 6, 7)) / 3600 + 1e-6
    _, capped = run(release, tmp_path / "capped", max_test_hours=cap, **settings)
    assert len(capped["dev"]) + len(capped["test"]) < 4
    assert (capped["pretrain"], capped["train"]) == (rows["pretrain"], rows["train"])


@pytest.fixture
def one_speaker(tmp_path):
    """A release whose second language is read by one speaker."""
    data = make_release(tmp_path / "data", ["en", "es"])
    for path in data.glob("es/*.tsv"):
        if path.stem != "clip_durations":
            header, *lines = path.read_text("utf-8").splitlines()
            at = header.split("\t").index("client_id")
            fields = [line.split("\t") for line in lines]
            lines = ["\t".join([*f[:at], "her", *f[at + 1 :]]) for f in fields]
            path.write_text("\n".join([header, *lines, ""]), "utf-8")
    return data


@pytest.mark.parametrize("key", ["pretrain_domains", "finetune_domains"])
def test_one_speaker_in_all_splits(one_speaker, tmp_path, caplog, key):
    split = {"pretrain_domains": "pretrain", "finetune_domains": "train"}[key]
    settings = {key: ["en", "es"]}
    told = rf"es: nothing is left of {split}, .* all its 4 clips.*keep_speakers_apart"
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(InputError, match=f"(?s){told}: False"),
    ):
        run(one_speaker, tmp_path / "save", **settings)
    assert f"4 {SPEAKER_HELD_OUT}" in caplog.text  # the table explains it
    assert not list(tmp_path.glob("save/*.csv"))

    for apart in (False, {"es": False}):
        settings["keep_speakers_apart"] = apart
        summary, rows = run(one_speaker, tmp_path / "save", **settings)
        assert len([id_ for id_ in rows[split] if id_.startswith("es/")]) == 4
        assert summary.notes == {("es", split): {HEARD: 4}}
        assert f"4 {HEARD}" in prepare.table(summary)


def test_speakers_are_kept_apart_in_the_other_languages(one_speaker, tmp_path):
    of_dev = client("common_voice_en_4")
    Table(one_speaker / "en/train.tsv").add_speech("of-dev", client_id=of_dev)
    settings = {"pretrain_domains": ["en", "es"]}
    for apart, n_english in [({"es": False}, 4), (False, 5)]:
        settings["keep_speakers_apart"] = apart
        _, rows = run(one_speaker, tmp_path / "save", **settings)
        assert sum(id_.startswith("en/") for id_ in rows["pretrain"]) == n_english


@pytest.mark.parametrize("content", [None, "", "header"])
def test_languages_without_dev_and_test(tmp_path, caplog, content):
    data = make_release(tmp_path / "data", ["en", "es"])
    for split in ("dev", "test"):
        path = data / f"es/{split}.tsv"
        if content == "header":
            path.write_text(path.read_text("utf-8").splitlines()[0] + "\n")
        elif content == "":
            path.write_text("")
        else:
            path.unlink()
    both = {"pretrain_domains": ["en", "es"], "finetune_domains": ["es"]}
    summary, rows = run(data, tmp_path / "save", **both)
    for split in ("dev", "test"):
        assert {row["domain"] for row in rows[split].values()} == {"en"}
        assert summary.totals["es", split].utterances == 0
        told = f"es: no table {data}/es/{split}.tsv" in caplog.text
        assert told == (content != "header")
    assert len(rows["train"]) == 4 and len(rows["pretrain"]) == 8
    # None at all: no manifest, and none of an earlier run.
    prepare.prepare_common_voice(data, tmp_path / "save", pretrain_domains=["es"])
    left = sorted(path.name for path in (tmp_path / "save").iterdir())
    assert left == ["pretrain.csv", "train.csv"]


def test_a_clip_of_test_under_another_speaker(release, tmp_path):
    Table(release / "en/other.tsv").add("common_voice_en_6", client_id="another")
    settings = {"pretrain_domains": ["en"], "pretrain_splits": ["other", "other"]}
    settings["finetune_domains"] = None
    summary, rows = run(release, tmp_path / "save", **settings)
    assert summary.left_out == {("en", "pretrain"): {"clip also in dev or test": 1}}
    assert names(rows["pretrain"]) == {"common_voice_en_8", "common_voice_en_9"}


def test_caps(tmp_path):
    data = make_release(tmp_path / "data", ["en", "fr"])
    for language in ("en", "fr"):
        for split in ("train", "dev", "test"):
            table = Table(data / language / f"{split}.tsv")
            for number in range(40):
                table.add_speech(f"{split}-{number}")
    languages = {"pretrain_domains": ["en"], "finetune_domains": ["fr"]}

    def sizes(**settings):
        folder = tmp_path / f"save-{sorted(settings.items())}"
        return run(data, folder, **languages, **settings)

    summary, rows = sizes()
    assert not summary.left_out
    second = speech(0)[1] / 3600  # in hours, of each of the 40
    settings = {
        "max_pretrain_hours": {"en": 20 * second},
        "max_finetune_hours": 10 * second,
        "max_test_hours": 5 * second,
    }
    summary, fewer = sizes(**settings)
    for language, split, clips in [
        ("en", "pretrain", 20),
        ("fr", "train", 10),
        *(
            (language, split, 5)
            for language in ("en", "fr")
            for split in ("dev", "test")
        ),
    ]:
        total = summary.totals[language, split]
        assert 0 < clips * second - total.seconds / 3600 < 3 * second
        left = summary.left_out[language, split]["over the cap in hours"]
        there = [row["domain"] for row in rows[split].values()].count(language)
        assert left + total.utterances == there
        assert set(fewer[split]) < set(rows[split])
    _, uncapped = sizes(max_pretrain_hours={"fr": 10 * second})
    assert uncapped == rows
    _, again = sizes(**settings, seed=1)
    assert again == fewer
    _, other = sizes(**settings, seed=2)
    assert set(other["pretrain"]) != set(fewer["pretrain"])
    _, fewest = sizes(**{**settings, "max_pretrain_hours": 8 * second})
    assert set(fewest["pretrain"]) < set(fewer["pretrain"])


def test_layouts(release, tmp_path):
    _, rows = run(release, tmp_path / "save", pretrain_domains=["en"])
    corpus = tmp_path / "all/cv-corpus-17.0-2024-03-15"
    corpus.parent.mkdir()
    release.rename(corpus)
    for folder in (corpus.parent, corpus, corpus / "en"):
        save = tmp_path / f"save-{folder.name}"
        _, same = run(folder, save, pretrain_domains=["en"])
        for split, of_split in same.items():
            assert set(of_split) == set(rows[split])
            for row in of_split.values():
                assert Path(row["wav"]).parent == corpus / "en/clips"
    make_release(tmp_path / "all/cv-corpus-18.0-2024-06-14", ["en"])
    with pytest.raises(
        FileNotFoundError, match="en: in several folders, name one: .*18"
    ):
        run(corpus.parent, tmp_path / "save", pretrain_domains=["en"])


def test_everything_missing_is_listed_before_anything_is_read(tmp_path, monkeypatch):
    data = make_release(tmp_path / "data", ["en", "fr", "ta"])
    (data / "fr/validated.tsv").unlink()
    (data / "fr/dev.tsv").unlink()
    (data / "ta/clips").rename(data / "ta/elsewhere")
    monkeypatch.setattr(prepare, "LanguageRows", None)
    with pytest.raises(FileNotFoundError) as error:
        prepare.prepare_common_voice(
            data,
            tmp_path / "save",
            pretrain_domains=["en", "fr", "xx"],
            finetune_domains=["ta", "tr"],
            pretrain_splits=["validated"],
        )
    lines = [line for line in str(error.value).splitlines() if line.startswith("  ")]
    assert lines == [
        f"  fr: no {data}/fr/validated.tsv",
        f"  xx: no folder {data}/xx",
        f"  ta: no folder {data}/ta/clips",
        f"  tr: no folder {data}/tr",
    ]
    assert "commonvoice.mozilla.org" in str(error.value)
    assert not (tmp_path / "save").exists()


def test_settings_that_cannot_be(release, tmp_path, caplog):
    with pytest.raises(ValueError) as error:
        prepare.prepare_common_voice(
            release,
            tmp_path / "save",
            pretrain_domains=["en"],
            pretrain_splits=["train", "test", "trane"],
            max_pretrain_hours={"en": 0, "fr": 1},
            max_test_hours=-1,
            keep_speakers_apart="no",
        )
    assert str(error.value).splitlines()[1:] == [
        "pretrain_splits ['test', 'trane'] are unknown; known: "
        "['train', 'validated', 'other', 'invalidated']",
        "max_pretrain_hours of en: 0 is not more than 0",
        "max_test_hours of every language: -1 is not more than 0",
        "keep_speakers_apart of every language: 'no' is not True or False",
    ]
    assert "max_pretrain_hours names fr, which is not used" in caplog.text
    with pytest.raises(ValueError, match="neither pretrain_domains nor finetune"):
        prepare.prepare_common_voice(release, tmp_path / "save")
    with pytest.raises(ValueError, match=r"splits \['trane'\] are unknown"):
        read_release(release, "en", ["trane"], Summary(), "en")
    with pytest.raises(FileNotFoundError, match="fr: no folder"):
        read_release(release, "fr", ["train"], Summary(), "fr")


@pytest.mark.parametrize(
    "content", ["", "path\tsentence\n", "client_id,path,sentence\n"]
)
def test_a_table_without_its_columns(release, tmp_path, content):
    (release / "en/train.tsv").write_text(content)
    with pytest.raises(ValueError, match=r"en/train.tsv: no column 'client_id'; the "):
        run(release, tmp_path / "save", pretrain_domains=["en"])


def test_the_table_explains_why_nothing_is_left(release, tmp_path, caplog):
    for path in release.glob("en/clips/*"):
        path.write_bytes(b"")
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(manifest.ManifestError, match="pretrain.csv: no rows"),
    ):
        run(release, tmp_path / "save", pretrain_domains=["en"])
    assert "4 empty" in caplog.text


def test_only_clips_without_duration_are_opened(release, tmp_path, monkeypatch, caplog):
    table = Table(release / "en/train.tsv")
    for number in range(5):
        table.add(f"unknown-{number}", speech(number)[0])
    opened = []
    read_header = commonvoice_clips.read_header

    def watched(path):
        opened.append(path.stem)
        return read_header(path)

    monkeypatch.setattr(commonvoice_clips, "read_header", watched)
    monkeypatch.setattr(commonvoice_clips, "HEADERS_A_REPORT", 2)
    with caplog.at_level(logging.INFO):
        _, rows = run(release, tmp_path / "save", pretrain_domains=["en"])
    assert sorted(opened) == [f"unknown-{number}" for number in range(5)]
    told = [r.message for r in caplog.records if "headers" in r.message]
    assert told == [f"en: {n} of 5 headers read" for n in (2, 4, 5)]
    for number in range(5):
        duration = rows["pretrain"][f"en/unknown-{number}"]["duration"]
        assert duration == pytest.approx(speech(number)[1], abs=1e-4)


def test_clips_whose_header_has_no_length(release, tmp_path):
    """A header without a length is that of CBR for libsndfile, and clips are of VBR: half
    a second of silence, of a few bytes, then speech."""
    samples, rate = soundfile.read(io.BytesIO(speech(0)[0]), dtype="float32")
    samples = np.concatenate([np.zeros(rate // 2, "float32"), samples])
    file, table = io.BytesIO(), Table(release / "en/train.tsv")
    soundfile.write(file, samples, rate, format="MP3", bitrate_mode="VARIABLE")
    content, seconds = file.getvalue(), len(samples) / rate
    assert content.count(b"Xing") == 1
    table.add("no-table", content.replace(b"Xing", bytes(4)))
    table.add("piped", content.replace(b"Xing\0\0\0\x0f", b"Xing\0\0\0\0"))
    table.add("twice", content * 2)
    summary, rows = run(release, tmp_path / "save", pretrain_domains=["en"])
    assert not summary.left_out
    for name, times in {"no-table": 1, "piped": 1, "twice": 2}.items():
        row = rows["pretrain"][f"en/{name}"]
        assert row["duration"] == pytest.approx(times * seconds, abs=0.2)
        assert len(read_audio(row, rate)) == round(rate * row["duration"])


def test_speakers_are_shortened_only_if_they_are_hashes():
    assert commonvoice_tables.shorten_client_id(client("a")) == client("a")[:16]
    for name in ("speaker-" * 16, "0" * 32, "Ann"):
        assert commonvoice_tables.shorten_client_id(name) == name


def test_a_hundred_languages(tmp_path, caplog):
    languages = [f"l{number:02}" for number in range(97)] + ["sv-SE", "ja", "ar"]
    data = make_release(tmp_path / "data", languages)
    table = Table(data / "l00/train.tsv")
    table.add("nothing")
    table.add_speech("year", sentence="1990")
    with caplog.at_level(logging.INFO):
        summary, rows = run(
            data,
            tmp_path / "save",
            pretrain_domains=languages,
            finetune_domains=languages[-3:],
            max_finetune_hours=2,
        )
    assert len({row["domain"] for row in rows["pretrain"].values()}) == 100
    assert len(rows["dev"]) == 200 and len(rows["train"]) == 4  # of sv-SE alone
    told = caplog.messages[-1].splitlines()[1:]
    assert len(told) == 2 + 100 + 1 + 1 + 2 + 4
    assert max(map(len, told)) < 90
    hours = sum(row["duration"] for row in rows["pretrain"].values()) / 3600
    cells = [cell.strip() for cell in told[102].split("|")[1:3]]
    assert cells == ["all", f"{hours:.2f}"]
    told = [" ".join(line.split()) for line in told]
    assert "| left out: no file | 1 | 0 | 0 | 0 |" in told
    assert "| without transcript: digits | 1 | 0 | 0 | 0 |" in told
    foreign = "left out: without transcript: foreign letters"
    assert f"| {foreign} | 0 | 8 | 0 | 4 |" in told
    assert summary.totals["l05", "pretrain"].utterances == 4


def test_second_run_follows_the_data(release, tmp_path):
    save = tmp_path / "save"
    both = {"pretrain_domains": ["en"], "finetune_domains": ["en"]}
    run(release, save, **both)
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in save.iterdir()}
    assert sorted(path.name for path in before) == [
        "dev.csv",
        "pretrain.csv",
        "test.csv",
        "train.csv",
    ]
    run(release, save, **both)
    assert before == {p: (p.stat().st_ino, p.read_bytes()) for p in save.iterdir()}
    Table(release / "en/train.tsv").add_speech("fresh")
    _, rows = run(release, save, **both)
    assert "en/fresh" in rows["pretrain"] and "en/fresh" in rows["train"]


def test_command_line_prints_the_table(release, tmp_path, monkeypatch, caplog):
    words = ["common_voice_prepare.py", str(release), str(tmp_path / "save")]
    words += ["--pretrain_domains", "en", "--pretrain_splits", "train", "other"]
    words += ["--same_speakers", "en"]
    monkeypatch.setattr("sys.argv", [*words, "--max_pretrain_hours", "1"])
    with caplog.at_level(logging.INFO):
        prepare.main()
    assert "| en     | pretrain | 6          | 4           | 0.0" in caplog.text
    assert "| en     | pretrain | 2 not validated " in caplog.text


def test_benchmark(monkeypatch):
    assert min(data_path.prepare_figures(100, 30)[:2]) > 0
    monkeypatch.setattr(data_path, "CLIPS_PER_SPEAKER", 1000)  # of train, dev and test
    with pytest.raises(InputError, match="nothing is left of pretrain"):
        data_path.prepare_figures(100, 30)


# ------------------------------------------------------------- out of the voice prompts


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """A part of the sample."""
    return small_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def tree(prompts, tmp_path_factory):
    """It as a release."""
    return common_voice_tree(tmp_path_factory.mktemp("tree"), prompts)


def test_release_of_voice_prompts(prompts, tree, tmp_path):
    summary = from_voice_prompts.prepare_voice_prompts(
        prompts, tmp_path / "prompts", ("en", "es", "fr")
    )
    ours, rows = run(
        tree,
        tmp_path / "save",
        pretrain_domains=["en", "es"],
        finetune_domains=["fr"],
        pretrain_splits=["train", "other"],
    )
    assert not ours.left_out
    for language in ("en", "es"):
        n = summary.totals[language, "train"]
        total = ours.totals[language, "pretrain"]
        assert total.utterances == n.utterances and total.seconds > 20
        assert total.transcribed == n.transcribed
        assert total.seconds == pytest.approx(n.seconds, abs=0.6)
    for split in ("train", "dev", "test"):
        made = manifest.read(tmp_path / f"prompts/{split}.csv", prompts)
        spoken = [row["wrd"] for row in made if row["domain"] == "fr" and row["wrd"]]
        found = [row for row in rows[split].values() if row["domain"] == "fr"]
        assert sorted(row["wrd"] for row in found) == sorted(spoken)
        assert len(found) >= 2


def test_clips_of_voice_prompts(tree):
    validated = (tree / "en/validated.tsv").read_text("utf-8").splitlines()
    parts = [
        (tree / f"en/{split}.tsv").read_text("utf-8").splitlines()[1:]
        for split in ("train", "dev", "test")
    ]
    assert validated[1:] == sum(parts, [])
    speakers = [{line.split("\t")[0] for line in part} for part in parts]
    assert (
        not speakers[0] & (speakers[1] | speakers[2]) and not speakers[1] & speakers[2]
    )
    assert len(speakers[0]) > 3
    clips = sorted((tree / "en/clips").iterdir())
    assert len(clips) >= 15
    for path in clips[:5]:
        audio, rate = soundfile.read(path)
        assert rate == 48000 and np.abs(audio).max() > 0.05
    durations = (tree / "en/clip_durations.tsv").read_text("utf-8").splitlines()
    assert durations[0] == "clip\tduration[ms]" and len(durations) == 1 + len(clips)
    name, milliseconds = durations[1].split("\t")
    seconds = soundfile.info(tree / f"en/clips/{name}").duration
    assert int(milliseconds) == pytest.approx(1000 * seconds, abs=1)


def test_untranscribed_prompts_of_dev_and_test_are_in_no_table(prompts, tmp_path):
    """Some prompts are enough, with the two whose transcripts will be gone."""
    shutil.copytree(prompts / "en", tmp_path / "prompts/en")
    for name in ("vm-savedto", "vm-changeto"):
        shutil.copy(SAMPLE / f"en/{name}.flac", tmp_path / "prompts/en")
    transcripts = tmp_path / "prompts/en/core-sounds-en.txt"
    lines = transcripts.read_text("utf-8").splitlines(keepends=True)
    gone = {"vm-savedto": "train", "vm-changeto": "dev"}
    for name, split in gone.items():
        assert sys.modules["voice_prompts_prepare"].split_of(name) == split
        assert sum(line.startswith(f"{name}:") for line in lines) == 1
    make = from_voice_prompts.make_release
    make(tmp_path / "prompts", tmp_path / "before", ["en"])
    kept = [line for line in lines if line.partition(":")[0] not in gone]
    transcripts.write_text("".join(kept), "utf-8")
    make(tmp_path / "prompts", tmp_path / "after", ["en"])

    def count(folder, split):
        return (tmp_path / folder / f"en/{split}.tsv").read_text("utf-8").count("\n")

    for split, change in {"train": -1, "dev": -1, "other": 1, "validated": -2}.items():
        assert count("after", split) == count("before", split) + change


def test_release_by_command_line(prompts, tmp_path, monkeypatch):
    words = ["from_voice_prompts.py", str(prompts), str(tmp_path), "--languages", "es"]
    monkeypatch.setattr("sys.argv", words)
    from_voice_prompts.main()
    first = {
        p: hashlib.sha256(p.read_bytes()).digest() for p in tmp_path.rglob("*.tsv")
    }
    assert len(first) == 7
    from_voice_prompts.main()
    assert first == {p: hashlib.sha256(p.read_bytes()).digest() for p in first}

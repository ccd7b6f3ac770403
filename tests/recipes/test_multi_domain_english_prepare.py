"""Preparing English corpora as they are released, and what is wrong in them."""

import importlib.util
import logging
import os
import re
import sys
import urllib.request
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile
from hyperpyyaml import load_hyperpyyaml
from lhotse.recipes import switchboard, voxpopuli
from scipy.signal import correlate

from hetero_brain.data import manifest
from hetero_brain.data.audio import read_audio
from hetero_brain.data.corpora import special_cases
from hetero_brain.data.corpora.headers import read_header
from hetero_brain.data.corpora.lenient import Call, lenient
from hetero_brain.data.corpora.segments import OVERLAPS, TRIMMED
from hetero_brain.data.corpora.selection import HEARD, SPEAKER_HELD_OUT
from hetero_brain.data.faults import SHORTEN
from hetero_brain.errors import InputError


def load(path, name):
    """A module that is no part of a package."""
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE = Path(__file__).parents[2] / "recipes/MultiDomainEnglish"
prepare = load(
    RECIPE / "multi_domain_english_prepare.py", "multi_domain_english_prepare"
)
fixtures = load(Path(__file__).parent / "corpora_fixtures.py", "corpora_fixtures")

PARTS = {"pretrain": ["train"], "dev": ["dev"], "test": ["test"]}
BEYOND = "segment beyond the recording's end"


def entry(corpus, root, **changes):
    """A YAML entry for a corpus that ``fixtures.make_<corpus>`` made below root."""
    entries = {
        "librispeech": {
            "folder": "LibriSpeech",
            "splits": {
                "pretrain": ["train-clean-100", "train-other-500"],
                "finetune": "train-clean-100",
                "dev": ["dev-clean"],
                "test": ["test-clean", "test-other"],
            },
        },
        "tedlium": {"folder": "TEDLIUM_release-3", "splits": PARTS},
        "ami": {
            "folder": "ami",
            "splits": PARTS,
            "options": {"mic": "ihm", "partition": "full-corpus-asr"},
        },
        "voxpopuli": {"folder": "voxpopuli", "splits": PARTS},
        "switchboard": {
            "folder": "switchboard/LDC97S62",
            "options": {
                "transcripts_dir": f"{root}/switchboard/swb_ms98_transcriptions"
            },
            "splits": {"pretrain": ["all"]},
        },
        "fisher": {
            "corpus": "fisher_english",
            "folder": "fisher",
            "options": {
                "audio_dirs": ["LDC2004S13"],
                "transcript_dirs": ["LDC2004T19"],
            },
            "splits": {"pretrain": ["all"]},
        },
        "callhome": {
            "corpus": "callhome_english",
            "folder": "callhome/LDC97S42",
            "options": {"transcript_dir": f"{root}/callhome/LDC97T14"},
            "splits": {"pretrain": "train", "dev": "devtest", "test": "evaltest"},
        },
        "hub4": {
            "corpus": "broadcast_news",
            "folder": "hub4/LDC98S71",
            "options": {"transcripts_dir": f"{root}/hub4/LDC98T28"},
            "splits": {"pretrain": ["all"]},
        },
        "edacc": {"folder": "edacc", "splits": {"dev": ["dev"], "test": ["test"]}},
        "l2_arctic": {
            "folder": "l2arctic_release_v5.0",
            "splits": {"test": ["read", "suitcase"]},
        },
    }
    its = {"name": corpus, "corpus": corpus, **entries[corpus]}
    return {**its, "folder": f"{root}/{its['folder']}", **changes}


CORPORA = [
    "librispeech",
    "tedlium",
    "ami",
    "voxpopuli",
    "switchboard",
    "fisher",
    "callhome",
    "hub4",
    "edacc",
    "l2_arctic",
]


def needs(name):
    """Skips a corpus whose reader needs what is not installed."""
    corpus = {"hub4": "broadcast_news"}.get(name, name)
    for module in special_cases.SPECIAL.get(corpus, special_cases.Special()).packages:
        pytest.importorskip(module)


def run(domains, root):
    """Prepares, and reads all manifests: the summary, and {ID: row with its split}."""
    save = root / "save"
    summary = prepare.prepare_multi_domain_english(domains, save, root)
    rows = {}
    for path in sorted(save.glob("*.csv")):
        for row in manifest.read(path, root):
            rows[path.stem, row["ID"]] = {**row, "split": path.stem}
    for (domain, split), total in summary.totals.items():
        mine = [
            r for r in rows.values() if (r["domain"], r["split"]) == (domain, split)
        ]
        assert total.utterances == len(mine)
        assert total.transcribed == sum(row["wrd"] != "" for row in mine)
        assert total.seconds == pytest.approx(sum(r["duration"] for r in mine), abs=0.1)
    assert len(rows) == sum(total.utterances for total in summary.totals.values())
    return summary, rows


def made(name, root, dirt=False, **changes):
    """Makes a corpus and prepares it."""
    needs(name)
    getattr(fixtures, f"make_{name}")(root, dirt=dirt)
    return run([entry(name, root, **changes)], root)


def likeness(row):
    """How much the audio of a row is the prompt of its words, at most 1."""
    said = dict(fixtures.prompts())[row["wrd"]]
    heard = read_audio(row, 8000).numpy()
    pause = 8000 * fixtures.GAP  # a segment of HUB4 lasts until the next
    assert len(said) - 800 < len(heard) < len(said) + pause + 800
    both = correlate(heard, said, mode="full")
    return np.abs(both).max() / np.sqrt((heard**2).sum() * (said**2).sum())


# ----------------------------------------------------------------- 1. what is all right


@pytest.mark.parametrize("name", CORPORA)
def test_rows_say_what_is_heard(tmp_path, name):
    summary, rows = made(name, tmp_path)
    assert not summary.left_out and not summary.without_transcript
    expected = {
        "librispeech": {"pretrain": 9, "train": 6, "dev": 3, "test": 6},
        "tedlium": {"pretrain": 6, "dev": 3, "test": 3},
        "ami": {"pretrain": 6, "dev": 6, "test": 6},
        "voxpopuli": {"pretrain": 3, "dev": 3, "test": 3},
        "switchboard": {"pretrain": 24},
        "fisher": {"pretrain": 12},
        "callhome": {"pretrain": 6, "dev": 6, "test": 6},
        "hub4": {"pretrain": 18},
        "edacc": {"dev": 6, "test": 6},
        "l2_arctic": {"test": 22},
    }[name]
    splits = [row["split"] for row in rows.values()]
    assert {split: splits.count(split) for split in expected} == expected
    assert min(map(likeness, rows.values())) > 0.9
    assert all(row["spk_id"] for row in rows.values())
    for row in rows.values():
        info = soundfile.info(row["wav"])
        frames = info.frames if row["stop"] is None else row["stop"] - row["start"]
        assert row["duration"] == pytest.approx(frames / info.samplerate, abs=1e-4)


def test_rows_of_the_far_microphone(tmp_path):
    """All speakers of a meeting in one recording."""
    options = {"mic": "sdm", "partition": "full-corpus-asr"}
    _, rows = made("ami", tmp_path, options=options)
    assert len(rows) == 18
    for row in rows.values():
        assert row["wav"].endswith(".Array1-01.wav") and likeness(row) > 0.4


@pytest.mark.parametrize("num_jobs", [1, 3])
def test_accented_voxpopuli_is_in_the_original_recordings(tmp_path, num_jobs):
    options = {"lang": "en_accented", "num_jobs": num_jobs}
    _, rows = made("voxpopuli", tmp_path, options=options, splits={"test": ["test"]})
    assert len(rows) == 3 and min(map(likeness, rows.values())) > 0.9
    assert all("/raw_audios/original/" in row["wav"] for row in rows.values())


def test_telephone_speech_has_channels(tmp_path):
    _, rows = made("switchboard", tmp_path)
    for row in rows.values():
        call, side = row["spk_id"][:-1], row["spk_id"][-1]
        assert row["wav"].endswith(f"{call}.sph") and row["channel"] == "AB".index(side)
    made("librispeech", tmp_path / "other")
    header = (tmp_path / "other/save/test.csv").read_text().splitlines()[0]
    assert header == ",".join(manifest.COLUMNS)


# ------------------------------------------------------------------ 2. what is not right


def test_dirt_of_librispeech(tmp_path):
    summary, rows = made("librispeech", tmp_path, dirt=True)
    for split in ("pretrain", "train"):
        # speaker 19 is in dev-clean; of 26's clips one is left, and of 20's all
        assert summary.left_out["librispeech", split] == {
            SPEAKER_HELD_OUT: 3,
            "empty": 1,
            "cut short": 1,
        }
    assert summary.left_out["librispeech", "all"] == {"lhotse: No such file": 1}
    speakers = {
        split: {row["spk_id"] for row in rows.values() if row["split"] == split}
        for split in ("pretrain", "train", "dev")
    }
    assert speakers == {"pretrain": {"20", "26"}, "train": {"26"}, "dev": {"19", "84"}}
    row = rows["train", "librispeech/train-clean-100/26-198-0002"]
    assert likeness(row) > 0.9  # no CR in its words


def test_dirt_of_tedlium(tmp_path):
    summary, rows = made("tedlium", tmp_path, dirt=True)
    assert summary.left_out == {
        ("tedlium", "pretrain"): {
            "no such file": 1,
            "empty": 1,
            SHORTEN: 1,
            "no transcript file": 1,
            BEYOND: 2,
            "segment of no duration": 1,
            "marked ignore_time_segment_in_scoring": 1,
        }
    }
    unknown = {("tedlium", "pretrain"): {"unknown words": 1}}
    assert summary.without_transcript == unknown
    assert summary.notes == {("tedlium", "pretrain"): {OVERLAPS: 2, TRIMMED: 1}}
    start, stop = (
        rows["pretrain", "tedlium/train/Talk_2010-0"][key] for key in ("start", "stop")
    )
    within = rows["pretrain", "tedlium/train/Talk_2010-3"]
    assert (within["start"], within["stop"]) == (start + 3200, stop - 3200)
    assert within["wrd"] == ""
    last = rows["pretrain", "tedlium/train/Talk_2010-5"]
    assert last["stop"] == soundfile.info(last["wav"]).frames
    assert last["duration"] == pytest.approx(1, abs=0.01) and last["wrd"] == "thanks"
    assert len(rows) == 6 + 3 + 6
    for line in ("1 unknown words", "2 overlaps another", f"2 {BEYOND}"):
        assert line in summary.table()


def test_tedlium_of_release_2(tmp_path):
    root = fixtures.make_tedlium(tmp_path)
    release_2 = (root / "legacy").rename(tmp_path / "TEDLIUM_release2")
    domain = entry("tedlium", tmp_path, folder=str(release_2)) | {"corpus": "tedlium2"}
    summary, rows = run([domain], tmp_path)
    assert len(rows) == 12 and not summary.left_out
    assert min(map(likeness, rows.values())) > 0.9
    next(release_2.glob("train/sph/*")).unlink()
    summary, _ = run([domain], tmp_path)
    assert summary.left_out == {("tedlium", "pretrain"): {"no such file": 3}}


@pytest.mark.parametrize(
    "corpus, folder, told",
    [
        ("tedlium", "3/legacy", "3/legacy: give the folder above it"),
        ("tedlium", "2", "2/<part>/stm: corpus: tedlium2 reads it"),
        ("tedlium2", "3", "3/legacy/<part>/stm: corpus: tedlium reads it"),
        ("tedlium", "above3", "give the folder of the release, .*/above3/TEDLIUM"),
        ("tedlium2", "above2", "give the folder of the release, .*/above2/TEDLIUM"),
        ("tedlium", "empty", "empty has no legacy/<part>/stm: is it tedlium's"),
        ("tedlium2", "empty", "empty has no <part>/stm: is it tedlium2's"),
        ("tedlium3", "3", "lhotse has no corpus 'tedlium3'; the nearest are .*tedlium"),
    ],
)
def test_near_misses_of_tedlium_are_named(tmp_path, corpus, folder, told):
    for path in ("3/legacy/train/stm", "2/train/stm", "empty"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "above3/TEDLIUM_release-3/legacy/train/stm").mkdir(parents=True)
    (tmp_path / "above2/TEDLIUM_release2/train/stm").mkdir(parents=True)
    domain = entry("tedlium", tmp_path, folder=f"{tmp_path}/{folder}")
    domain["corpus"] = corpus
    with pytest.raises(InputError, match=f"tedlium: .*{told}") as fault:
        run([domain], tmp_path)
    assert len(str(fault.value).splitlines()) == 2


def test_dirt_of_ami(tmp_path):
    summary, rows = made("ami", tmp_path, dirt=True)
    assert summary.left_out == {
        ("ami", "pretrain"): {"no such file": 3, BEYOND: 1},
        ("ami", "dev"): {"empty": 3},
    }
    # Though the third headset is lost, the fourth has its own words.
    speakers = [row["spk_id"] for row in rows.values() if row["split"] == "pretrain"]
    assert {s: speakers.count(s) for s in speakers} == {
        "FEE005": 3,
        "MEE006": 3,
        "MIO002": 3,
    }
    assert min(map(likeness, rows.values())) > 0.9


def test_dirt_of_ami_of_the_first_headset(tmp_path):
    """An empty first file must not take the other speakers' segments with it."""
    fixtures.make_ami(tmp_path)
    (tmp_path / "ami/wav_db/ES2002a/audio/ES2002a.Headset-0.wav").write_bytes(b"")
    summary, rows = run([entry("ami", tmp_path)], tmp_path)
    assert summary.left_out == {("ami", "pretrain"): {"empty": 3}}
    assert sum(row["split"] == "pretrain" for row in rows.values()) == 3


def test_dirt_of_voxpopuli(tmp_path):
    summary, rows = made("voxpopuli", tmp_path, dirt=True)
    assert summary.left_out == {
        ("voxpopuli", "pretrain"): {"no such file": 2, SPEAKER_HELD_OUT: 1}
    }
    assert sum(row["split"] == "pretrain" for row in rows.values()) == 2
    assert min(map(likeness, rows.values())) > 0.9


def test_dirt_of_switchboard(tmp_path):
    summary, rows = made("switchboard", tmp_path, dirt=True)
    assert summary.left_out == {
        ("switchboard", "pretrain"): {
            SHORTEN: 2,
            BEYOND: 1,
            "no transcript file": 1,
            "no such file": 1,
        }
    }
    without = {("switchboard", "pretrain"): {"no transcript": 1}}
    assert summary.without_transcript == without
    row = rows["pretrain", "switchboard/all/sw2001A-ms98-a-0005"]
    assert row["wrd"] == "yeah th- yuppiedom about"
    assert len(rows) == 24 + 2


def test_dirt_of_fisher(tmp_path, caplog):
    summary, rows = made("fisher", tmp_path, dirt=True)
    assert "fisher: lhotse: Fisher's *_calldata.tbl files indicate" in caplog.text
    assert summary.left_out == {
        ("fisher", "pretrain"): {"no transcript file": 1, "no such file": 1}
    }
    without = {("fisher", "pretrain"): {"unintelligible words": 2}}
    assert summary.without_transcript == without
    assert summary.notes == {("fisher", "pretrain"): {OVERLAPS: 2}}
    assert {row["spk_id"] for row in rows.values()} == {"1000", "1001", "1002", "1003"}
    said = [row for row in rows.values() if row["wrd"]]
    assert len(said) == 12 and min(map(likeness, said)) > 0.9


def test_dirt_of_callhome(tmp_path):
    summary, rows = made("callhome", tmp_path, dirt=True)
    foreign = {("callhome", "pretrain"): {"foreign words": 1}}
    assert summary.without_transcript == foreign and not summary.left_out
    assert "ah bill said zippy no yes" in {row["wrd"] for row in rows.values()}


def test_dirt_of_hub4(tmp_path):
    summary, rows = made("hub4", tmp_path, dirt=True)
    assert summary.left_out == {("hub4", "pretrain"): {"no transcript file": 1}}
    texts = [row["wrd"] for row in rows.values()]
    assert sum(text.startswith("peter said") for text in texts) == 1
    # The third broadcast has its own words though the second has none; IDs are unique
    # though lhotse gives both segments of a turn the same.
    plain = [row for row in rows.values() if not row["wrd"].startswith("peter")]
    assert len(plain) == 11 and min(map(likeness, plain)) > 0.9


def test_dirt_of_edacc(tmp_path):
    summary, rows = made("edacc", tmp_path, dirt=True)
    ignored = {"marked ignore_time_segment_in_scoring": 1}
    assert summary.left_out == {
        ("edacc", "dev"): ignored,
        ("edacc", "test"): {**ignored, "empty": 1, "foreign words": 1},
    }
    foreign = {("edacc", "dev"): {"foreign words": 1}}
    assert summary.without_transcript == foreign
    assert not list((tmp_path / "edacc").rglob("wav.scp"))  # nothing is written there
    said = [row for row in rows.values() if row["wrd"]]
    assert len(said) == 14 and min(map(likeness, said)) > 0.9


def test_dirt_of_l2_arctic(tmp_path):
    summary, rows = made("l2_arctic", tmp_path, dirt=True)
    assert summary.left_out == {
        ("l2_arctic/read", "test"): {
            "cut short": 1,
            "no such file": 1,
            "recording without segments": 1,
        }
    }
    assert "hkk" not in {row["spk_id"] for row in rows.values()}


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wavs_written_to_a_pipe(tmp_path, size):
    _, before = made("l2_arctic", tmp_path)
    for path in tmp_path.rglob("*.wav"):
        fixtures.pipe(path, size)
    summary, after = run([entry("l2_arctic", tmp_path)], tmp_path)
    assert after == before and not summary.left_out


def test_a_folder_that_cannot_be_written(tmp_path):
    """Root may write everywhere: for root, ``test_dirt_of_edacc`` has to do."""
    needs("edacc")
    root = fixtures.make_edacc(tmp_path)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    try:
        for folder in folders:
            folder.chmod(0o500)
        run([entry("edacc", tmp_path)], tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_a_segment_listed_twice(tmp_path):
    root = fixtures.make_librispeech(tmp_path)
    path = root / "dev-clean/84/198/84-198.trans.txt"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    summary, _ = run([entry("librispeech", tmp_path)], tmp_path)
    assert summary.left_out == {("librispeech", "dev"): {"duplicate": 1}}


# ---------------------------------------------------------------------- 3. what is taken


def test_domains_carved_out_of_one_corpus(tmp_path):
    fixtures.make_l2_arctic(tmp_path)
    domains = [
        entry(
            "l2_arctic", tmp_path, name=name, where={"accent": accents}, splits=splits
        )
        for name, accents, splits in [
            ("hindi", ["Hindi"], {"test": "read"}),
            ("others", ["Arabic", "Korean"], {"pretrain": "read"}),
            ("asian", ["Hindi", "Chinese"], {"pretrain": "read"}),
        ]
    ]
    summary, rows = run(domains, tmp_path)
    speakers = {}
    for row in rows.values():
        speakers.setdefault(row["domain"], set()).add(row["spk_id"])
    assert speakers == {
        "hindi": {"rrbi", "tni"},
        "others": {"aba", "hkk"},
        "asian": {"bwc"},
    }
    # Held out, though they are of another entry.
    assert summary.left_out["asian", "pretrain"][SPEAKER_HELD_OUT] == 6
    assert summary.left_out["hindi", "test"] == {"other accent": 15}

    domains[0]["where"] = {"accent": ["Hindi", "Hindy"]}
    with pytest.raises(
        ValueError, match=r"hindi: where: no accent \['Hindy'\]; .*Arab"
    ):
        run(domains, tmp_path)


def test_an_entry_whose_speakers_are_all_held_out(tmp_path, caplog):
    fixtures.make_l2_arctic(tmp_path)
    women = {"name": "women", "where": {"accent": "Hindi", "gender": "F"}}
    domains = [
        entry("l2_arctic", tmp_path, splits={"test": "read"}),
        entry("l2_arctic", tmp_path, splits={"pretrain": "read"}, **women),
    ]
    told = "women: nothing is left for pretrain: .*3 speaker also in dev or test"
    with pytest.raises(InputError, match=f"(?s){told}.*keep_speakers_apart: False"):
        run(domains, tmp_path)
    assert not list(tmp_path.glob("save/*.csv"))

    domains[1]["keep_speakers_apart"] = False
    summary, rows = run(domains, tmp_path)
    assert {row["spk_id"] for row in rows.values() if row["domain"] == "women"} == {
        "tni"
    }
    assert summary.notes == {("women", "pretrain"): {HEARD: 3}}
    assert f"3 {HEARD}" in summary.table()

    domains[1]["keep_speakers_apart"] = "no"
    with pytest.raises(
        InputError, match="women: keep_speakers_apart: 'no' is not True"
    ):
        run(domains, tmp_path)


def test_a_corpus_of_one_speaker(tmp_path):
    fixtures.make_l2_arctic(tmp_path, number=20)
    splits = {"finetune": "read[0:60]", "dev": "read[60:80]", "test": "read[80:100]"}
    one = entry("l2_arctic", tmp_path, where={"accent": ["Arabic"]}, splits=splits)
    splits = {"finetune": "read[99:100]", "dev": "read[0:99]"}  # nobody by their hashes
    with pytest.raises(InputError, match="l2_arctic: nothing is left for finetune"):
        run([{**one, "splits": splits}], tmp_path)

    one["keep_speakers_apart"] = False
    summary, rows = run([one], tmp_path)
    split_of = {row["ID"]: row["split"] for row in rows.values()}
    assert len(split_of) == 20  # each utterance in one split only
    assert set(split_of.values()) == {"train", "dev", "test"}
    n_train = list(split_of.values()).count("train")
    assert summary.notes == {("l2_arctic", "train"): {HEARD: n_train}}


def test_splits_by_speaker(tmp_path):
    fixtures.make_switchboard(tmp_path)
    splits = {"pretrain": "all[0:50]", "dev": ["all[50:75]"], "test": ["all[75:100]"]}
    summary, rows = run([entry("switchboard", tmp_path, splits=splits)], tmp_path)
    speakers = {}
    for row in rows.values():
        speakers.setdefault(row["split"], set()).add(row["spk_id"])
    assert not summary.left_out and len(rows) == 24
    assert sum(map(len, speakers.values())) == 8 == len(set().union(*speakers.values()))
    assert len(speakers["pretrain"]) > 1


def test_caps_are_kept_and_nest(tmp_path):
    fixtures.make_librispeech(tmp_path, number=8)
    taken = []
    for hours in (20 / 3600, 40 / 3600):
        caps = {"pretrain": hours, "finetune": hours}
        domain = entry("librispeech", tmp_path, max_hours=caps)
        summary, rows = run([domain], tmp_path)
        taken.append({id_ for split, id_ in rows if split == "pretrain"})
        total = summary.totals["librispeech", "pretrain"]
        assert hours * 3600 - 6 < total.seconds <= hours * 3600
        left_out = summary.left_out["librispeech", "pretrain"]
        assert left_out == {"over max_hours": 24 - total.utterances}
        assert summary.totals["librispeech", "train"].seconds <= hours * 3600
    assert taken[0] < taken[1]


def test_manifests_go_with_the_data_or_with_absolute_paths(tmp_path):
    fixtures.make_librispeech(tmp_path / "a")
    fixtures.make_l2_arctic(tmp_path / "b")
    domains = [entry("librispeech", tmp_path / "a"), entry("l2_arctic", tmp_path / "b")]
    prepare.prepare_multi_domain_english(domains, tmp_path / "save", tmp_path / "a")
    lines = (tmp_path / "save/test.csv").read_text().splitlines()[1:]
    wavs = [line.split(",")[2] for line in lines]
    libri = [wav for wav in wavs if wav.startswith("{data_root}/LibriSpeech/test-")]
    arctic = [wav for wav in wavs if wav.startswith(f"{tmp_path}/b/l2arctic")]
    assert len(libri) == 6 and len(arctic) == 22 and len(wavs) == 28
    (tmp_path / "a").rename(tmp_path / "moved")
    manifest.read(tmp_path / "save/test.csv", tmp_path / "moved")


def test_a_second_run_changes_nothing(tmp_path):
    def files():
        return {p: (p.stat().st_ino, p.read_bytes()) for p in tmp_path.rglob("*.*")}

    made("librispeech", tmp_path)
    before = files()
    run([entry("librispeech", tmp_path)], tmp_path)
    assert files() == before
    splits = {"test": ["test-clean"]}
    run([entry("librispeech", tmp_path, splits=splits)], tmp_path)
    assert os.listdir(tmp_path / "save") == ["test.csv"]  # no old pretrain.csv


def test_commonvoice_is_one_of_them(tmp_path):
    fixtures.make_commonvoice(tmp_path)
    (tmp_path / "cv-corpus-17.0-2024-03-15/en/dev.tsv").unlink()
    domain = {
        "name": "au",
        "corpus": "commonvoice",
        "folder": str(tmp_path),
        "options": {"language": "en"},
        "where": {"accents": ["Australian English"]},
        "splits": {"test": ["test"]},
    }
    summary, rows = run([domain], tmp_path)
    assert [row["spk_id"] for row in rows.values()] == ["s9", "s11"]
    assert min(map(likeness, rows.values())) > 0.9
    assert summary.left_out == {("au", "test"): {"other accents": 2}}
    with pytest.raises(ValueError, match="au: en: no .*dev.tsv"):
        run([{**domain, "splits": {"dev": ["dev"]}}], tmp_path)
    with pytest.raises(ValueError, match="au: corpus: commonvoice takes one option"):
        run([{**domain, "options": {}}], tmp_path)


def test_a_tree_for_training(tmp_path):
    summary, rows = run(fixtures.english_tree(tmp_path), tmp_path)
    for domain in ("libri", "ted", "ami"):
        assert summary.totals[domain, "pretrain"].seconds > 30
        assert summary.totals[domain, "dev"].transcribed > 5
    assert summary.totals["libri", "train"].transcribed == 12
    tested = {row["domain"] for row in rows.values() if row["split"] == "test"}
    assert tested == {"libri/test-clean", "libri/test-other", "ted", "ami", "hindi"}
    assert summary.left_out == {("hindi", "test"): {"other accent": 15}}


def test_the_list_of_domains_and_the_readmes_addition(tmp_path):
    """As they stand there, on fixtures in the folders that they name."""
    pytest.importorskip("bs4")
    for name in (*CORPORA, "commonvoice"):
        getattr(fixtures, f"make_{name}")(tmp_path)
    blocks = re.findall(r"```yaml\n(.*?)```", (RECIPE / "README.md").read_text(), re.S)
    (added,) = blocks
    domains = prepare.load_domains(None, str(tmp_path))
    summary, rows = run(domains, tmp_path)
    used = {(domain, split) for domain, split in summary.totals}
    for name, splits in [(d["name"], d["splits"]) for d in domains]:
        for use, parts in splits.items():
            several = use == "test" and len(parts) > 1
            for part in parts:
                domain = f"{name}/{part}" if several else name
                few = "[" in part  # speakers, so that some percent may have none
                assert few or (domain, prepare.USES[use]) in used
    fixtures.make_ljspeech(tmp_path)
    added = load_hyperpyyaml(f"data_root: {tmp_path}\ndomains:\n{added}")["domains"]
    summary, rows = run(added, tmp_path)
    assert summary.totals["ljspeech", "pretrain"].transcribed == 3
    assert min(map(likeness, rows.values())) > 0.9


# ------------------------------------------------------------------ 4. what is asked for


def test_all_faults_at_once(tmp_path, monkeypatch):
    for name in ("librispeech", "switchboard", "callhome", "voxpopuli", "hub4"):
        getattr(fixtures, f"make_{name}")(tmp_path)
    (tmp_path / "voxpopuli/asr_en.tsv.gz").unlink()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "bs4" else find_spec(name),
    )
    good = entry("librispeech", tmp_path)
    domains = [
        good,
        good,
        {**good, "name": "a", "corpus": "librispeach"},
        {**good, "name": "b", "folder": f"{tmp_path}/nowhere"},
        {**good, "name": "c", "options": {"part": 1}},
        {**good, "name": "d", "splits": {"train": ["x"]}},
        {**good, "name": "e", "max_hours": {"finetune": 0, "fine": 1}},
        {**good, "name": "f", "splits": {"dev": "all[80:20]"}},
        {**good, "name": "g", "wher": {}},
        {"name": "h", "corpus": "librispeech"},
        {**entry("switchboard", tmp_path), "name": "i", "options": {}},
        {**entry("callhome", tmp_path), "name": "j", "options": {}},
        entry("voxpopuli", tmp_path, name="k"),
        {**entry("hub4", tmp_path), "name": "l", "options": {"transcripts_dir": "/no"}},
        "m",
        {**good, "name": "n", "splits": ["all"], "max_hours": 5},
    ]
    with pytest.raises(ValueError) as error:
        run(domains, tmp_path)
    told = str(error.value).splitlines()
    expected = [
        "domains: 19 error(s)",
        "  librispeech: this name is taken",
        "  a: lhotse has no corpus 'librispeach'; the nearest are ['librispeech'",
        f"  b: no folder {tmp_path}/nowhere",
        "  c: prepare_librispeech has no option 'part'; it has ['alignments_dir'",
        "  d: splits: ['train'] unknown; known: ['pretrain', 'finetune'",
        "  e: max_hours: finetune: 0 is not a positive number of hours",
        "  e: max_hours: fine is not in splits",
        "  f: splits: all[80:20]: percents go up",
        "  g: unknown keys ['wher']; known: ['name', 'corpus'",
        "  h: no folder",
        "  h: no splits",
        "  i: option transcripts_dir is needed: the ISIP transcripts",
        "  j: option transcript_dir is needed: LDC97T14",
        f"  k: no asr_en.tsv.gz in {tmp_path}/voxpopuli; get https://dl.fbaipublic",
        "  l: option transcripts_dir: no folder /no",
        "  l: its reader needs a package: pip install beautifulsoup4",
        "  entry 15: not a mapping but 'm'",
        "  n: splits: not a mapping but ['all']",
        "  n: max_hours: not a mapping but 5",
    ]
    for line, start in zip(told, expected):
        assert line.startswith(start), line
    assert len(told) == len(expected)
    assert not (tmp_path / "save").exists()


def test_a_part_that_is_not_there(tmp_path):
    fixtures.make_voxpopuli(tmp_path)
    domain = entry("voxpopuli", tmp_path, splits={"test": ["tset"]})
    told = r"voxpopuli: .* gives no part 'tset' but \['dev', 'test', 'train'\]"
    with pytest.raises(ValueError, match=told):
        run([domain], tmp_path)
    fixtures.make_librispeech(tmp_path)
    domain = entry("librispeech", tmp_path, splits={"test": ["test-claen"]})
    with pytest.raises(ValueError, match="librispeech: .* nothing in 'test-claen'"):
        run([domain], tmp_path)


def test_a_reader_that_fails_is_named(tmp_path):
    root = fixtures.make_ami(tmp_path)
    path = root / "ami_public_manual_1.6.2/corpusResources/meetings.xml"
    path.write_text(path.read_text().replace("global_name", "name"))
    told = "ami: .*prepare_ami cannot .*global_name.*; the last file .*/meetings.xml$"
    with pytest.raises(ValueError, match=told):
        run([entry("ami", tmp_path)], tmp_path)


def test_nothing_is_downloaded(tmp_path):
    call = Call()
    with lenient(switchboard, call), pytest.raises(ValueError, match="would download"):
        switchboard.download_and_untar(tmp_path)
    with lenient(voxpopuli, call), pytest.raises(ValueError, match="would download"):
        voxpopuli.download_url_to_file("https://example.org", tmp_path / "x")
    with lenient(voxpopuli, call), pytest.raises(ValueError, match="would download"):
        urllib.request.urlopen("https://example.org")


def test_lhotse_is_as_before_afterwards(tmp_path):
    modules = [switchboard, voxpopuli, lhotse.audio.recording_set, lhotse.kaldi]
    owners = [*modules, lhotse.audio.Recording, urllib.request, logging.root]
    before = [dict(vars(owner)) for owner in owners]
    handlers = list(logging.root.handlers)
    path = tmp_path / "empty.wav"
    path.touch()
    patches = {"RecordingSet": None, "check_and_rglob": None}
    with pytest.raises(KeyError), lenient(switchboard, Call(), patches):
        assert switchboard.RecordingSet is None
        assert lhotse.audio.Recording.from_file(path).num_samples == 0
        raise KeyError
    assert [dict(vars(owner)) for owner in owners] == before
    assert logging.root.handlers == handlers


def test_headers(tmp_path):
    samples = np.stack([np.sin(np.arange(16000)), np.zeros(16000)], 1)
    for name, kwargs in {
        "a.wav": {},
        "a.flac": {},
        "a.sph": {"format": "NIST", "subtype": "ULAW"},
        "a.ogg": {"format": "OGG"},
    }.items():
        path = fixtures.write(tmp_path / name, samples, 8000, **kwargs)
        header = read_header(path)
        assert (header.frames, header.rate, header.channels) == (16000, 8000, 2)
        assert not header.problem and not header.cut
        fixtures.cut(path)
        header = read_header(path)
        if name in ("a.flac", "a.ogg"):
            assert header.problem in ("cut short", "unreadable")
        else:
            assert 0 < header.frames < 9000 and header.cut
    (tmp_path / "text.wav").write_text("Not Found" * 1000)
    assert read_header(tmp_path / "text.wav").problem == "unreadable"
    assert read_header(tmp_path / "gone.wav").problem == "no such file"
    wav = fixtures.write(
        tmp_path / "b.wav", samples, 8000
    )  # what sph2pipe -f wav makes
    assert read_header(wav.rename(tmp_path / "b.sph")).frames == 16000


def test_command_line(tmp_path, monkeypatch, caplog):
    fixtures.make_librispeech(tmp_path)
    text = """data_root: !PLACEHOLDER
domains:
  - name: libri
    corpus: librispeech
    folder: !ref <data_root>/LibriSpeech
    splits: {test: [test-clean]}
"""
    (tmp_path / "domains.yaml").write_text(text)
    command = ["prepare.py", f"{tmp_path}/domains.yaml", f"{tmp_path}/save"]
    monkeypatch.setattr("sys.argv", [*command, "--data_root", str(tmp_path)])
    with caplog.at_level(logging.INFO):
        prepare.main()
    assert "| libri  | test  | 3          | 3           | 0.00  |" in caplog.text
    assert "{data_root}/LibriSpeech/" in (tmp_path / "save/test.csv").read_text()

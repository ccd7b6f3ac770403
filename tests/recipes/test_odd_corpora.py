"""One odd line or file in a corpus costs its utterance, and no other.

Each case spoils one thing in a whole corpus; what is read is compared with what is read
of the whole one, row by row.
"""

import builtins
import glob
import gzip
import os
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hetero_brain.data.corpora import lhotse_corpora
from hetero_brain.data.corpora.text_files import EMPTY, TextFiles
from hetero_brain.data.corpora.transcript_lines import BLANK, ODD
from tests.recipes.test_multi_domain_english_prepare import (
    entry,
    fixtures,
    likeness,
    needs,
    run,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function: the folder of a whole corpus, and its rows."""

    @cache
    def make(name):
        root = tmp_path_factory.mktemp(name)
        getattr(fixtures, f"make_{name}")(root)
        shutil.copytree(root, root.with_name(f"{root.name}-read"))
        _, rows = run([entry(name, root)], root)
        shutil.rmtree(root / "save")
        return root, content(rows, root)

    return make


def content(rows, root):
    """What matters of rows: {(split, file, channel, start, stop): (speaker, words)}."""
    kept = {}
    for row in rows.values():
        wav = str(Path(row["wav"]).relative_to(root))
        key = (row["split"], wav, row.get("channel"), row["start"], row["stop"])
        assert key not in kept
        kept[key] = row["spk_id"], row["wrd"]
    return kept


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


def insert(pattern, line, at):
    """A line more, at a place."""

    def spoil(root):
        change(first(root, pattern), lambda lines: lines.insert(at, line))

    return spoil


def alter(pattern, at, function):
    """A line that is another."""

    def spoil(root):
        def change_one(lines):
            lines[at] = function(lines[at])

        change(first(root, pattern), change_one)

    return spoil


def change(path, function):
    packed = path.suffix == ".gz"
    text = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    lines = text.split(b"\n")
    function(lines)
    text = b"\n".join(lines)
    path.write_bytes(gzip.compress(text) if packed else text)


def words(number, separator=b" "):
    """Of a line, its first fields."""
    return lambda line: separator.join(line.split(separator)[:number])


def latin(line):
    return line.rstrip() + b" caf\xe9"


def replace(pattern, at, old, new):
    return alter(pattern, at, lambda line: line.replace(old, new, 1))


def renamed(pattern, name):
    def spoil(root):
        path = first(root, pattern)
        path.rename(path.with_name(name))

    return spoil


def empty(pattern):
    return lambda root: first(root, pattern).write_bytes(b"")


def lost(pattern):
    return lambda root: first(root, pattern).unlink()


def cut(pattern, share=2 / 3):
    return lambda root: fixtures.cut(first(root, pattern), share)


def copied(pattern, name):
    """A file that a system or a person leaves behind beside another."""

    def spoil(root):
        path = first(root, pattern)
        path.with_name(name.format(path.name)).write_bytes(b"\0\5\26\7\xff")

    return spoil


COMMENT = b";; a comment of some more words than a line needs to have"
STM, TRANS, TEXT = "train/stm/*.stm", "train-clean-100/**/*.trans.txt", "*trans.text"
FISHER, TABLE, CALLHOME = "data/trans/*/*.txt", "*_calldata.tbl", "train/*.txt"
TSV, SGML, SAID = "asr_en.tsv.gz", "ea980101.sgml", "ABA/transcript/*.txt"
SEGMENTS, WORDS = "ES2002a.A.segments.xml", "ES2002a.A.words.xml"
SPEAKERS = "linguistic_background.csv"
UNHEARD = {"lhotse: No annotation found for recording (file": 1}
NOT_SGML = {"transcript not understood": 1}
NOT_XML = {"annotations not understood": 1, **UNHEARD}
HALF = {"annotations without their other half": 1, **UNHEARD}
PART = {"segment without text or speaker": 1}
NO_TEXT = {"no transcript file": 1}
DAMAGED = "damaged text"
NO_SEGMENTS = "recording without segments"

# {corpus: {what is odd: what spoils it, what is left out, how many rows are not there,
# and of how many there are no words}}; the last three are nothing where they are not
# given.
CASES = {
    "librispeech": {
        "blank line": (insert(TRANS, b"", 1), {BLANK: 1}),
        "spaces": (insert(TRANS, b"  \t", 2), {BLANK: 1}),
        "comment": (insert(TRANS, COMMENT, 0), {"lhotse: No such file": 1}),
        "ID alone": (alter(TRANS, 1, words(1)), {ODD: 1}, 2),
        "latin-1": (alter(TRANS, 1, latin), {DAMAGED: 1}, 1, 1),
        "BOM": (alter(TRANS, 0, lambda line: b"\xef\xbb\xbf" + line),),
        "cut": (cut(TRANS, 0.9), {DAMAGED: 1}, 1, 1),
        "empty": (empty(TRANS), {EMPTY: 1}, 6),
        "stray": (copied(TRANS, "._{}"),),
    },
    "tedlium": {
        "blank line": (insert(STM, b"", 1), {BLANK: 1}),
        "comment": (insert(STM, COMMENT, 0), {ODD: 1}),
        "short comment": (insert(STM, b"# Ted", 0), {ODD: 1}),
        "no words": (alter(STM, 1, words(6)), {}, 0, 1),
        "no label": (alter(STM, 1, words(5)), {ODD: 1}, 1),
        "no times": (alter(STM, 1, words(3)), {ODD: 1}, 1),
        "nan": (alter(STM, 1, lambda x: x.replace(x.split()[4], b"nan")), {ODD: 1}, 1),
        "latin-1": (alter(STM, 1, latin), {}, 0, 1),
        "U+2028": (replace(STM, 1, b" ", b"\xe2\x80\xa8"),),
        "empty": (empty(STM), {EMPTY: 1}, 3),
        "lost": (lost(STM), NO_TEXT, 3),
        "stray": (copied(STM, "._{}"),),
    },
    "switchboard": {
        "blank line": (insert(TEXT, b"", 1), {BLANK: 1}),
        "comment": (insert(TEXT, COMMENT, 1), {ODD: 1}),
        "no words": (alter(TEXT, 1, words(3)), {ODD: 1}, 1),
        "ID alone": (alter(TEXT, 1, words(1)), {ODD: 1}, 1),
        "latin-1": (alter(TEXT, 1, latin), {}, 0, 1),
        "empty": (empty(TEXT), {EMPTY: 1}, 3),
        "lost": (lost(TEXT), NO_TEXT, 6),
        "stray": (copied(TEXT, "._{}"),),
    },
    "fisher": {
        "no words": (alter(FISHER, 3, words(3)), {}, 0, 1),
        "no side": (alter(FISHER, 3, words(2)), {ODD: 1}, 1),
        "no colon": (replace(FISHER, 3, b":", b""), {ODD: 1}, 1),
        "odd side": (replace(FISHER, 3, b"B:", b"C:"), {ODD: 1}, 1),
        "one time": (alter(FISHER, 3, words(1)), {ODD: 1}, 1),
        "comment": (insert(FISHER, COMMENT, 5), {ODD: 1}),
        "latin-1": (alter(FISHER, 3, latin), {}, 0, 1),
        "empty": (empty(FISHER), {EMPTY: 1}, 6),
        "lost": (lost(FISHER), NO_TEXT, 6),
        "blank row": (insert(TABLE, b"", 1),),
        "cut row": (alter(TABLE, 1, words(8, b",")), {"call without speakers": 1}, 6),
        "stray": (copied(FISHER, ".DS_Store"),),
        "readme": (copied("fe_03_p1_sph1", "readme.txt"),),
        "folder": (lambda root: first(root, "LDC2004S13").joinpath("docs").mkdir(),),
    },
    "callhome": {
        "no words": (alter(CALLHOME, 2, words(3)), {ODD: 1}, 1),
        "one time": (alter(CALLHOME, 2, words(1)), {ODD: 1}, 1),
        "no times": (alter(CALLHOME, 2, lambda x: x.split(b" ", 2)[2]), {ODD: 1}, 1),
        "comment": (insert(CALLHOME, COMMENT, 1), {ODD: 1}),
        "wrapped": (alter(CALLHOME, 2, lambda x: b"\n".join(x.rsplit(b" ", 1))),),
        "odd and wrapped": (alter(CALLHOME, 2, lambda x: b"1.00\nmore"), {ODD: 2}, 1),
        "no first line": (insert(CALLHOME, b"and on", 0), {ODD: 1}),
        "empty": (empty(CALLHOME), {EMPTY: 1}, 6),
        "no start": (alter(CALLHOME, 2, lambda line: line[-9:]), {ODD: 2}, 2),
        "twice": (alter(CALLHOME, 2, lambda x: x + b"\n" + x), {"duplicate": 1}),
        "cut": (cut(CALLHOME, 0.7), {}, 1, 1),
        "latin-1": (alter(CALLHOME, 2, latin), {}, 0, 1),
        "stray": (copied(CALLHOME, "._{}"),),
    },
    "voxpopuli": {
        "blank line": (insert(TSV, b"", 1), {BLANK: 1}),
        "cut row": (alter(TSV, 1, words(7, b"|")), {ODD: 1}, 1),
        "no times": (alter(TSV, 1, lambda x: words(10, b"|")(x) + b"||"), {ODD: 1}, 1),
        "comment": (insert(TSV, COMMENT, 1), {ODD: 1}),
        "open quote": (replace(TSV, 1, b"id0|", b'id0|"'), {ODD: 1}, 1),
        "latin-1": (replace(TSV, 1, b"|5|", b" caf\xe9|5|"), {}, 0, 1),
        "stray": (copied("*.ogg", "._{}"),),
    },
    "hub4": {
        "blank line": (insert(SGML, b"", 4),),
        "comment": (insert(SGML, COMMENT, 4), {ODD: 1}),
        "latin-1": (alter(SGML, 4, latin), {}, 0, 1),
        "cut": (cut(SGML), NOT_SGML, 6),
        "cut tag": (alter(SGML, 5, lambda line: line[:-3]), NOT_SGML, 6),
        "no time": (alter(SGML, 5, lambda line: b"<time>"), NOT_SGML, 6),
        "odd tag": (alter(SGML, 5, lambda x: x[:-2] + b"\xe9" + x[-2:]), NOT_SGML, 6),
        "rest of a tag": (alter(SGML, 5, lambda line: line[-4:]), NOT_SGML, 6),
        "lost tag": (alter(SGML, 7, lambda line: b""), NOT_SGML, 6),
        "empty": (empty(SGML), NOT_SGML, 6),
        "lost": (lost(SGML), NO_TEXT, 6),
        "stray": (copied(SGML, "._{}"),),
    },
    "edacc": {
        "blank line": (insert("dev/segments", b"", 1), {BLANK: 1}),
        "comment": (insert("dev/segments", COMMENT, 0), {ODD: 1}),
        "one time": (alter("dev/segments", 1, words(3)), {ODD: 1}, 1),
        "ID alone": (alter("dev/segments", 1, words(1)), {ODD: 1}, 1),
        "no words": (alter("dev/text", 1, words(1)), {}, 0, 1),
        "no text": (alter("dev/text", 1, words(0)), PART, 1),
        "text comment": (insert("dev/text", COMMENT, 1),),
        "tab": (replace("dev/text", 1, b" ", b"\t"),),
        "latin-1": (alter("dev/text", 1, latin), {}, 0, 1),
        "odd speaker": (
            alter("dev/utt2spk", 1, lambda line: line + b"\xe9"),
            {"damaged speaker": 1},
            1,
        ),
        "no speaker": (alter("dev/utt2spk", 1, words(1)), PART, 1),
        "blank speaker": (insert("dev/utt2spk", b"", 1),),
        "blank gender": (insert("dev/spk2gender", b"", 1),),
        "blank call": (insert("dev/conv.list", b"", 0),),
        "cut row": (alter(SPEAKERS, 1, words(2, b",")),),
        "no row": (alter(SPEAKERS, 1, words(0, b",")),),
        "cut text": (cut("dev/text", 0.95), {}, 0, 1),
        "empty text": (
            empty("dev/text"),
            {EMPTY: 1, "segment without text or speaker": 6},
            6,
        ),
        "cut table": (cut(SPEAKERS, 0.1),),
        "empty table": (empty(SPEAKERS),),
        "odd year": (replace(SPEAKERS, 1, b"1990", b"about 1990"),),
        "row of comment": (insert(SPEAKERS, b"# a, b", 2),),
        "open quote": (replace(SPEAKERS, 1, b"Female", b'"Female'),),
        "latin-1 row": (alter(SPEAKERS, 1, latin),),
        "stray": (copied("*.wav", "._{}"),),
    },
    "l2_arctic": {
        "blank line": (insert(SAID, b"", 0),),
        "latin-1": (alter(SAID, 0, latin), {DAMAGED: 1}, 1),
        "empty": (empty(SAID), {"no transcript": 1}, 1),
        "lost": (lost(SAID), {NO_SEGMENTS: 1}, 1),
        "stray": (copied(SAID, "._{}"),),
        "stray audio": (copied("*.wav", "._{}"),),
        "readme": (copied("ABA", "readme.txt"),),
        "unknown": (renamed("ABA", "XYZ"), {"unknown speaker": 3, NO_SEGMENTS: 3}, 3),
    },
    "ami": {
        "blank line": (insert(WORDS, b"", 4),),
        "comment": (insert(WORDS, b"<!-- a comment -->", 4),),
        "latin-1": (replace(WORDS, 3, b"</w>", b"\xe9</w>"), {}, 0, 1),
        "lost words": (lost(WORDS), HALF, 3),
        "lost segments": (lost(SEGMENTS), HALF, 3),
        "cut words": (cut(WORDS), NOT_XML, 3),
        "cut segments": (cut(SEGMENTS), NOT_XML, 3),
        "empty words": (empty(WORDS), NOT_XML, 3),
        "no end": (replace(SEGMENTS, 3, b"transcriber_end", b"end"), NOT_XML, 3),
        "no start": (replace(SEGMENTS, 3, b'_start="', b'_start="x'), NOT_XML, 3),
        "no word": (alter(WORDS, 3, lambda x: x.split(b">")[0] + b"/>"), NOT_XML, 3),
        "stray": (copied(SEGMENTS, "._{}"),),
        "Thumbs.db": (copied(WORDS, "Thumbs.db"),),
        "readme": (copied(WORDS, "README"),),
        "backup": (copied(WORDS, "{}~"),),
    },
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in CASES.items() for kind in kinds]
)
def test_an_odd_line_or_file(whole, name, kind):
    compare(whole, name, *CASES[name][kind])


def compare(whole, name, spoil, left_out=None, gone=0, wordless=0):
    """Spoils a whole corpus, and compares."""
    needs(name)
    root, before = whole(name)
    mine = root.with_name(f"{root.name}-read")
    try:
        spoil(mine)
        summary, rows = run([entry(name, mine)], mine)
    finally:
        shutil.rmtree(mine)
        shutil.copytree(root, mine)
    after = content(rows, mine)
    assert not after.keys() - before.keys()
    assert len(before.keys() - after.keys()) == gone
    changed = [after[key] for key in after if after[key] != before[key]]
    assert [text for _, text in changed] == [""] * wordless
    assert sum(summary.left_out.values(), Counter()) == (left_out or {})


def test_a_time_of_hub4_without_text(tmp_path):
    """It is a segment without words, and the next one starts at its own time."""
    needs("hub4")
    fixtures.make_hub4(tmp_path)
    _, before = run([entry("hub4", tmp_path)], tmp_path)
    change(first(tmp_path, SGML), lambda lines: lines.pop(4))
    summary, after = run([entry("hub4", tmp_path)], tmp_path)
    (wordless,) = (key for key, row in after.items() if not row["wrd"])
    assert (
        before[wordless]["wrd"] and {**before[wordless], "wrd": ""} == after[wordless]
    )
    assert {**before, wordless: after[wordless]} == after
    assert summary.without_transcript == {("hub4", "pretrain"): {"no transcript": 1}}


@pytest.mark.parametrize("mic", ["ihm", "sdm"])
def test_several_odd_lines_in_several_files(tmp_path, mic, caplog):
    """Each costs what it costs alone, and is named in a warning."""
    fixtures.make_ami(tmp_path)
    fixtures.make_tedlium(tmp_path)
    for spoil in (
        *(cut(WORDS), replace("ES2011a.B.words.xml", 3, b"endtime", b"end")),
        *(
            insert(STM, b"", 1),
            alter(STM, 0, words(3)),
            insert("dev/stm/*", COMMENT, 2),
        ),
    ):
        spoil(tmp_path)
    options = {"mic": mic, "partition": "full-corpus-asr"}
    domains = [entry("ami", tmp_path, options=options), entry("tedlium", tmp_path)]
    summary, rows = run(domains, tmp_path)
    unheard = {key: 2 for key in UNHEARD} if mic == "ihm" else {}
    assert summary.left_out == {
        ("ami", "all"): {"annotations not understood": 2, **unheard},
        ("tedlium", "pretrain"): {BLANK: 1, ODD: 1},
        ("tedlium", "dev"): {ODD: 1},
    }
    assert len(rows) == 18 - 6 + 12 - 1
    for folder in (domain["folder"] for domain in domains):
        assert f"{folder}: left out of its text:\n  " in caplog.text
    if mic == "ihm":
        assert min(map(likeness, rows.values())) > 0.9


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("edacc", "EDACC-C06.wav"),
        ("ami", "ES2002a.Headset-0.wav"),
        ("hub4", "ea980101.sph"),
    ],
)
def test_a_recording_unlike_the_others(tmp_path, name, file):
    """Two channels, at another rate: rows name the first, and samples at that rate."""
    needs(name)
    getattr(fixtures, f"make_{name}")(tmp_path)
    path = first(tmp_path, file)
    samples, rate = soundfile.read(path)
    both = np.stack([samples.repeat(2), np.zeros(2 * len(samples))], 1)
    kind = {"format": "NIST"} if path.suffix == ".sph" else {}
    soundfile.write(path, both, 2 * rate, **kind)
    summary, rows = run([entry(name, tmp_path)], tmp_path)
    assert not summary.left_out
    mine = [row for row in rows.values() if row["wav"] == str(path)]
    assert len(mine) >= 3 and {row["channel"] for row in mine} == {0}
    assert min(map(likeness, mine)) > 0.8


# ------------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("librispeech", TRANS), ("tedlium", STM), ("aishell", "*0.8.txt")],
)
def test_an_error_names_file_and_line(tmp_path, monkeypatch, name, pattern):
    """Of readers that nothing is withheld from: by tasks of a pool, line by line, and
    from a list of lines."""
    monkeypatch.setattr(lhotse_corpora, "CHECKS", {})
    for make in (fixtures.make_librispeech, fixtures.make_tedlium):
        make(tmp_path)
    aishell = tmp_path / "data_aishell/transcript/aishell_transcript_v0.8.txt"
    fixtures.write_text(aishell, "BAC009S0002W0122 而 对\n" * 3)
    insert(pattern, b"", 2)(tmp_path)
    splits = {"pretrain": ["train"]}
    domain = {"name": name, "corpus": name, "folder": str(tmp_path), "splits": splits}
    domain = domain if name == "aishell" else entry(name, tmp_path)
    told = f"; it was reading {first(tmp_path, pattern)}, line 3$"
    with pytest.raises(ValueError, match=told):
        run([domain], tmp_path)


def test_an_error_names_the_file_that_is_read_as_a_whole(tmp_path):
    fixtures.make_ami(tmp_path)
    cut("meetings.xml")(tmp_path)
    told = r"token.*: line 4.*; the last file that it read is .*/meetings.xml$"
    with pytest.raises(ValueError, match=told):
        run([entry("ami", tmp_path)], tmp_path)
    fixtures.make_voxpopuli(tmp_path)
    cut(TSV)(tmp_path)
    with pytest.raises(ValueError, match="asr_en.tsv.gz is cut short or damaged"):
        run([entry("voxpopuli", tmp_path)], tmp_path)


def test_a_corpus_of_which_nothing_is_left(tmp_path, caplog):
    fixtures.make_librispeech(tmp_path)
    for at in range(3):
        alter("dev-clean/**/*.trans.txt", at, words(1))(tmp_path)
    dev = entry("librispeech", tmp_path, splits={"dev": "dev-clean"})
    told = (
        r"is left of dev-clean: left out .*:(\n  .*84-198.trans.txt, line \d: .*){3}$"
    )
    with pytest.raises(ValueError, match=told):
        run([dev], tmp_path)
    summary, _ = run([entry("librispeech", tmp_path)], tmp_path)  # of it all, there is
    assert summary.left_out == {("librispeech", "dev"): {ODD: 3}}
    assert "nothing is left of 'dev-clean'" in caplog.text


def test_a_table_of_no_call(tmp_path):
    fixtures.make_fisher(tmp_path)
    change(first(tmp_path, TABLE), lambda lines: lines.__delitem__(slice(1, None)))
    told = r"cannot read it.*: left out .*(\n  .*: call without speakers: .*){2}$"
    with pytest.raises(ValueError, match=told):
        run([entry("fisher", tmp_path)], tmp_path)


# ------------------------------------------------------------------------ the text files


def test_files_are_served_below_the_roots_only(tmp_path):
    names = (
        "open",
        Path.open,
        Path.glob,
        Path.rglob,
        Path.iterdir,
        os.listdir,
        glob.glob,
    )
    before = [builtins.open, *names[1:]]
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_bytes(b"\xff\n")
    with pytest.raises(KeyError), TextFiles([tmp_path / "in"]).served():
        assert (tmp_path / "in/a.txt").read_text() == "\ufffd\n"
        with pytest.raises(UnicodeDecodeError):
            (tmp_path / "out/a.txt").read_text(encoding="utf-8")
        (tmp_path / "in/b.txt").write_text("new")
        with open(tmp_path / "in/b.txt", "a") as file:
            file.write("er")
        assert open(tmp_path / "in/b.txt", "rb").read() == b"newer"
        raise KeyError
    after = [Path.open, Path.glob, Path.rglob, Path.iterdir, os.listdir, glob.glob]
    assert [builtins.open, *after] == before


def test_a_corpus_below_a_hidden_folder(tmp_path):
    """Only what is hidden within the corpus is not listed."""
    root = tmp_path / ".cache/data"
    fixtures.make_librispeech(root)
    _, rows = run([entry("librispeech", root)], root)
    assert len(rows) == 9 + 6 + 3 + 6

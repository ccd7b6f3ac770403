"""The manifest: what is written is read back, and every error is reported."""

import csv
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from speechbrain.dataio.dataset import DynamicItemDataset

from hetero_brain.data import manifest
from hetero_brain.data.manifest import COLUMNS, ManifestError, first_look, read, write

ROWS = [
    {
        "ID": "fr/b",
        "duration": 1.23456,
        "wav": "{data_root}/b.wav",
        "domain": "fr",
        "spk_id": "June",
        "wrd": "à demain",
    },
    {
        "ID": "en/a",
        "duration": 2,
        "wav": "{data_root}/long.wav",
        "start": 16000,
        "stop": 48000,
        "domain": "en",
        "spk_id": "",
        "wrd": 'he said "one, two"',
    },
    {"ID": "fr/c", "duration": 0.5, "wav": "{data_root}/b.wav", "domain": "fr"},
]
HEADER = ",".join(COLUMNS)
GOOD = "a,1.0,a.wav,,,en,s,one"


@pytest.fixture
def folder(tmp_path):
    """A data root with the audio files of ``ROWS`` and of ``GOOD``."""
    for name in ("a.wav", "b.wav", "long.wav"):
        (tmp_path / name).touch()
    return tmp_path


def put(path, *lines, header=HEADER, end="\n", encoding="utf-8"):
    """Write a CSV file without ``manifest.write``."""
    path.write_bytes((end.join([header, *lines]) + end).encode(encoding))
    return path


def message(path, **options):
    """The message of the error that ``read`` raises."""
    with pytest.raises(ManifestError) as error:
        read(path, **options)
    return str(error.value)


def test_rows_come_back(folder):
    write(folder / "new/folder/train.csv", iter(ROWS))
    rows = read(folder / "new/folder/train.csv", data_root=folder)
    assert len(rows) == 3
    assert rows.domains == ("en", "fr")
    assert rows.domain.tolist() == [1, 0, 1] and rows.domain.dtype == np.int16
    assert rows.duration.dtype == np.float32
    np.testing.assert_array_equal(rows.duration, np.float32([1.2346, 2, 0.5]))
    assert rows[1] == {
        "ID": "en/a",
        "duration": 2.0,
        "wav": f"{folder}/long.wav",
        "start": 16000,
        "stop": 48000,
        "domain": "en",
        "spk_id": "",
        "wrd": 'he said "one, two"',
    }
    assert [row["ID"] for row in rows] == ["fr/b", "en/a", "fr/c"]
    assert rows[-1] == rows[np.int64(2)]
    assert rows[-1]["start"] is None and rows[-1]["wrd"] == ""
    with pytest.raises(IndexError):
        rows[3]


def test_channels(folder):
    rows = [{**ROWS[0], "channel": 0}, {**ROWS[1], "channel": 1}, ROWS[2]]
    write(folder / "c.csv", rows, (*COLUMNS, "channel"))
    header, *lines = (folder / "c.csv").read_text().splitlines()
    assert header == HEADER + ",channel"
    assert [line[-2:] for line in lines] == [",0", ",1", ",,"]
    got = read(folder / "c.csv", data_root=folder)
    assert [row["channel"] for row in got] == [0, 1, None]
    write(folder / "without.csv", ROWS)
    assert "channel" not in read(folder / "without.csv", data_root=folder)[0]
    with pytest.raises(ManifestError, match=r"row 2: unknown columns \['channel'\]"):
        write(folder / "without.csv", rows)


@pytest.mark.parametrize("channel", ["-1", "1.0", "A", "0 1", "²"])
def test_a_channel_that_is_not_a_number_is_an_error(folder, channel):
    lines = (f"{GOOD},", f"{GOOD.replace('a', 'b', 1)},{channel}")
    path = put(folder / "t.csv", *lines, header=HEADER + ",channel")
    reported = message(path, check_files=False).splitlines()
    assert reported[1:] == [f"  row 3: channel {channel!r} is not a number from 0 on"]


def test_speechbrain_reads_it(folder):
    write(folder / "train.csv", ROWS)
    ours = read(folder / "train.csv", data_root="{data_root}", check_files=False)
    theirs = DynamicItemDataset.from_csv(folder / "train.csv").data
    assert list(theirs) == [row["ID"] for row in ours]
    for row in ours:
        their_row = theirs[row["ID"]]
        assert row["duration"] == their_row["duration"]
        for key in ("wav", "domain", "spk_id", "wrd"):
            assert row[key] == their_row[key]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_mark(folder, end, encoding):
    header = "wrd,extra,ID,duration,wav,start,stop,domain,spk_id"
    lines = ["été,x,é,1,a.wav,,,en,s", "", 'b, "y",b,2,a.wav,3,16003,en,"s,t"', ""]
    path = put(folder / "t.csv", *lines, header=header, end=end, encoding=encoding)
    rows = read(path, check_files=False)
    assert [(r["ID"], r["wrd"], r["spk_id"], r["extra"]) for r in rows] == [
        ("é", "été", "s", "x"),
        ("b", "b", "s,t", "y"),
    ]
    assert (rows[1]["start"], rows[1]["stop"]) == (3, 16003)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("b,1.0,a.wav,,,en,s", "7 fields instead of 8"),
        ("b,1.0,a.wav,,,en,s,one,two", "9 fields instead of 8"),
        ('b,1.0,a.wav,,,en,s,"one', "unreadable: unexpected end of data"),
        ("a,1.0,a.wav,,,en,s,one", "ID 'a' is already in row 2"),
        (",1.0,a.wav,,,en,s,one", "empty ID"),
        ("b,1.0,,,,,s,one", "empty wav and domain"),
        ("b,zero,a.wav,,,en,s,one", "duration 'zero' is not a positive number"),
        ("b,0.0,a.wav,,,en,s,one", "duration '0.0'"),
        ("b,-1,a.wav,,,en,s,one", "duration '-1'"),
        ("b,nan,a.wav,,,en,s,one", "duration 'nan'"),
        ("b,inf,a.wav,,,en,s,one", "duration 'inf'"),
        ("b,,a.wav,,,en,s,one", "duration ''"),
        ("b,1.0,a.wav,0,,en,s,one", "start '0' and stop ''"),
        ("b,1.0,a.wav,,5,en,s,one", "start '' and stop '5'"),
        ("b,1.0,a.wav,5,5,en,s,one", "start '5' and stop '5'"),
        ("b,1.0,a.wav,-1,5,en,s,one", "start '-1' and stop '5'"),
        ("b,1.0,a.wav,0.0,5.0,en,s,one", "start '0.0' and stop '5.0'"),
        (
            "b,10,a.wav,10,20,en,s,one",
            "start 10 to stop 20 in a duration of 10 s are 1 sa",
        ),
        (
            "b,1000,a.wav,0,16000,en,s,one",
            "start 0 to stop 16000 in a duration of 1000 s",
        ),
        (
            "b,1.0,a.wav,0,500000,en,s,one",
            "start 0 to stop 500000 in a duration of 1.0",
        ),
        ("b,1.0,a.wav,0,8000,en,s,one", None),
        ("b,1.0,lost.wav,,,en,s,one", "no file '{root}/lost.wav'"),
    ],
)
def test_an_error_is_reported_with_its_row(folder, line, expected):
    lines = [row.replace("a.wav", "{data_root}/a.wav") for row in (GOOD, line)]
    lines[1] = lines[1].replace("lost.wav", "{data_root}/lost.wav")
    path = put(folder / "t.csv", *lines)
    if expected is None:
        assert len(read(path, data_root=folder)) == 2
    else:
        reported = message(path, data_root=folder).splitlines()
        assert reported[0] == f"{path}: 1 error"
        assert reported[1].startswith(f"  row 3: {expected.format(root=folder)}")
        assert len(reported) == 2


def test_a_path_that_lacks_the_data_root(folder):
    lines = "a,1,long.wav,,,en,s,one", "b,1,lost.wav,,,en,s,one"
    found, lost = message(put(folder / "t.csv", *lines), data_root=folder).splitlines()[
        1:
    ]
    assert found.endswith(
        "'long.wav'; it is in the data folder: write {data_root}/long.wav"
    )
    assert lost.endswith("no file 'lost.wav'")


def test_bytes_that_are_not_utf8(folder):
    path = put(folder / "t.csv", GOOD, "é,1.0,a.wav,,,en,s,one", encoding="latin-1")
    assert "row 3: unreadable" in message(path, check_files=False)


def test_all_errors_are_reported_at_once(folder):
    path = put(
        folder / "t.csv", GOOD, "b,x,a.wav,,,en,s,", "", "a,1,no.wav,1,,en,s,", "c"
    )
    reported = message(path, data_root=folder, domains=["en", "xx"]).splitlines()
    assert reported[0].endswith("7 errors")
    assert reported[1] == "  no rows of domain ['xx']; there are ['en']"
    rows = [int(line.split(":")[0].removeprefix("  row ")) for line in reported[2:]]
    assert rows == [2, 3, 5, 5, 5, 6]


def test_many_errors_are_counted(folder):
    lines = [f"{i},0,a.wav,,,en,s," for i in range(5000)]
    reported = message(put(folder / "t.csv", *lines), check_files=False).splitlines()
    assert reported[0].endswith("5000 errors")
    assert reported[1].startswith("  row 2:") and reported[20].startswith("  row 21:")
    assert reported[21:] == ["  and 4980 more"]


def test_no_file_no_rows_no_columns(tmp_path):
    path = tmp_path / "t.csv"
    assert message(path) == f"{path}: no such file"
    assert message(put(path)) == f"{path}: no rows"
    path.write_bytes(b"")
    assert "no columns ['ID'" in message(path)
    reported = message(put(path, "a,1", header="ID,length"))
    assert reported.endswith("; cells of start, stop, spk_id, wrd may be empty")
    assert str(list(COLUMNS[1:])) in reported and "['ID', 'length']" in reported
    reported = message(put(path, "a,1", header=",".join(COLUMNS).replace("ID,", "")))
    assert (
        reported.startswith(f"{path}: no columns ['ID'];") and "empty" not in reported
    )
    unbalanced = message(put(path, "a,1", header='ID,"duration'))
    assert unbalanced == f"{path}: not a UTF-8 CSV file"
    header = ",".join([*COLUMNS, "wav", "ID"])
    assert message(put(path, "a", header=header)) == (
        f"{path}: the header names ID, wav twice"
    )


def test_wanted_domains(folder):
    write(folder / "t.csv", ROWS)
    (folder / "long.wav").unlink()  # of the domain that is not wanted
    rows = read(folder / "t.csv", data_root=folder, domains=["fr"])
    assert rows.domains == ("fr",) and rows.domain.tolist() == [0, 0]
    assert [row["ID"] for row in rows] == ["fr/b", "fr/c"]
    assert rows.duration.tolist() == [np.float32(1.2346), 0.5]
    reported = message(folder / "t.csv", data_root=folder, domains=["fr", "de"])
    assert reported.endswith("\n  no rows of domain ['de']; there are ['en', 'fr']")
    told = message(folder / "t.csv", data_root=folder, domains=["EN", "frr"])
    assert told.endswith("there are ['en', 'fr']; did you mean en, fr?")


def test_a_first_look_sees_the_domains_alone(folder):
    write(folder / "t.csv", ROWS)
    text = (folder / "t.csv").read_text("utf-8")
    (folder / "t.csv").write_text(f"{text}\nx,y\n{text.splitlines()[1]}\n", "utf-8")
    assert first_look(folder / "t.csv", ["en"]) is None
    with pytest.raises(ManifestError, match=r"\['enn'\]; .*; did you mean en\?$"):
        first_look(folder / "t.csv", ["enn", "fr"])


def test_each_audio_file_is_looked_up_once(folder, monkeypatch):
    write(folder / "t.csv", ROWS)
    looked = []
    monkeypatch.setattr(os.path, "isfile", lambda p: looked.append(p) or True)
    read(folder / "t.csv", data_root=folder)
    assert sorted(looked) == [f"{folder}/b.wav", f"{folder}/long.wav"]


def test_equal_hashes_are_not_equal_ids(folder, monkeypatch):
    monkeypatch.setattr(manifest.reading, "hash", lambda value: 0, raising=False)
    path = put(folder / "t.csv", GOOD, GOOD.replace("a,", "b,", 1))
    assert len(read(path, check_files=False)) == 2
    path = put(folder / "t.csv", GOOD, GOOD.replace("a,", "b,", 1), GOOD)
    assert "row 4: ID 'a' is already in row 2" in message(path, check_files=False)


def test_workers_share_it(folder):
    names = [f"utterance-{i}" for i in range(3000)]
    write(folder / "t.csv", ({**ROWS[2], "ID": name} for name in names))
    rows = read(folder / "t.csv", data_root=folder)
    assert [row["ID"] for row in rows] == names  # the file is open from here on
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)

    def work():  # both on one open file, at the same time
        ok = all([row["ID"] for row in rows] == names for _ in range(5))
        os._exit(0 if ok else 1)

    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_replaced_file_is_noticed(folder):
    write(folder / "t.csv", ROWS)
    rows = read(folder / "t.csv", data_root=folder)
    expected = rows[0]
    write(folder / "t.csv", ROWS[::-1])
    assert rows[0] == expected  # holds the old file open
    with pytest.raises(ManifestError, match="has changed since"):
        pickle.loads(pickle.dumps(rows))[0]


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"wrd": "one\ntwo"}, "row 3: line break in wrd"),
        ({"ID": "b\r"}, "row 3: line break in ID"),
        (
            {"wrd": ("sì", None)},
            r"row 3: wrd is a tuple, not .* number: \('sì', None\)",
        ),
        ({"words": "one"}, r"row 3: unknown columns \['words'\]"),
        ({"ID": "fr/b"}, "row 3: ID 'fr/b' is already in row 2"),
        ({"duration": 0.00004}, "row 3: duration '0.0000'"),
        ({"duration": None}, "row 3: duration ''"),
        ({"stop": None}, "row 3: start '16000' and stop ''"),
        ({"domain": ""}, "row 3: empty domain"),
    ],
)
def test_write_refuses_and_leaves_the_old_file(folder, change, expected):
    write(folder / "t.csv", ROWS)
    before = (folder / "t.csv").read_bytes()
    names = set(os.listdir(folder))
    with pytest.raises(ManifestError, match=expected) as error:
        write(folder / "t.csv", [ROWS[0], {**ROWS[1], **change}, ROWS[2]])
    assert str(error.value).startswith(f"{folder}/t.csv: 1 error")
    assert (folder / "t.csv").read_bytes() == before
    assert set(os.listdir(folder)) == names


def test_write_is_plain_csv_and_idempotent(folder):
    path = folder / "t.csv"
    write(path, ROWS)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["duration"] for row in rows] == ["1.2346", "2.0000", "0.5000"]
    inode = path.stat().st_ino
    write(path, ROWS)
    assert path.stat().st_ino == inode
    write(path, ROWS[:1])
    assert len(read(path, check_files=False)) == 1

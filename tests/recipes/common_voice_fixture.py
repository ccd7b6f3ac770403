"""Releases of Common Voice for tests, in the official layout, with real speech as mp3.

``common_voice_tree`` is whole and clean, to train on; ``make_release`` is small, in the
columns of old or of new releases, and ``spoil`` puts in what is wrong in real ones.
"""

import functools
import hashlib
import importlib.util
import io
import sys
from collections import Counter
from pathlib import Path

import soundfile
import torch
import torchaudio

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SAMPLE = RECIPES / "VoicePrompts/sample"
PROMPTS = sorted((SAMPLE / "en").glob("conf-*.flac"))
RATE = 48000
OLD_COLUMNS = "client_id path sentence up_votes down_votes age gender accent".split()
NEW_COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender "
    "accents variant locale segment"
).split()
CLIPS = {"train": 4, "dev": 2, "test": 2, "other": 2, "invalidated": 1}
SENTENCE = "Some words, read aloud."


def load(name):
    """A script of recipes/CommonVoice as a module."""
    if name not in sys.modules:
        path = RECIPES / f"CommonVoice/{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def common_voice_tree(folder, prompts, languages=("en", "es", "fr")):
    """The speech of VoicePrompts' sample, or of a part of it, as a release of 48 kHz
    clips, with transcribed ones in train, dev and test. Returns ``folder``."""
    load("from_voice_prompts").make_release(prompts, folder, languages)
    return Path(folder)


@functools.cache
def speech(number):
    """A prompt as 48 kHz mp3: its bytes, and its seconds."""
    samples, rate = soundfile.read(PROMPTS[number % len(PROMPTS)], dtype="float32")
    signal = torch.from_numpy(samples)
    signal = torchaudio.functional.resample(signal, rate, RATE).clamp(-1, 1)
    file = io.BytesIO()
    soundfile.write(file, signal.numpy(), RATE, format="MP3")
    return file.getvalue(), len(samples) / rate


def client(name):
    """A client_id, a hash as real ones are."""
    return hashlib.sha512(name.encode()).hexdigest()


def line(columns, **fields):
    """A row of a table; ``accents`` may be given for ``accent``."""
    fields.setdefault("accent", fields.get("accents", ""))
    return "\t".join(fields.get(column, "") for column in columns)


def make_release(folder, languages, old=False, durations=True):
    """Writes ``CLIPS`` of each language, each by another speaker.

    Arguments
    ---------
    folder : Path
        Holds the languages' folders.
    languages : sequence of str
        Their codes.
    old : bool
        Columns of the first releases, and paths without ``.mp3``.
    durations : bool
        Whether there is ``clip_durations.tsv``.

    Returns
    -------
    Path
        ``folder``.
    """
    columns = OLD_COLUMNS if old else NEW_COLUMNS
    for language in languages:
        tables, number = {}, 0
        table_of_durations = ["clip\tduration[ms]"]
        (folder / language / "clips").mkdir(parents=True)
        for split, n_clips in CLIPS.items():
            tables[split] = [line(columns, **{name: name for name in columns})]
            for _ in range(n_clips):
                name = f"common_voice_{language}_{number}"
                content, seconds = speech(number)
                (folder / language / f"clips/{name}.mp3").write_bytes(content)
                table_of_durations.append(f"{name}.mp3\t{round(seconds * 1000)}")
                fields = {"client_id": client(name), "sentence": SENTENCE}
                fields["path"] = name if old else f"{name}.mp3"
                tables[split].append(line(columns, **fields))
                number += 1
        parts = [tables[split][1:] for split in ("train", "dev", "test")]
        tables["validated"] = [tables["train"][0], *sum(parts, [])]
        if durations:
            tables["clip_durations"] = table_of_durations
        for name, lines in tables.items():
            text = "".join(f"{one}\n" for one in lines)
            (folder / language / f"{name}.tsv").write_text(text, "utf-8", newline="")
    return folder


class Table:
    """A TSV of a release, and rows that are put into it one after the other.

    Arguments
    ---------
    path : Path
        The file.
    """

    def __init__(self, path):
        self.path, self.clips = path, path.parent / "clips"
        self.durations = path.parent / "clip_durations.tsv"
        self.columns = path.read_text("utf-8").split("\n", 1)[0].split("\t")

    def add(self, name, content=None, milliseconds=None, **fields):
        """A row, with a file if it has content and a duration if there is a table."""
        fields = {
            "path": f"{name}.mp3",
            "client_id": client(name),
            "sentence": SENTENCE,
            **fields,
        }
        self.add_line(line(self.columns, **fields))
        if content is not None:
            (self.clips / f"{name}.mp3").write_bytes(content)
        if milliseconds is not None and self.durations.is_file():
            with self.durations.open("a", encoding="utf-8", newline="") as file:
                file.write(f"{name}.mp3\t{milliseconds}\n")

    def add_speech(self, name, **fields):
        """A row of a good clip."""
        content, seconds = speech(0)
        self.add(name, content, round(seconds * 1000), **fields)

    def add_line(self, text):
        """Any line."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(f"{text}\n")


def spoil(table):
    """Adds a row of each kind that is left out, and some that are not, to a table.

    Arguments
    ---------
    table : Table
        Of a release with or without ``clip_durations.tsv``.

    Returns
    -------
    left_out : Counter
        What has to be left out, by reason.
    kept : set of str
        Names of the rows that have to be there.
    """
    content, seconds = speech(1)
    milliseconds = round(seconds * 1000)
    table.add("nothing-there", milliseconds=milliseconds)
    table.add("dead-link", milliseconds=milliseconds)
    (table.clips / "dead-link.mp3").symlink_to("nowhere.mp3")
    table.add("no-bytes", b"", milliseconds)
    table.add("no-bytes-nor-duration", b"")
    table.add("no-audio", b"no audio" * 200)
    table.add("cut", content[: len(content) // 20], milliseconds)
    table.add("cut-no-duration", content[: len(content) // 2])
    table.add("a-moment", content, 100)
    table.add("an-hour", content, 3_600_000)
    table.add("zero", content, 0)
    table.add_speech("twice")
    table.add_speech("twice")
    table.add_speech("no-speaker", client_id="")
    table.add("no-clip", path="")
    table.add_line(line(table.columns[:3], client_id="a", path="short.mp3"))
    table.add_speech("long", sentence="a tab\tinside")
    table.add_line("")
    table.add("no-duration", content)
    table.add("bad-duration", content, "unknown")
    table.add_speech("folder-in-path", path="clips/folder-in-path.mp3")
    left_out = Counter(
        {
            "no file": 2,
            "empty": 2,
            "unreadable": 1,
            "cut short": 2,
            "too short": 2,
            "too long": 1,
            "duplicate": 1,
            "row without clip or speaker": 2,
            "row of the wrong length": 2,
        }
    )
    kept = {"twice", "no-duration", "bad-duration", "folder-in-path"}
    if not table.durations.is_file():  # the files themselves know better
        kept |= {"a-moment", "an-hour", "zero"}
        del left_out["too short"], left_out["too long"]
        left_out["unreadable"] += 1  # cut: so little is left that it is no mp3
        left_out["cut short"] -= 1
    return left_out, kept

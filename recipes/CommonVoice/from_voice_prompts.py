"""Makes a release in Common Voice's layout from the VoicePrompts corpus, so that this
recipe can be run without a download of gigabytes.

A language has ``RELEASE_FOLDER/en/train.tsv``, ``dev.tsv``, ``test.tsv``,
``validated.tsv`` (these three together), ``other.tsv``, ``invalidated.tsv`` (empty),
``clips/*.mp3`` at 48 kHz and ``clip_durations.tsv``, with the columns of release 17. The
sentences are the transcripts as VoicePrompts normalises them, and the splits are its
splits. Speech without a transcript is in ``other`` if it is in the train split. In dev
and test it is left out, since it may say the same as a transcribed prompt.

**The speakers are invented.** There is one voice a language, and since no speaker of
Common Voice is in several splits, no training data would be left. Here every group of
prompts of a split (``vm-…``, ``digits/…``) has its own ``client_id``. Error rates on such
a release are those of a voice heard in training.

> python from_voice_prompts.py DATA_FOLDER RELEASE_FOLDER --languages en es fr it ru
"""

import hashlib
import logging
import re
import sys
import tempfile
from pathlib import Path

import soundfile
import torchaudio

from hetero_brain.data import manifest
from hetero_brain.data.audio import read_audio
from hetero_brain.data.corpora import command_line

sys.path.append(str(Path(__file__).resolve().parents[1] / "VoicePrompts"))
from voice_prompts_prepare import (  # noqa: E402
    SPLITS,
    VOICES,
    prepare_voice_prompts,
)

logger = logging.getLogger(__name__)

SAMPLE_RATE = 48000
PROMPT_RATE = 8000
COLUMNS = (
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
)


def make_release(data_folder, release_folder, languages=tuple(VOICES)):
    """Writes a release, which takes about 2 minutes for all five languages.

    Arguments
    ---------
    data_folder : str or Path
        The folder of the prompts, see ``prepare_voice_prompts``.
    release_folder : str or Path
        The folder for the languages' folders.
    languages : sequence of str
        Codes from ``VOICES``.

    Raises
    ------
    InputError, MissingData
        See ``prepare_voice_prompts``.
    """
    prompts = {language: [] for language in languages}
    with tempfile.TemporaryDirectory() as folder:
        prepare_voice_prompts(data_folder, folder, languages)
        for split in SPLITS:
            for row in manifest.read(Path(folder) / f"{split}.csv", data_folder):
                if row["wrd"] or split == "train":
                    table = split if row["wrd"] else "other"
                    prompts[row["domain"]].append((table, row))
    for language, rows in prompts.items():
        write_language(Path(release_folder) / language, language, rows)
        logger.info("%s: %d clips in %s", language, len(rows), release_folder)


def write_language(folder, language, rows):
    """Writes the folder of one language.

    Arguments
    ---------
    folder : Path
        The folder of the language.
    language : str
        The code of the language.
    rows : sequence of tuple
        Pairs (name of a table, row of a VoicePrompts manifest).
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    tables = {name: [] for name in (*SPLITS, "validated", "other", "invalidated")}
    durations = []
    for number, (split, row) in enumerate(rows):
        name = f"common_voice_{language}_{number:08}.mp3"
        seconds = write_clip(folder / "clips" / name, row)
        durations.append((name, round(seconds * 1000)))
        table_row = {
            "client_id": made_up_speaker(language, split, row["ID"]),
            "path": name,
            "sentence_id": digest(row["wrd"] or row["ID"])[:64],
            "sentence": row["wrd"],
            "up_votes": 0 if split == "other" else 2,
            "down_votes": 0,
            "locale": language,
        }
        tables[split].append(table_row)
        if split in SPLITS:
            tables["validated"].append(table_row)
    for split, table in tables.items():
        lines = [[row.get(column, "") for column in COLUMNS] for row in table]
        write_tsv(folder / f"{split}.tsv", COLUMNS, lines)
    header = ("clip", "duration[ms]")
    write_tsv(folder / "clip_durations.tsv", header, durations)


def write_clip(path, row):
    """Writes the audio of a manifest's row as mp3. Returns its duration in seconds."""
    signal = read_audio(row, PROMPT_RATE)
    signal = torchaudio.functional.resample(signal, PROMPT_RATE, SAMPLE_RATE)
    soundfile.write(path, signal.clamp(-1, 1), SAMPLE_RATE, format="MP3")
    return row["duration"]


def made_up_speaker(language, split, id_):
    """A ``client_id`` for a group of prompts of a split. The group of ``en/vm-sorry`` is
    ``vm``."""
    group = re.split("[-/]", id_.partition("/")[2])[0]
    return digest(f"{language} {split} {group}")


def digest(text):
    """A hash of 128 hexadecimal digits, as Common Voice has them."""
    return hashlib.sha512(text.encode()).hexdigest()


def write_tsv(path, header, lines):
    """Writes fields separated by tabs, without any quotes."""
    text = ["\t".join(map(str, line)) + "\n" for line in (header, *lines)]
    path.write_text("".join(text), encoding="utf-8", newline="\n")


def main():
    parser = command_line.argument_parser(__doc__, "data_folder", "release_folder")
    parser.add_argument("--languages", nargs="+", default=list(VOICES))
    command_line.run(make_release, parser)


if __name__ == "__main__":
    main()

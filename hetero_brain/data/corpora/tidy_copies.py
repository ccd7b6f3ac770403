"""Corpora whose reader is given a tidy copy of the small files: ``Special.folder``."""

import csv
import gzip
import io
import re
from collections import defaultdict
from pathlib import Path

import lhotse
from lhotse.audio import AudioSource, Recording
from lhotse.recipes import edacc, voxpopuli

from .gzip_files import read_bytes
from .pairing import count

# --------------------------------------------------------------------------- VoxPopuli


def voxpopuli_tsv(folder, options):
    """The file with the annotations of the language, or None."""
    lang = options.get("lang", "en")
    name = f"asr_{lang}.tsv.gz"
    places = (folder, folder / "transcribed_data" / lang)
    return next((p / name for p in places if (p / name).is_file()), None)


def voxpopuli_problems(folder, options):
    """What a folder lacks for VoxPopuli's reader, and what to do; a list of str."""
    lang = options.get("lang", "en")
    problems = []
    if not any((folder / "raw_audios" / name).is_dir() for name in (lang, "original")):
        problems.append(
            f"{folder}/raw_audios has neither {lang}/ nor original/; get the audio "
            "with voxpopuli's download_audios (--subset asr)"
        )
    if voxpopuli_tsv(folder, options) is None:
        problems.append(
            f"no asr_{lang}.tsv.gz in {folder}; get {voxpopuli.DOWNLOAD_BASE_URL}"
            f"/annotations/asr/asr_{lang}.tsv.gz"
        )
    return problems


def voxpopuli_patches(call, folder, options):
    """Allows the accented set, and finds audio where the release has it: in the folder of
    the language, or else in raw_audios/original."""

    class Sessions(lhotse.RecordingSet):
        @staticmethod
        def from_dir(path, pattern, **kwargs):
            path = Path(path)
            if not path.is_dir():
                path = path.with_name("original")
            return lhotse.RecordingSet.from_dir(path, pattern, **kwargs)

    languages = voxpopuli.ASR_LANGUAGES + voxpopuli.ASR_ACCENTED_LANGUAGES
    return {"RecordingSet": Sessions, "ASR_LANGUAGES": languages}


def voxpopuli_folder(call, folder, scratch, options):
    """Writes the annotations to where the reader looks first, without a byte-order mark
    and without rows that it would not understand."""
    tsv = voxpopuli_tsv(folder, options)
    text, _ = call.texts.clean(tsv, read_bytes(tsv))
    (scratch / tsv.name).write_bytes(gzip.compress(text.encode(), compresslevel=1))
    return folder


# ------------------------------------------------------------------------------- EdAcc


EDACC_FILES = ("segments", "text", "utt2spk", "conv.list")
EDACC_YEARS = ("What’s your year of birth", "What year did you start")


def edacc_folder(call, folder, scratch, options):
    """Makes a tidy copy of the small files, since the reader writes into their folders
    and stops at a segment without words or speaker."""
    corpus, copy = folder / "edacc_v1.0", scratch / "corpus/edacc_v1.0"
    for part in ("dev", "test"):
        files = {name: _lines(corpus / part / name) for name in EDACC_FILES}
        texts, speakers = (
            {
                key: rest
                for key, *rest in (line.split(maxsplit=1) for line in files[name])
            }
            for name in ("text", "utt2spk")
        )
        complete = texts.keys() & speakers.keys()
        segments = [s for s in files["segments"] if s.split(maxsplit=1)[0] in complete]
        n_left_out = len(files["segments"]) - len(segments)
        count(call, {"segment without text or speaker": n_left_out})
        files["segments"] = segments
        files["text"] = [" ".join([key, *texts[key]]) for key in complete]
        files["utt2spk"] = [" ".join([key, *speakers[key]]) for key in complete]
        (copy / part).mkdir(parents=True)
        for name, lines in files.items():
            (copy / part / name).write_text("\n".join([*lines, ""]), encoding="utf-8")
    for name in ("data", "linguistic_background.csv"):
        (copy / name).symlink_to((corpus / name).absolute())
    return copy.parent


def _lines(path):
    """The lines of a text file that are not blank."""
    with path.open() as file:
        return [line.strip() for line in file if line.strip()]


def edacc_patches(call, folder, options):
    """Accepts recordings of any rate and number of channels, and speakers about whom the
    table says nothing. The reader refuses the corpus if one differs from the others."""

    class Recordings(lhotse.RecordingSet):
        @staticmethod
        def from_dir(path, pattern):
            return lhotse.RecordingSet.from_recordings(
                Recording(p.stem, [AudioSource("file", [0], str(p))], 32000, 0, 0.0)
                for p in sorted(path.rglob(pattern))
            )

    parse = edacc.parse_linguistic_background

    def parse_complete_rows(path):
        complete = io.StringIO()
        try:
            with (folder / "edacc_v1.0" / path.name).open(newline="") as file:
                header, *rows = csv.reader(file)
            years = [n for n, name in enumerate(header) if name.startswith(EDACC_YEARS)]
            csv.writer(complete).writerows(
                row
                for row in [header, *rows]
                if len(row) == len(header)
                and (row is header or all(re.fullmatch(r"\d*", row[n]) for n in years))
            )
            return defaultdict(dict, parse(io.StringIO(complete.getvalue())))
        except (AttributeError, KeyError, ValueError, csv.Error) as error:
            call.warnings.append(f"no speaker is known by {path.name}: {error!r}")
            return defaultdict(dict)

    return {
        "RecordingSet": Recordings,
        "parse_linguistic_background": parse_complete_rows,
    }


def edacc_problems(folder, options):
    """What a folder lacks for EdAcc's reader; a list of str."""
    files = ["data", "linguistic_background.csv"]
    files += [f"{part}/{name}" for part in ("dev", "test") for name in EDACC_FILES]
    missing = [name for name in files if not (folder / "edacc_v1.0" / name).exists()]
    return [f"{folder}/edacc_v1.0 lacks {', '.join(missing)}"] if missing else []

"""Corpora whose reader gets a tidy copy of the small files: ``Special.folder``."""

import csv
import gzip
import io
import re
import zlib
from collections import defaultdict
from pathlib import Path

import lhotse
from lhotse.audio import AudioSource, Recording
from lhotse.recipes import edacc, voxpopuli

from .pairing import count

# --------------------------------------------------------------------------- VoxPopuli


def voxpopuli_tsv(folder, options):
    """The annotations of the language, or None."""
    lang = options.get("lang", "en")
    name = f"asr_{lang}.tsv.gz"
    places = (folder, folder / "transcribed_data" / lang)
    return next((p / name for p in places if (p / name).is_file()), None)


def voxpopuli_faults(folder, options):
    """What VoxPopuli's reader would miss in a folder, in words; what to do about it."""
    lang = options.get("lang", "en")
    faults = []
    if not any((folder / "raw_audios" / name).is_dir() for name in (lang, "original")):
        faults.append(
            f"{folder}/raw_audios has neither {lang}/ nor original/; get the audio "
            "with voxpopuli's download_audios (--subset asr)"
        )
    if voxpopuli_tsv(folder, options) is None:
        faults.append(
            f"no asr_{lang}.tsv.gz in {folder}; get {voxpopuli.DOWNLOAD_BASE_URL}"
            f"/annotations/asr/asr_{lang}.tsv.gz"
        )
    return faults


def voxpopuli_patches(call, folder, options):
    """The accented set is allowed, and audio is found where the release has it: the
    language's own recordings, else raw_audios/original."""

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
    """Puts the annotations, without a byte-order mark and without rows that are not
    understood, where the reader looks first."""
    tsv = voxpopuli_tsv(folder, options)
    try:
        content = gzip.decompress(tsv.read_bytes())
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{tsv} is cut short or damaged ({error}): get it again"
        ) from error
    text, _ = call.texts.clean(tsv, content)
    (scratch / tsv.name).write_bytes(gzip.compress(text.encode(), compresslevel=1))
    return folder


# ------------------------------------------------------------------------------- EdAcc


EDACC_FILES = ("segments", "text", "utt2spk", "conv.list")
EDACC_YEARS = ("What’s your year of birth", "What year did you start")


def edacc_folder(call, folder, scratch, options):
    """A tidy copy of the small files, into whose folders the reader writes. It stops at a
    segment whose words or speaker are lost."""
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
        whole = texts.keys() & speakers.keys()
        segments = [s for s in files["segments"] if s.split(maxsplit=1)[0] in whole]
        lost = len(files["segments"]) - len(segments)
        count(call, {"segment without text or speaker": lost})
        files["segments"] = segments
        files["text"] = [" ".join([key, *texts[key]]) for key in whole]
        files["utt2spk"] = [" ".join([key, *speakers[key]]) for key in whole]
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
    """Recordings of any rate and number of channels, and speakers of whom the table says
    nothing: the reader refuses the corpus for one that is not as the others."""

    class Recordings(lhotse.RecordingSet):
        @staticmethod
        def from_dir(path, pattern):
            return lhotse.RecordingSet.from_recordings(
                Recording(p.stem, [AudioSource("file", [0], str(p))], 32000, 0, 0.0)
                for p in sorted(path.rglob(pattern))
            )

    parse = edacc.parse_linguistic_background

    def parse_whole_rows(path):
        whole = io.StringIO()
        try:
            with (folder / "edacc_v1.0" / path.name).open(newline="") as file:
                header, *rows = csv.reader(file)
            years = [n for n, name in enumerate(header) if name.startswith(EDACC_YEARS)]
            csv.writer(whole).writerows(
                row
                for row in [header, *rows]
                if len(row) == len(header)
                and (row is header or all(re.fullmatch(r"\d*", row[n]) for n in years))
            )
            return defaultdict(dict, parse(io.StringIO(whole.getvalue())))
        except (AttributeError, KeyError, ValueError, csv.Error) as error:
            call.warnings.append(f"no speaker is known by {path.name}: {error!r}")
            return defaultdict(dict)

    return {"RecordingSet": Recordings, "parse_linguistic_background": parse_whole_rows}


def edacc_faults(folder, options):
    """What EdAcc's reader would miss in a folder, in words."""
    files = ["data", "linguistic_background.csv"]
    files += [f"{part}/{name}" for part in ("dev", "test") for name in EDACC_FILES]
    lost = [name for name in files if not (folder / "edacc_v1.0" / name).exists()]
    return [f"{folder}/edacc_v1.0 lacks {', '.join(lost)}"] if lost else []

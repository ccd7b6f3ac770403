"""The few corpora that lhotse's general way does not fit, in one table: ``SPECIAL``.

Each case says what to check before and what to put in the place of the reader's own
helpers: as a rule, because these pair audio and transcripts by position, refuse the whole
corpus for one lost file, or write into it.
"""

import gzip
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import lhotse
from lhotse.audio import AudioSource, Recording
from lhotse.recipes import (
    broadcast_news,
    fisher_english,
    switchboard,
    tedlium,
    voxpopuli,
)

from .lenient import ENDLESS_SECONDS

NO_AUDIO = "no such file"
NO_TRANSCRIPT = "no transcript file"
IGNORED = "marked ignore_time_segment_in_scoring"


@dataclass(frozen=True)
class Special:
    """How one corpus differs.

    Attributes
    ----------
    packages : dict
        {module that its reader imports: how pip calls it}.
    required : dict
        {option without which the reader would download: where to get it}.
    faults : Callable
        (folder, options) → list of str: what is missing in the folder.
    patches : Callable
        (call, folder, options) → {name in the reader's module: replacement}.
    folder : Callable
        (folder, scratch folder, options) → the folder to give to the reader.
    speaker : Callable
        (supervision) → speaker, where the reader's is wrong.
    output_dir : bool
        Whether it needs the scratch folder as its optional ``output_dir``.
    placeholder_rate : int
        Hz; see ``lenient.Call``.
    """

    packages: dict = field(default_factory=dict)
    required: dict = field(default_factory=dict)
    faults: Callable = lambda folder, options: []
    patches: Callable = lambda call, folder, options: {}
    folder: Callable = lambda folder, scratch, options: folder
    speaker: Callable = lambda supervision: supervision.speaker
    output_dir: bool = False
    placeholder_rate: int = 16000


def count(call, reasons):
    """Adds counts that are not 0 to what a call left out."""
    call.left_out.update({reason: n for reason, n in reasons.items() if n})


# --------------------------------------------------------------------------------- AMI


def ami_patches(call, folder, options):
    """Recordings of AMI: headset n is channel n, though one before it may be lost, and
    their length is not asked for here."""

    def grouped(paths):
        meetings = defaultdict(list)
        for path in sorted(paths):
            meetings[path.parts[-3]].append(path)
        recordings = []
        for name, files in meetings.items():
            numbers = {
                int(match[1]): path
                for path in files
                if (match := re.search(r"Headset-(\d+)$", path.stem))
            } or dict(enumerate(files))  # arrays
            first = next(iter(numbers.values()))
            for n in range(max(numbers)):
                lost = first.with_name(re.sub(r"\d+$", str(n), first.stem) + ".wav")
                numbers.setdefault(n, lost)
            recordings.append(endless(name, dict(sorted(numbers.items()))))
        return lhotse.RecordingSet.from_recordings(recordings)

    def single(paths, mic="ihm-mix"):
        at = -2 if mic == "mdm8-bf" else -3
        return lhotse.RecordingSet.from_recordings(
            endless(path.parts[at], {0: path}) for path in sorted(paths)
        )

    def endless(name, files):
        return Recording(
            id=name,
            sources=[AudioSource("file", [n], str(path)) for n, path in files.items()],
            sampling_rate=16000,
            num_samples=int(16000 * ENDLESS_SECONDS),
            duration=ENDLESS_SECONDS,
        )

    return {"prepare_audio_grouped": grouped, "prepare_audio_single": single}


# ---------------------------------------------------------------------------- TED-LIUM


def tedlium_faults(folder, options, corpus="tedlium"):
    """What the reader of release 3 (``tedlium``), or of releases 1 and 2 (``tedlium2``),
    would miss in a folder, in words; what to do about it."""
    below = {"tedlium": "legacy/", "tedlium2": ""}  # where a release has its parts
    readers = [name for name in below if any(folder.glob(f"{below[name]}*/stm"))]
    if corpus in readers:
        return []
    if folder.resolve().name == "legacy" and readers:
        return [f"{folder}: give the folder above it, which is that of release 3"]
    if readers:
        other = f"{folder / below[readers[0]]}/<part>/stm"
        return [f"another release, with {other}: corpus: {readers[0]} reads it"]
    if within := sorted(folder.glob(f"*/{below[corpus]}*/stm")):
        release = folder / within[0].relative_to(folder).parts[0]
        return [f"{folder}: give the folder of the release, {release}"]
    return [f"{folder} has no {below[corpus]}<part>/stm: is it {corpus}'s release?"]


def tedlium_patches(call, folder, options):
    """A talk for every STM file, and the segments not to be scored counted: the reader
    refuses the corpus when one SPHERE file is lost."""

    class Talks(lhotse.RecordingSet):
        @staticmethod
        def from_dir(path, pattern, **_):
            stms = {p.stem for p in (Path(path).parent / "stm").glob("*.stm")}
            bare = {p.stem for p in Path(path).rglob(pattern)} - stms
            count(call, {NO_TRANSCRIPT: len(bare)})
            return lhotse.RecordingSet.from_recordings(
                call.recording(Path(path) / f"{stem}.sph") for stem in sorted(stms)
            )

    parse = tedlium._parse_stm_file

    def parse_and_count(stm, *args, **kwargs):
        lines = stm.read_text(encoding="utf-8").splitlines()
        ignored = sum("ignore_time_segment_in_scoring" in line for line in lines)
        count(call, {IGNORED: ignored})
        return parse(stm, *args, **kwargs)

    return {"RecordingSet": Talks, "_parse_stm_file": parse_and_count}


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


def voxpopuli_folder(folder, scratch, options):
    """Puts the annotations, without a byte-order mark, where the reader looks first."""
    tsv = voxpopuli_tsv(folder, options)
    text = gzip.decompress(tsv.read_bytes()).removeprefix(b"\xef\xbb\xbf")
    (scratch / tsv.name).write_bytes(gzip.compress(text, compresslevel=1))
    return folder


# ------------------------------------------------------- Switchboard, HUB4 and Fisher


def switchboard_patches(call, folder, options):
    """Only conversations with both transcripts."""
    search = switchboard.check_and_rglob
    audio = search(folder, "*.sph")
    texts = search(options["transcripts_dir"], "*trans.text")
    sides = {path.stem.split("-")[0] for path in texts}
    named = {path: path.stem.replace("sw0", "sw") for path in audio}
    kept = [p for p, name in named.items() if {f"{name}A", f"{name}B"} <= sides]
    lost = {side[:-1] for side in sides} - set(named.values())
    count(call, {NO_TRANSCRIPT: len(audio) - len(kept), NO_AUDIO: len(lost)})
    return {
        "check_and_rglob": lambda path, pattern: kept if pattern == "*.sph" else texts
    }


def switchboard_speaker(supervision):
    """The side of the conversation; lhotse calls both A."""
    return f"{supervision.recording_id}{'AB'[supervision.channel]}"


def broadcast_news_patches(call, folder, options):
    """Only broadcasts with audio and transcript: the reader pairs the two listings by
    position."""
    search = broadcast_news.check_and_rglob
    audio = {p.stem.casefold(): p for p in search(folder, "*.sph")}
    texts = search(options["transcripts_dir"], "*.sgml")
    texts = {p.stem.casefold(): p for p in texts}
    both = sorted(audio.keys() & texts.keys())
    count(
        call, {NO_TRANSCRIPT: len(audio) - len(both), NO_AUDIO: len(texts) - len(both)}
    )
    files = {"*.sph": [audio[k] for k in both], "*.sgml": [texts[k] for k in both]}
    return {"check_and_rglob": lambda path, pattern: files[pattern]}


def fisher_english_patches(call, folder, options):
    """Only conversations with audio and transcript: the reader refuses the corpus when
    their numbers differ."""

    def files(key, default, below, suffix):
        roots = [folder / name / below for name in options.get(key, default)]
        return {p.stem: p for root in roots for p in root.rglob(f"*{suffix}")}

    audio = files("audio_dirs", fisher_english.FISHER_AUDIO_DIRS, "", ".sph")
    texts = files(
        "transcript_dirs", fisher_english.FISHER_TRANSCRIPT_DIRS, "data/trans", ".txt"
    )
    both = sorted(audio.keys() & texts.keys())
    count(
        call, {NO_TRANSCRIPT: len(audio) - len(both), NO_AUDIO: len(texts) - len(both)}
    )
    found = {"*.sph": [audio[k] for k in both], "*.txt": [texts[k] for k in both]}
    return {"walk_dirs_parallel": lambda dirs, pattern, *_: found[pattern]}


# --------------------------------------------------------------- EdAcc and L2-ARCTIC


EDACC_FILES = ("segments", "text", "utt2spk", "conv.list")


def edacc_folder(folder, scratch, options):
    """A copy of the small files: the reader writes into their folders."""
    corpus, copy = folder / "edacc_v1.0", scratch / "corpus/edacc_v1.0"
    copy.mkdir(parents=True)
    (copy / "data").symlink_to((corpus / "data").absolute())
    shutil.copy(corpus / "linguistic_background.csv", copy)
    for part in ("dev", "test"):
        ignore = shutil.ignore_patterns("wav.scp")
        shutil.copytree(corpus / part, copy / part, ignore=ignore)
        for path in [copy / part, *(copy / part).rglob("*")]:
            path.chmod(0o700)
    return copy.parent


def edacc_faults(folder, options):
    """What EdAcc's reader would miss in a folder, in words."""
    files = ["data", "linguistic_background.csv"]
    files += [f"{part}/{name}" for part in ("dev", "test") for name in EDACC_FILES]
    lost = [name for name in files if not (folder / "edacc_v1.0" / name).exists()]
    return [f"{folder}/edacc_v1.0 lacks {', '.join(lost)}"] if lost else []


def l2_arctic_patches(call, folder, options):
    """Recordings found by ID at once, and also where a transcript's audio is lost."""

    class ById(lhotse.RecordingSet):
        @staticmethod
        def from_recordings(recordings):
            self = ById(list(recordings))
            self.by_id = {recording.id: recording for recording in self.recordings}
            return self

        def __getitem__(self, key):
            if isinstance(key, str):
                return self.by_id.get(key) or call.recording(f"{key}.wav")
            return super().__getitem__(key)

    return {"RecordingSet": ById}


SWITCHBOARD_TEXT = (
    f"the ISIP transcripts (swb_ms98_transcriptions), {switchboard.SWBD_TEXT_URL}"
)
SPECIAL = {
    "ami": Special(patches=ami_patches),
    "broadcast_news": Special(
        packages={"bs4": "beautifulsoup4"}, patches=broadcast_news_patches
    ),
    "callhome_english": Special(
        required={"transcript_dir": "LDC97T14, the transcripts of CallHome"}
    ),
    "edacc": Special(
        packages={"pandas": "pandas"},
        faults=edacc_faults,
        folder=edacc_folder,
        placeholder_rate=32000,
    ),
    "fisher_english": Special(patches=fisher_english_patches),
    "l2_arctic": Special(patches=l2_arctic_patches),
    "switchboard": Special(
        required={"transcripts_dir": SWITCHBOARD_TEXT},
        patches=switchboard_patches,
        speaker=switchboard_speaker,
    ),
    "tedlium": Special(patches=tedlium_patches, faults=tedlium_faults),
    "tedlium2": Special(
        patches=tedlium_patches, faults=partial(tedlium_faults, corpus="tedlium2")
    ),
    "voxpopuli": Special(
        faults=voxpopuli_faults,
        patches=voxpopuli_patches,
        folder=voxpopuli_folder,
        output_dir=True,
    ),
}

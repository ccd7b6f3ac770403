"""Pairs each recording with its own transcript.

Some of lhotse's readers pair them by position, or refuse the whole corpus if one file is
missing or cut short. Each function here returns replacements for the helpers of one
reader: ``Special.patches``.
"""

import re
from pathlib import Path

import lhotse
from lhotse.recipes import (
    broadcast_news,
    fisher_english,
    l2_arctic,
    switchboard,
    tedlium,
)

NO_AUDIO = "no such file"
NO_TRANSCRIPT = "no transcript file"
IGNORED = "marked ignore_time_segment_in_scoring"


def count(call, reasons):
    """Adds {reason: number} to what a call has left out; numbers of 0 are not added."""
    call.left_out.update({reason: n for reason, n in reasons.items() if n})


# ---------------------------------------------------------------------------- TED-LIUM


def tedlium_problems(folder, options, corpus="tedlium"):
    """What a folder lacks for the reader of release 3 (``tedlium``) or of releases 1 and
    2 (``tedlium2``), and what to do about it; a list of str."""
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
    """One talk for every STM file, since the reader refuses the corpus if one SPHERE file
    is missing. Segments that are not to be scored are counted."""

    class Talks(lhotse.RecordingSet):
        @staticmethod
        def from_dir(path, pattern, **_):
            stms = {p.stem for p in (Path(path).parent / "stm").glob("*.stm")}
            audio = {p.stem for p in Path(path).rglob(pattern)}
            count(call, {NO_TRANSCRIPT: len(audio - stms)})
            return lhotse.RecordingSet.from_recordings(
                call.recording(Path(path) / f"{stem}.sph") for stem in sorted(stms)
            )

    parse = tedlium._parse_stm_file

    def parse_and_count(stm, *args, **kwargs):
        lines = stm.read_text().splitlines()
        ignored = sum("ignore_time_segment_in_scoring" in line for line in lines)
        count(call, {IGNORED: ignored})
        return parse(stm, *args, **kwargs)

    return {"RecordingSet": Talks, "_parse_stm_file": parse_and_count}


# ------------------------------------------------------- Switchboard, HUB4 and Fisher


def paired(call, audio, texts):
    """Selects the files that have a counterpart of the same name, and counts the others.

    Arguments
    ---------
    call : Call
        The call that counts what is left out.
    audio, texts : dict
        {name: path}.

    Returns
    -------
    list of Path, list of Path
        Audio and transcripts, in the same order.
    """
    both = sorted(audio.keys() & texts.keys())
    count(call, {NO_TRANSCRIPT: len(audio) - len(both)})
    count(call, {NO_AUDIO: len(texts) - len(both)})
    return [audio[name] for name in both], [texts[name] for name in both]


def switchboard_patches(call, folder, options):
    """Only conversations that have audio and the transcripts of both sides."""
    search = switchboard.check_and_rglob
    audio = search(folder, "*.sph")
    texts = search(options["transcripts_dir"], "*trans.text")
    sides = {path.stem.split("-")[0] for path in texts}
    named = {path: path.stem.replace("sw0", "sw") for path in audio}
    kept = [p for p, name in named.items() if {f"{name}A", f"{name}B"} <= sides]
    without_audio = {side[:-1] for side in sides} - set(named.values())
    count(call, {NO_TRANSCRIPT: len(audio) - len(kept), NO_AUDIO: len(without_audio)})
    return {
        "check_and_rglob": lambda path, pattern: kept if pattern == "*.sph" else texts
    }


def switchboard_speaker(supervision):
    """The side of the conversation, A or B; lhotse calls both of them A."""
    return f"{supervision.recording_id}{'AB'[supervision.channel]}"


def broadcast_news_patches(call, folder, options):
    """Only broadcasts that have audio and a transcript, since the reader pairs the two
    listings by position. Incomplete transcripts, at which it would stop, are left out."""
    search = broadcast_news.check_and_rglob
    make, group = (
        broadcast_news.make_supervisions,
        broadcast_news.group_lines_in_time_marker,
    )

    def make_or_leave_out(sgml, recording):
        try:
            if problem := _sgml_problem(sgml.read_text().lower()):
                raise ValueError(problem)
            return make(sgml, recording)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            call.texts.hide(sgml, "transcript not understood", str(error))
            call.counted.add(recording.id)
            return {"sections": [], "segments": []}

    def group_with_gaps(lines):
        """A time that no text follows is a segment without words. The reader would take
        it for the start of the next segment."""
        filled = []
        for line, after in zip(lines, [*lines[1:], "<time"]):
            filled.append(line)
            if line.startswith("<time") and after.startswith("<time"):
                filled.append(" ")
        return group(filled)

    audio = {p.stem.casefold(): p for p in search(folder, "*.sph")}
    texts = search(options["transcripts_dir"], "*.sgml")
    audio, texts = paired(call, audio, {p.stem.casefold(): p for p in texts})
    files = {"*.sph": audio, "*.sgml": texts}
    return {
        "check_and_rglob": lambda path, pattern: files[pattern],
        "make_supervisions": make_or_leave_out,
        "group_lines_in_time_marker": group_with_gaps,
    }


def _sgml_problem(text):
    """What is incomplete in a HUB4 transcript, or "". The parser closes an open element
    at some later place, so that its words would be assigned to another time."""
    if "<episode" not in text:
        return "no <episode>"
    for tag in ("episode", "section", "turn"):
        if len(re.findall(rf"<{tag}\b", text)) != text.count(f"</{tag}>"):
            return f"a <{tag}> is not closed"
    for tag in re.findall(r"<time[^<>]*>", text):
        if not re.fullmatch(r'<time\s+sec="?\d+\.?\d*"?\s*>', tag):
            return f"{tag!r} has no time"
    rest = re.search(r"[^<>]*[<>]", re.sub(r"<[^<>]*>", "", text))
    return f"{rest[0][-40:]!r} is part of a tag" if rest else ""


def fisher_english_patches(call, folder, options):
    """Only conversations that have audio and a transcript. The reader refuses the corpus
    if their numbers differ, or if the speakers of one conversation are not known."""

    def files(key, default, below, suffix):
        roots = [folder / name / below for name in options.get(key, default)]
        return {p.stem: p for root in roots for p in root.rglob(f"*{suffix}")}

    create = fisher_english.create_supervision

    def create_or_leave_out(sessions_and_path):
        sessions, path = sessions_and_path
        if path.stem.split("_")[2] in sessions:
            return create(sessions_and_path)
        call.texts.hide(path, "call without speakers", "it has no row in the table")
        call.counted.add(path.stem)
        return []

    audio, texts = paired(
        call,
        files("audio_dirs", fisher_english.FISHER_AUDIO_DIRS, "", ".sph"),
        files(
            "transcript_dirs",
            fisher_english.FISHER_TRANSCRIPT_DIRS,
            "data/trans",
            ".txt",
        ),
    )
    found = {"*.sph": audio, "*.txt": texts}
    return {
        "walk_dirs_parallel": lambda dirs, pattern, *_: found[pattern],
        "create_supervision": create_or_leave_out,
    }


# --------------------------------------------------------------------------- L2-ARCTIC


def l2_arctic_patches(call, folder, options):
    """Finds recordings by ID in constant time, and gives an empty one for a transcript
    without audio. Only transcripts of known speakers are read."""
    speakers = l2_arctic._parse_speaker_description()
    for path in folder.rglob("*.txt"):
        suitcase = "suitcase_corpus" in path.parts
        speaker = path.stem if suitcase else path.parents[1].name.lower()
        if path.parent.name != "transcript":
            call.texts.hide(path)
        elif speaker not in speakers:
            call.texts.hide(path, "unknown speaker")

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

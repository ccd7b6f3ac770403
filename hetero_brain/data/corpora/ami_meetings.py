"""AMI: annotations in XML, and recordings of a file for each microphone."""

import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import lhotse
from lhotse.audio import AudioSource, Recording
from lhotse.recipes import ami

from .lenient import ENDLESS_SECONDS

TIMES = {
    "segments": {"segment": ("transcriber_start", "transcriber_end")},
    "words": {"w": ("starttime", "endtime")},
}


def _fault(path, kind):
    """What a file of annotations lacks that the reader needs, or ""."""
    ((tag, (start, end)),) = TIMES[kind].items()
    try:
        for element in ElementTree.parse(path).getroot().iter(tag):
            if kind == "words" and start not in element.attrib:
                continue  # the reader passes over it
            float(element.attrib[start]), float(element.attrib[end])
            if kind == "words" and not element.text:
                return f"a word at {element.attrib[start]} s is empty"
    except ElementTree.ParseError as error:
        return str(error)
    except KeyError as error:
        return f"a {tag} without {error.args[0]}"
    except ValueError as error:
        return f"a {tag}: {error}"
    return ""


def hide_faulty(call, folder, options):
    """Only annotations that can be used: the reader refuses the corpus for one file that
    is cut short or lost. A speaker of a meeting has a file of segments and one of words;
    without either there is no transcript."""
    manual = Path(options.get("annotations_dir") or folder / "ami_public_manual_1.6.2")
    found = {kind: {} for kind in TIMES}
    faulty = set()
    for kind, of_kind in found.items():
        for path in (manual / kind).iterdir():
            if match := re.fullmatch(rf"([^.]+\.[^.]+)\.{kind}\.xml", path.name):
                of_kind[match[1]] = path
                if fault := _fault(path, kind):
                    call.texts.hide(path, "annotations not understood", fault)
                    faulty.add(match[1])
            else:
                call.texts.hide(path)
    segments, words = found.values()
    for speaker in sorted(segments.keys() ^ words.keys() | faulty):
        for path in filter(None, (segments.get(speaker), words.get(speaker))):
            reason = "" if speaker in faulty else "annotations without their other half"
            call.texts.hide(path, reason)


def ami_patches(call, folder, options):
    """Recordings of AMI: headset n is channel n, though one before it may be lost, and
    their length is not asked for here. The reader deletes letters that are not ASCII;
    ``normalise_ascii`` leaves them to whoever judges the words."""
    hide_faulty(call, folder, options)

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

    normalise = ami.normalize_text_ami

    def normalise_ascii(text, **kwargs):
        return normalise(text, **kwargs) if text.isascii() else text

    return {
        "prepare_audio_grouped": grouped,
        "prepare_audio_single": single,
        "normalize_text_ami": normalise_ascii,
    }

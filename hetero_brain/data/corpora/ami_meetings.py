"""The AMI meetings: annotations in XML, and a recording for each microphone."""

import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import lhotse
from lhotse.audio import AudioSource, Recording
from lhotse.recipes import ami

from .lenient import ENDLESS_SECONDS

# {kind of annotation: {tag: attributes with the start and end time}}
TIMES = {
    "segments": {"segment": ("transcriber_start", "transcriber_end")},
    "words": {"w": ("starttime", "endtime")},
}


def _annotation_problem(path, kind):
    """Why the reader cannot use a file of annotations, or ""."""
    ((tag, (start, end)),) = TIMES[kind].items()
    try:
        for element in ElementTree.parse(path).getroot().iter(tag):
            if kind == "words" and start not in element.attrib:
                continue  # the reader ignores it
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


def hide_unusable_annotations(call, folder, options):
    """Hides annotations that cannot be used: the reader refuses the corpus if a single
    file is missing or cut short. Each speaker of a meeting has a file of segments and a
    file of words, and a transcript requires both."""
    manual = Path(options.get("annotations_dir") or folder / "ami_public_manual_1.6.2")
    found = {kind: {} for kind in TIMES}
    unusable = set()
    for kind, paths in found.items():
        for path in (manual / kind).iterdir():
            if match := re.fullmatch(rf"([^.]+\.[^.]+)\.{kind}\.xml", path.name):
                paths[match[1]] = path
                if problem := _annotation_problem(path, kind):
                    call.texts.hide(path, "annotations not understood", problem)
                    unusable.add(match[1])
            else:
                call.texts.hide(path)
    segments, words = found.values()
    for speaker in sorted(segments.keys() ^ words.keys() | unusable):
        for path in filter(None, (segments.get(speaker), words.get(speaker))):
            reason = (
                "" if speaker in unusable else "annotations without their other half"
            )
            call.texts.hide(path, reason)


def ami_patches(call, folder, options):
    """Builds the recordings of AMI without reading their length. Headset n is channel n
    even if the file of an earlier headset is missing. The reader deletes letters that are
    not ASCII; ``normalise_ascii`` keeps them, since what is left would be wrong."""
    hide_unusable_annotations(call, folder, options)

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
                missing = first.with_name(re.sub(r"\d+$", str(n), first.stem) + ".wav")
                numbers.setdefault(n, missing)
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

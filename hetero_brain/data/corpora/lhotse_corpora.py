"""Any corpus that lhotse reads, as segments for manifests.

``lhotse.recipes.prepare_<corpus>`` knows the layout of each release; ``lenient`` lets it
pass over what is damaged, ``text_files`` withholds lines that are no utterances, and here
every segment is checked. Nothing is downloaded, and
nothing is written but into a temporary folder.

What is wrong with a segment, ``Segment.fault``:

- its file: ``no such file``, ``empty``, ``unreadable``, ``cut short`` (a file that is one
  utterance; a longer recording is good up to its end), or compressed by shorten;
- its place: ``segment without times``, ``segment of no duration``, ``segment beyond the
  recording's end`` (one that ends less than half a second behind it is trimmed, and
  noted), ``no such channel``;
- ``duplicate``: the same samples under the same ID, or of the same speaker with the same
  text. The same ID elsewhere gets a number;
- its speaker's name has bytes that are no UTF-8: ``damaged speaker``;
- its text says that it is not to be scored.

Segments may overlap: two people talk. Both are kept, and noted.
"""

import difflib
import importlib.util
import inspect
import logging
import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import lhotse.recipes
from lhotse.supervision import SupervisionSegment

from .lenient import Call, lenient
from .pairing import IGNORED, NO_AUDIO
from .special_cases import SPECIAL, Special
from .text_files import TextFiles
from .transcript_lines import CHECKS

logger = logging.getLogger(__name__)

TRIM_SECONDS = 0.5
WHOLE_SECONDS = 0.002  # a segment that differs from its file by less is all of it
TRIMMED = "trimmed to the recording's end"
OVERLAPS = "overlaps another"
PREFIX = "prepare_"


@dataclass(slots=True)
class Segment:
    """One utterance as the corpus has it.

    Attributes
    ----------
    id, speaker, text : str
        As lhotse gives them; "" if there is none.
    wav : str
        Path of the file.
    start, stop : int or None
        Samples at the file's own rate; both None for the whole file.
    channel : int or None
        Of a file that has several.
    seconds : float
        Duration.
    fields : dict
        Values of the fields asked for.
    fault, note : str
        Why it is left out, or what is unusual about it, or "".
    """

    id: str
    speaker: str
    text: str
    wav: str = ""
    start: int | None = None
    stop: int | None = None
    channel: int | None = None
    seconds: float = 0.0
    fields: dict = field(default_factory=dict)
    fault: str = ""
    note: str = ""


@dataclass
class Part:
    """One of lhotse's splits: its segments, sorted by ID, also those with a fault; what
    is left out before there are segments, {reason: number}; and the first places where
    text was withheld, in words."""

    segments: list
    left_out: Counter
    told: str = ""


def check_corpus(corpus, folder, options):
    """What is wrong with a request, as far as can be known without reading.

    Arguments
    ---------
    corpus : str
        lhotse's name: ``librispeech`` for ``prepare_librispeech``.
    folder : str or Path
        Where the corpus is.
    options : Mapping
        Further arguments of lhotse's function.

    Returns
    -------
    list of str
        What is wrong and what to do.
    """
    function = getattr(lhotse.recipes, f"{PREFIX}{corpus}", None)
    if function is None:
        known = [name.removeprefix(PREFIX) for name in dir(lhotse.recipes)]
        known = [name for name in known if hasattr(lhotse.recipes, PREFIX + name)]
        near = difflib.get_close_matches(str(corpus), known, n=3, cutoff=0.4)
        return [f"lhotse has no corpus {corpus!r}; the nearest are {near or known}"]
    special, folder = SPECIAL.get(corpus, Special()), Path(folder)
    if not folder.is_dir():
        return [f"no folder {folder}"]

    faults = []
    first, *parameters = inspect.signature(function).parameters.values()
    allowed = {p.name: p for p in parameters if p.name != "output_dir"}
    for name in sorted(set(options) - set(allowed)):
        faults.append(
            f"{PREFIX}{corpus} has no option {name!r}; it has {sorted(allowed)}"
        )
    for name, parameter in allowed.items():
        if name in options:
            path = options[name]
            if name.endswith("_dir") and path is not None and not Path(path).exists():
                faults.append(f"option {name}: no folder {path}")
        elif name in special.required:
            faults.append(f"option {name} is needed: {special.required[name]}")
        elif parameter.default is parameter.empty:
            faults.append(f"option {name} is needed by {PREFIX}{corpus}")
    for module, package in special.packages.items():
        if importlib.util.find_spec(module) is None:
            faults.append(f"its reader needs a package: pip install {package}")
    return faults + special.faults(folder, options)


def read_corpus(corpus, folder, parts, options, fields=()):
    """Reads the parts of a corpus.

    Arguments
    ---------
    corpus, folder, options
        As ``check_corpus``, which was content with them.
    parts : sequence of str
        lhotse's names: keys of the dict that its function returns, those of nested dicts
        joined by "/"; ``all`` if it returns no splits.
    fields : sequence of str
        Supervision fields to keep: ``gender``, ``language`` or any of ``custom``.

    Returns
    -------
    dict
        {part: Part}. What the reader itself left out cannot be assigned to a part if it
        read several at once; it is then in a part "" without segments.

    Raises
    ------
    ValueError
        If the reader fails, a part is not there or has nothing in it, or nothing is left
        of all of them.
    """
    function = getattr(lhotse.recipes, PREFIX + corpus)
    parameters = inspect.signature(function).parameters
    if "dataset_parts" in parameters and "dataset_parts" not in options:
        read = {}
        for part in dict.fromkeys(parts):  # one by one, so that reasons have their part
            its = {**options, "dataset_parts": [part]}
            read |= _call(function, corpus, folder, its, [part], fields)
    else:
        read = _call(function, corpus, folder, options, parts, fields)
    for part in parts:
        if part not in read:
            raise ValueError(
                f"{folder}: {PREFIX}{corpus} gives no part {part!r} but "
                f"{sorted(set(read) - {''})}"
            )
    empty = [part for part in parts if not read[part].segments]
    told = "".join(part.told for part in read.values())
    if len(empty) == len(parts) and told:
        raise ValueError(f"{folder}: nothing is left of {', '.join(parts)}{told}")
    for part in empty:
        if not read[part].left_out and not read.get("", read[part]).left_out:
            raise ValueError(f"{folder}: {PREFIX}{corpus} finds nothing in {part!r}")
        logger.warning("%s: nothing is left of %r", folder, part)
    return read


def _call(function, corpus, folder, options, wanted, fields):
    """One call of a reader: {part: Part} of the wanted parts, empty ones of others."""
    special, folder = SPECIAL.get(corpus, Special()), Path(folder)
    options = {
        name: Path(value) if name.endswith("_dir") and isinstance(value, str) else value
        for name, value in options.items()
    }
    folders = [value for value in options.values() if isinstance(value, Path)]
    with TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        texts = TextFiles([folder, *folders], CHECKS.get(corpus, {}))
        call = Call(texts)
        try:
            with texts.served():
                given = special.folder(call, folder, scratch, options)
                patches = special.patches(call, folder, options)
                with lenient(sys.modules[function.__module__], call, patches):
                    output = _output(function, special, scratch)
                    manifests = function(given, **output, **options)
        except Exception as error:
            what = str(error) if type(error) is ValueError else repr(error)
            raise ValueError(
                f"{folder}: lhotse's {PREFIX}{corpus} cannot read it: {what}"
                f"{texts.where(error)}{texts.told()}"
            ) from error
        for warning in call.warnings:
            logger.warning("%s: lhotse: %s", folder, warning)
        if told := texts.told():
            logger.warning("%s%s", folder, told)
        read = {
            name: Part(
                _Reader(call, special, given, folder, fields).segments(group)
                if name in wanted
                else [],
                Counter(),
            )
            for name, group in _groups(manifests)
        }
    name = next(iter(read)) if len(read) == 1 else ""
    part = read.setdefault(name, Part([], Counter()))
    part.left_out.update(call.left_out + texts.left_out)
    part.told = told
    return read


def _output(function, special, scratch):
    """The argument of a reader that names the folder where it may write."""
    parameter = inspect.signature(function).parameters.get("output_dir")
    required = parameter is not None and parameter.default is parameter.empty
    return {"output_dir": scratch} if required or special.output_dir else {}


def _groups(node, name=()):
    """The recordings and supervisions in nested dicts, as (name, dict)."""
    if "recordings" in node:
        yield "/".join(name) or "all", node
        return
    for key, child in node.items():
        if isinstance(child, Mapping):
            yield from _groups(child, (*name, str(key)))


class _Reader:
    """Turns one group of lhotse's recordings and supervisions into segments.

    Arguments
    ---------
    call : Call
        Has the headers.
    special : Special
        Of the corpus.
    given, folder : Path
        The folder that lhotse read, and the corpus's own, to which paths are led back.
    fields : sequence of str
        What to keep of supervisions.
    """

    def __init__(self, call, special, given, folder, fields):
        self.call, self.special, self.fields = call, special, fields
        self.given, self.folder = str(given), str(folder)

    def segments(self, group):
        """The segments, sorted by ID."""
        recordings = {recording.id: recording for recording in group["recordings"]}
        supervisions = group.get("supervisions", group.get("segments"))
        if supervisions is None:  # untranscribed speech
            supervisions = [_all_of(recording) for recording in recordings.values()]
        segments, spans, said, used = [], {}, set(), set()
        for supervision in supervisions:
            used.add(supervision.recording_id)
            segment = self.segment(
                supervision, recordings.get(supervision.recording_id)
            )
            if not segment.fault:
                span = (segment.wav, segment.channel, segment.start, segment.stop)
                same_id = spans.setdefault(segment.id, [])
                words = (*span, segment.speaker, segment.text)
                if span in same_id or words in said:
                    segment.fault = "duplicate"
                else:
                    same_id.append(span)
                    said.add(words)
                    if len(same_id) > 1:
                        segment.id += f"-{len(same_id)}"
            segments.append(segment)
        counted = self.call.counted | self.call.texts.empty
        for name in recordings.keys() - used - counted:
            path = recordings[name].sources[0].source
            fault = self.call.header(path).fault or "recording without segments"
            segments.append(Segment(name, "", "", fault=fault))
        _note_overlaps(segments)
        return sorted(segments, key=lambda segment: segment.id)

    def segment(self, supervision, recording):
        """One segment, checked by itself."""
        segment = Segment(
            supervision.id,
            str(self.special.speaker(supervision) or ""),
            " ".join((supervision.text or "").split()),
            fields={name: _field(supervision, name) for name in self.fields},
        )
        if segment.text.casefold() == "ignore_time_segment_in_scoring":
            segment.fault = IGNORED
        elif "\N{REPLACEMENT CHARACTER}" in segment.speaker:
            segment.fault = "damaged speaker"
        elif recording is None:
            segment.fault = NO_AUDIO
        else:
            self.place(segment, supervision, recording)
        return segment

    def place(self, segment, supervision, recording):
        """Finds the samples of a segment, or its fault."""
        channels = supervision.channel
        channels = [channels] if isinstance(channels, int) else list(channels)
        first = recording.sources[0]
        source = next(
            (s for s in recording.sources if channels[0] in s.channels), first
        )
        header = self.call.header(source.source)
        if header.problem or channels[0] not in source.channels:
            segment.fault = header.problem or "no such channel"
            return
        segment.wav = source.source
        if segment.wav.startswith(self.given):
            segment.wav = self.folder + segment.wav[len(self.given) :]
        if header.channels > 1 and len(channels) == 1:
            segment.channel = source.channels.index(channels[0])

        whole = header.frames / header.rate
        begin, end = supervision.start, supervision.start + supervision.duration
        if not math.isfinite(end):
            segment.fault = "segment without times"
            return
        if abs(begin) < WHOLE_SECONDS and abs(end - whole) < WHOLE_SECONDS:
            segment.seconds = whole
            segment.fault = "cut short" if header.cut else ""
            return
        start, stop = max(0, round(begin * header.rate)), round(end * header.rate)
        if stop <= start:
            segment.fault = "segment of no duration"
        elif start >= header.frames or end - whole > TRIM_SECONDS:
            segment.fault = "segment beyond the recording's end"
        elif end - whole > WHOLE_SECONDS:
            segment.note = TRIMMED
        segment.start, segment.stop = start, min(stop, header.frames)
        segment.seconds = (segment.stop - start) / header.rate


def _all_of(recording):
    return SupervisionSegment(
        recording.id, recording.id, 0.0, recording.duration, recording.channel_ids
    )


def _field(supervision, name):
    """A field of a supervision, its own or custom; None if it has no such field."""
    if name in ("speaker", "gender", "language"):
        return getattr(supervision, name)
    return (supervision.custom or {}).get(name)


def _note_overlaps(segments):
    """Notes, of the good segments of each channel, those that begin before an earlier one
    ends."""
    good = [s for s in segments if not s.fault and s.start is not None]
    good.sort(key=lambda s: (s.wav, -1 if s.channel is None else s.channel, s.start))
    key, end = None, 0
    for segment in good:
        if (segment.wav, segment.channel) != key:
            key, end = (segment.wav, segment.channel), 0
        if segment.start < end:
            segment.note = segment.note or OVERLAPS
        end = max(end, segment.stop)

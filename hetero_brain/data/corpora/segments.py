"""The segments of a corpus: recordings and supervisions of lhotse, checked.

Why a segment cannot be used, ``Segment.problem``:

- its file: ``no such file``, ``empty``, ``unreadable``, ``cut short`` (only if the file
  is a single utterance; a longer recording can be used up to its end), or compressed by
  shorten;
- its place: ``segment without times``, ``segment of no duration``, ``segment beyond the
  recording's end`` (if it ends less than half a second after the recording, it is trimmed
  and noted instead), ``no such channel``;
- ``duplicate``: the same samples under the same ID, or of the same speaker with the same
  text. If an ID stands for several segments, a number is added to it;
- ``damaged speaker``: the speaker's name contains bytes that are not UTF-8;
- its text says that it is not to be scored.

Segments may overlap, since two people may talk at once. Both are kept, and noted.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from lhotse.supervision import SupervisionSegment

from .pairing import IGNORED, NO_AUDIO

TRIM_SECONDS = 0.5
WHOLE_SECONDS = 0.002  # a segment that differs by less from its file is the whole file
TRIMMED = "trimmed to the recording's end"
OVERLAPS = "overlaps another"


@dataclass(slots=True)
class Segment:
    """One utterance as the corpus has it.

    Attributes
    ----------
    id, speaker, text : str
        As lhotse gives them; "" if there is none.
    wav : str
        Path of the audio file.
    start, stop : int or None
        First sample, and the one after the last, at the file's own rate; both are None
        if the segment is the whole file.
    channel : int or None
        Channel of a file that has several.
    seconds : float
        Duration.
    fields : dict
        Values of the supervision's fields that were asked for.
    problem : str
        Why the segment cannot be used, or "".
    note : str
        What is unusual about a segment that can be used, or "".
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
    problem: str = ""
    note: str = ""


@dataclass
class CorpusPart:
    """One part of a corpus, such as LibriSpeech's ``train-clean-100``.

    Attributes
    ----------
    segments : list of Segment
        Sorted by ID, including those that cannot be used.
    left_out : collections.Counter
        What was left out before there were segments: reason → number.
    withheld : str
        The first places where text was withheld from the reader, in words, or "".
    """

    segments: list
    left_out: Counter
    withheld: str = ""


class SegmentReader:
    """Turns recordings and supervisions of lhotse into segments.

    Arguments
    ---------
    call : lenient.Call
        The call that they come from; it has the headers of the files.
    special : special_cases.Special
        How this corpus differs from others.
    read_folder, folder : Path
        The folder that lhotse has read, and the folder of the corpus. Where the first is
        a copy, paths of files are changed to the second.
    fields : sequence of str
        Fields of supervisions to keep.
    """

    def __init__(self, call, special, read_folder, folder, fields):
        self.call, self.special, self.fields = call, special, fields
        self.read_folder, self.folder = str(read_folder), str(folder)

    def segments(self, group):
        """The segments of {"recordings": …, "supervisions": …}, sorted by ID."""
        recordings = {recording.id: recording for recording in group["recordings"]}
        supervisions = group.get("supervisions", group.get("segments"))
        if supervisions is None:  # untranscribed speech
            supervisions = map(_whole_recording, recordings.values())
        segments, used = [], set()
        for supervision in supervisions:
            name = supervision.recording_id
            used.add(name)
            segments.append(self._segment(supervision, recordings.get(name)))
        _find_duplicates(segments)
        counted = self.call.counted | self.call.texts.empty
        for name in recordings.keys() - used - counted:
            path = recordings[name].sources[0].source
            problem = self.call.header(path).problem or "recording without segments"
            segments.append(Segment(name, "", "", problem=problem))
        _note_overlaps(segments)
        return sorted(segments, key=lambda segment: segment.id)

    def _segment(self, supervision, recording):
        """One segment, checked without regard to the others."""
        segment = Segment(
            supervision.id,
            str(self.special.speaker(supervision) or ""),
            " ".join((supervision.text or "").split()),
            fields={name: _field(supervision, name) for name in self.fields},
        )
        if segment.text.casefold() == "ignore_time_segment_in_scoring":
            segment.problem = IGNORED
        elif "\N{REPLACEMENT CHARACTER}" in segment.speaker:
            segment.problem = "damaged speaker"
        elif recording is None:
            segment.problem = NO_AUDIO
        else:
            self._locate(segment, supervision, recording)
        return segment

    def _locate(self, segment, supervision, recording):
        """Sets the file, channel and samples of a segment, or its problem."""
        channels = supervision.channel
        channels = [channels] if isinstance(channels, int) else list(channels)
        first = recording.sources[0]
        source = next(
            (s for s in recording.sources if channels[0] in s.channels), first
        )
        header = self.call.header(source.source)
        if header.problem or channels[0] not in source.channels:
            segment.problem = header.problem or "no such channel"
            return
        segment.wav = source.source
        if segment.wav.startswith(self.read_folder):
            segment.wav = self.folder + segment.wav[len(self.read_folder) :]
        if header.channels > 1 and len(channels) == 1:
            segment.channel = source.channels.index(channels[0])
        _set_times(segment, supervision, header)


def _set_times(segment, supervision, header):
    """Sets the samples and the duration of a segment, or its problem."""
    whole = header.frames / header.rate
    begin, end = supervision.start, supervision.start + supervision.duration
    if not math.isfinite(end):
        segment.problem = "segment without times"
        return
    if abs(begin) < WHOLE_SECONDS and abs(end - whole) < WHOLE_SECONDS:
        segment.seconds = whole
        segment.problem = "cut short" if header.cut else ""
        return
    start, stop = max(0, round(begin * header.rate)), round(end * header.rate)
    if stop <= start:
        segment.problem = "segment of no duration"
    elif start >= header.frames or end - whole > TRIM_SECONDS:
        segment.problem = "segment beyond the recording's end"
    elif end - whole > WHOLE_SECONDS:
        segment.note = TRIMMED
    segment.start, segment.stop = start, min(stop, header.frames)
    segment.seconds = (segment.stop - start) / header.rate


def _whole_recording(recording):
    return SupervisionSegment(
        recording.id, recording.id, 0.0, recording.duration, recording.channel_ids
    )


def _field(supervision, name):
    """A field of a supervision, its own or a custom one; None if it has no such field."""
    if name in ("speaker", "gender", "language"):
        return getattr(supervision, name)
    return (supervision.custom or {}).get(name)


def _find_duplicates(segments):
    """Marks duplicates among the usable segments, and makes the other IDs unique."""
    spans_by_id, utterances = {}, set()
    for segment in segments:
        if segment.problem:
            continue
        span = (segment.wav, segment.channel, segment.start, segment.stop)
        same_id = spans_by_id.setdefault(segment.id, [])
        utterance = (*span, segment.speaker, segment.text)
        if span in same_id or utterance in utterances:
            segment.problem = "duplicate"
        else:
            same_id.append(span)
            utterances.add(utterance)
            if len(same_id) > 1:
                segment.id += f"-{len(same_id)}"


def _note_overlaps(segments):
    """Notes each usable segment that begins before an earlier one on its channel ends."""
    usable = [s for s in segments if not s.problem and s.start is not None]
    usable.sort(key=lambda s: (s.wav, -1 if s.channel is None else s.channel, s.start))
    channel, end = None, 0
    for segment in usable:
        if (segment.wav, segment.channel) != channel:
            channel, end = (segment.wav, segment.channel), 0
        if segment.start < end:
            segment.note = segment.note or OVERLAPS
        end = max(end, segment.stop)

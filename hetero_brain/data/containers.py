"""What the header of an audio file states about its length, and whether that is true.

A header is written before the audio. A program that writes to a pipe, or that is killed,
never returns to the header and leaves a placeholder there: 0, or a size near 2 GiB or
4 GiB. An mp3 need not state its length at all; libsndfile then assumes that all frames
are as long as the first.
"""

import os
import re
from dataclasses import dataclass, field

# In bytes. A size of this or more is a placeholder: SoX writes 0x7F000008 or 0x7FFFF000,
# ALSA 0x80000000, FFmpeg 0xFFFFFFFF. A real file of that size may be truncated without
# being noticed. That does no harm: it holds many utterances, and those before its end can
# be used either way.
PLACEHOLDER = 0x7F000000
FOREIGN = re.compile(rb".{4}ftyp|\x1aE\xdf\xa3", re.DOTALL)  # MP4 and WebM
SLACK = 64  # bytes; some programs count the header as audio
MPEG_SEARCH = 1 << 16  # bytes after the tags of an mp3 in which to look for a frame
MPEG_SLACK = 256  # bytes; an mp3 may end with a tag of 128 bytes, which is not audio


@dataclass(frozen=True, slots=True)
class Container:
    """What is known about the length and format of an audio file from its header.

    Attributes
    ----------
    cut : bool
        Whether the file is shorter than the header states.
    frames : int
        Samples per channel that a SPHERE header states; 0 if it states none, and for
        other formats.
    fits : bool
        Whether it is an mp3 that states its length and has the corresponding size.
    start : int
        Bytes before the first frame of an mp3.
    patches : dict
        Position in the file → byte that should stand there, so that libsndfile reads all
        of the audio.
    foreign : bool
        Whether the format is one that FFmpeg decodes but libsndfile does not know, or
        mistakes for mp3, as it does with AAC.
    """

    cut: bool = False
    frames: int = 0
    fits: bool = False
    start: int = 0
    patches: dict = field(default_factory=dict)
    foreign: bool = False


def read_container(path):
    """Read the header of a file, which takes a few hundred bytes.

    Arguments
    ---------
    path : str or Path
        Any file. For an mp3, :func:`read_mpeg` finds out more.

    Returns
    -------
    Container

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(1024)
        if FOREIGN.match(start):
            return Container(foreign=True)
        kind = start[:4]
        if kind in (b"RIFF", b"RF64"):
            return _wav(file, size, start)
        if kind == b"FORM":
            found = _find_chunk(file, b"SSND", "big")
            return Container(cut=found is not None and _is_cut(*found, size))
        if kind == b".snd":
            position, length = (int.from_bytes(start[i : i + 4], "big") for i in (4, 8))
            return Container(cut=_is_cut(position, length, size))
        if kind == b"NIST":
            count = re.search(rb"sample_count -i (\d+)", start)
            frames = int(count[1]) if count else 0
            return Container(frames=frames if frames < PLACEHOLDER else 0)
        file.seek(_skip_id3(file))
        frame = file.read(2)
        # A frame that looks like MPEG audio but names no layer is AAC.
        is_aac = frame[:1] == b"\xff" and frame[1:] >= b"\xf0" and not frame[1] & 6
        return Container(foreign=is_aac)


def _is_cut(position, length, size):
    """Whether a file of ``size`` bytes ends before audio of this position and length."""
    return length < PLACEHOLDER and position + length > size + SLACK


def _find_chunk(file, name, byte_order):
    """Position and length of a chunk's content in bytes, or None if it is missing.

    The length is the one that the header of the chunk states.
    """
    position = 12
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or not any(head):
            return None
        length = int.from_bytes(head[4:], byte_order)
        position += 8
        if head[:4] == name:
            return position, length
        position += length + length % 2


def _wav(file, size, start):
    """The :class:`Container` of a WAV or RF64 file that begins with ``start``."""
    found = _find_chunk(file, b"data", "little")
    if found is None:
        return Container()
    position, length = found
    complete = int.from_bytes(start[4:8], "little") == size - 8
    if start[:4] == b"RF64":  # It has its sizes in its first chunk, ds64.
        complete = int.from_bytes(start[20:28], "little") == size - 8
        length = int.from_bytes(start[28:36], "little")
    if not complete and (length == 0 or length > max(size, PLACEHOLDER)):
        # libsndfile reads a WAV up to its end if the stated size is too large.
        patches = {position - i: 0xFF for i in range(1, 5)}
        return Container(patches=patches | dict(enumerate(b"RIFF")))
    return Container(cut=_is_cut(position, length, size))


def read_mpeg(path):
    """Read the header of an mp3; raises the same errors as :func:`read_container`.

    Instead of audio, its first frame may hold a table with the number of frames and bytes
    of the file. The table is called "Xing", or "Info" if the bit rate is constant.

    Arguments
    ---------
    path : str or Path
        A file that libsndfile recognises as mp3.

    Returns
    -------
    Container
        Its patches hide a table that does not fit the size of the file.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = _skip_id3(file)
        file.seek(start)
        head = file.read(MPEG_SEARCH)
    sync = re.search(rb"\xff[\xe2-\xff]", head)
    start += sync.start() if sync else 0
    # The table follows four bytes of frame header, an optional checksum of two bytes, and
    # 9 to 32 bytes of side information. It has its name, flags, the number of frames if
    # flag 1 is set, and the number of bytes if flag 2 is set.
    pattern = re.compile(rb"(?:Xing|Info)(.{12})", re.DOTALL)
    table = sync and pattern.search(head, sync.start(), sync.start() + 64)
    if not table:
        return Container(start=start)
    flags, frames, length = (
        int.from_bytes(table[1][i : i + 4], "big") for i in (0, 4, 8)
    )
    has_length = flags & 3 == 3 and frames > 0 and length < PLACEHOLDER
    excess = size - start - length
    if has_length and abs(excess) <= MPEG_SLACK:
        return Container(fits=True)
    first = start + table.start() - sync.start()
    patches = dict.fromkeys(range(first, first + 4), 0)
    return Container(cut=has_length and excess < 0, start=start, patches=patches)


def _skip_id3(file):
    """Position after the ID3 tags of an mp3, such as a title or a picture."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return position
        length = 0
        for byte in head[6:]:
            length = length << 7 | byte & 0x7F
        position += 10 + length + (10 if head[5] & 0x10 else 0)  # flag: has a footer

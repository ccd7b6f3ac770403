"""What the header of an audio file says about its length, and whether it can be true.

A header is written before the audio. A program that writes to a pipe, or is killed, does
not come back to it, and leaves a placeholder: 0, or a size near 2 GiB or 4 GiB. An mp3
need not say at all how long it is; libsndfile then takes its first frame for all others.
"""

import os
import re
from dataclasses import dataclass, field

# Bytes. From here on, a size is a placeholder: SoX writes 0x7F000008 or 0x7FFFF000, ALSA
# 0x80000000, FFmpeg 0xFFFFFFFF. A cut file of 2 GiB is no single utterance, so that it is
# of use up to its end, whether known to be cut or not.
PLACEHOLDER = 0x7F000000
FOREIGN = re.compile(rb".{4}ftyp|\x1aE\xdf\xa3", re.DOTALL)  # MP4 and WebM
SLACK = 64  # bytes; some programs count the header as audio
MPEG_SEARCH = 1 << 16  # bytes in which an mp3 begins, behind its tags
MPEG_SLACK = 256  # bytes; a tag at the end of an mp3, of 128, is not audio


@dataclass(frozen=True, slots=True)
class Container:
    """How much of a header is true.

    Attributes
    ----------
    cut : bool
        The file is shorter than the header promises.
    frames : int
        Samples of each channel that SPHERE promises; 0 if it does not, and for others.
    fits : bool
        An mp3 promises a length, and has the size that belongs to it.
    start : int
        Bytes before the first frame of an mp3.
    patches : dict
        {position in the file: byte} that the header should have, so that libsndfile reads
        all there is.
    foreign : bool
        It is of a kind that libsndfile does not know (or takes for mp3, as it does AAC),
        and FFmpeg does.
    """

    cut: bool = False
    frames: int = 0
    fits: bool = False
    start: int = 0
    patches: dict = field(default_factory=dict)
    foreign: bool = False


def read_container(path):
    """Reads the header of a file, some hundred bytes.

    Arguments
    ---------
    path : str or Path
        Any file; of an mp3, ``read_mpeg`` tells more.

    Returns
    -------
    Container

    Raises
    ------
    OSError
        The file cannot be read.
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
        # MPEG audio of no layer is AAC.
        is_aac = frame[:1] == b"\xff" and frame[1:] >= b"\xf0" and not frame[1] & 6
        return Container(foreign=is_aac)


def _is_cut(position, length, size):
    """Whether audio of this position and length does not fit into a file."""
    return length < PLACEHOLDER and position + length > size + SLACK


def _find_chunk(file, name, byte_order):
    """(position, length) of the content of a chunk, as its header has them; None if there
    is no such chunk."""
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
    found = _find_chunk(file, b"data", "little")
    if found is None:
        return Container()
    position, length = found
    complete = int.from_bytes(start[4:8], "little") == size - 8
    if start[:4] == b"RF64":  # sizes are in the chunk ds64, the first one
        complete = int.from_bytes(start[20:28], "little") == size - 8
        length = int.from_bytes(start[28:36], "little")
    if not complete and (length == 0 or length > max(size, PLACEHOLDER)):
        # libsndfile reads up to the end of a WAV whose size is too large.
        patches = {position - i: 0xFF for i in range(1, 5)}
        return Container(patches=patches | dict(enumerate(b"RIFF")))
    return Container(cut=_is_cut(position, length, size))


def read_mpeg(path):
    """Reads the header of an mp3.

    Its first frame may hold no audio but a table, "Xing", or "Info" where the bit rate is
    constant, with the number of frames and bytes.

    Arguments
    ---------
    path : str or Path
        A file that libsndfile takes for mp3.

    Returns
    -------
    Container
        Its patches hide a table that does not fit.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = _skip_id3(file)
        file.seek(start)
        head = file.read(MPEG_SEARCH)
    sync = re.search(rb"\xff[\xe2-\xff]", head)
    start += sync.start() if sync else 0
    # Behind four bytes of header, a checksum of two, if any, and side information of 9 to
    # 32: the name, flags, frames if flag 1 is set, and bytes if flag 2 is.
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
    """Where an mp3 begins, behind tags such as a title or a picture."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return position
        length = 0
        for byte in head[6:]:
            length = length << 7 | byte & 0x7F
        position += 10 + length + (10 if head[5] & 0x10 else 0)  # the flag: a footer

"""Which lines of a corpus's text files are utterances, as lhotse's reader needs them.

A check takes the lines of a file and gives for each why it is withheld from the reader:
``""`` if it is not, ``None`` if it is and no utterance is lost (see ``text_files``). Only
files in which every utterance has a line to itself have one.
"""

import csv
import re

BLANK = "blank line"
ODD = "line not understood"
TIME = r"-?(?:\d+\.?\d*|\.\d+)"
COMMENT = r"#.*|"


def lines_like(utterance, others=None, lost=True):
    """A check of files in which every line stands for itself.

    Arguments
    ---------
    utterance : str
        Regular expression of a line that the reader understands.
    others : str
        Of lines that are no utterances and that the reader passes over by itself.
    lost : bool
        Whether an utterance is lost with a line that is withheld.

    Returns
    -------
    Callable
        lines → reasons.
    """
    good = re.compile(f"{utterance}|{others}" if others else utterance)

    def check(lines):
        for line in lines:
            if good.fullmatch(line.strip()):
                yield ""
            else:
                yield _reason(line) if lost else None

    return check


def _reason(line):
    return ODD if line.strip() else BLANK


def callhome(lines):
    """CallHome's lines are wrapped: one that opens with neither a time nor a speaker goes
    on with the utterance before it, and is withheld with it. After a blank line it may
    also be one whose start is lost: then neither is certain."""
    utterance = re.compile(rf"({TIME})\s+({TIME})\s+[A-Z]\w*:?\s+\S.*")
    reasons, start, parted = [], None, True
    for line in map(str.strip, lines):
        match = utterance.fullmatch(line)
        if re.fullmatch(COMMENT, line):
            reasons.append("")
            parted = parted or not line
            continue
        if match or re.match(r"\d*\.\d|[A-Z]\d?:|;;", line):
            good = match and float(match[1]) < float(match[2])
            start = len(reasons)
            reasons.append("" if good else ODD)
        elif parted or start is None:
            if start is not None:
                reasons[start] = ODD
            reasons.append(ODD)
        else:
            reasons.append(reasons[start])
        parted = False
    return reasons


def voxpopuli(lines):
    """VoxPopuli's rows have as many fields as the header, and times. A quote that is not
    closed would take the next rows with it: each is parsed by itself."""
    header, *rows = lines
    names = header.split("|")
    if missing := {"session_id", "split", "start_time", "end_time"} - set(names):
        raise ValueError(f"its header has no {', '.join(sorted(missing))}: {header!r}")
    yield ""
    for row in rows:
        try:
            (fields,) = csv.reader([row], delimiter="|")
        except csv.Error:  # longer than any field may be
            fields = []
        its = dict(zip(names, fields))
        times = its.get("start_time", ""), its.get("end_time", "")
        good = len(fields) == len(names) and all(re.fullmatch(TIME, t) for t in times)
        yield "" if good else _reason(row)


TEDLIUM = {"*.stm": lines_like(rf"(?:\S+\s+){{3}}{TIME}\s+{TIME}\s+<\S*>(?:\s.*)?")}
CHECKS = {
    "broadcast_news": {"*.sgml": lines_like(r"(?!;;).*")},  # ;; is NIST's comment
    "callhome_english": {"*.txt": callhome},
    "edacc": {
        "segments": lines_like(rf"\S+\s+\S+\s+{TIME}\s+{TIME}"),
        # A segment without its words or speaker is counted by itself.
        "text": lines_like(r"\S+(?:\s.*)?", lost=False),
        "utt2spk": lines_like(r"\S+\s+\S+", lost=False),
    },
    "fisher_english": {
        "*.txt": lines_like(rf"{TIME}\s+{TIME}\s+[AB]:(?:\s.*)?", COMMENT),
        # A call without its row is counted by itself.
        "*_calldata.tbl": lines_like(r"(?:[^,]*,){10}.*", lost=False),
    },
    "librispeech": {
        "*.trans.txt": lines_like(r"\S+\s+\S.*"),
        "*.alignment.txt": lines_like(
            rf'\S+\s+\S+\s+"?{TIME}(?:,{TIME})*"?', lost=False
        ),
    },
    "ljspeech": {"metadata.csv": lines_like(r"[^|]+\|[^|]*\|[^|]*")},
    "switchboard": {"*trans.text": lines_like(rf"\S+\s+{TIME}\s+{TIME}\s+\S.*")},
    "tedlium": TEDLIUM,
    "tedlium2": TEDLIUM,
    "voxpopuli": {"asr_*.tsv.gz": voxpopuli},
}

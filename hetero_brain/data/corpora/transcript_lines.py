"""Checks of the text files of corpora: which of their lines lhotse's reader can use.

A check takes the lines of a file and gives for each the reason why it is withheld from
the reader: ``""`` if it is not withheld, ``None`` if it is withheld but no utterance is
lost with it (see ``text_files``). Only files with one utterance a line have a check.
"""

import csv
import re

BLANK = "blank line"
ODD = "line not understood"
TIME = r"-?(?:\d+\.?\d*|\.\d+)"
COMMENT = r"#.*|"


def lines_like(utterance, others=None, lost=True):
    """Makes a check for files whose lines do not depend on each other.

    Arguments
    ---------
    utterance : str
        Regular expression of the lines that the reader understands.
    others : str
        Regular expression of the lines that are not utterances, and that the reader skips
        by itself.
    lost : bool
        Whether an utterance is lost with each line that is withheld.

    Returns
    -------
    Callable
        The check: lines → reasons.
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
    """CallHome wraps its lines: a line that begins with neither a time nor a speaker
    continues the utterance before it, and is withheld together with it. After a blank
    line it may also be an utterance whose own start is missing. Then it is not certain
    what was said in either of the two, and both are withheld."""
    utterance = re.compile(rf"({TIME})\s+({TIME})\s+[A-Z]\w*:?\s+\S.*")
    reasons, start, after_blank = [], None, True
    for line in map(str.strip, lines):
        match = utterance.fullmatch(line)
        if re.fullmatch(COMMENT, line):
            reasons.append("")
            after_blank = after_blank or not line
            continue
        if match or re.match(r"\d*\.\d|[A-Z]\d?:|;;", line):
            good = match and float(match[1]) < float(match[2])
            start = len(reasons)
            reasons.append("" if good else ODD)
        elif after_blank or start is None:
            if start is not None:
                reasons[start] = ODD
            reasons.append(ODD)
        else:
            reasons.append(reasons[start])
        after_blank = False
    return reasons


def voxpopuli(lines):
    """VoxPopuli's rows have times, and as many fields as the header. Each row is parsed
    separately, since an open quote would otherwise swallow the rows after it."""
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
        values = dict(zip(names, fields))
        times = values.get("start_time", ""), values.get("end_time", "")
        good = len(fields) == len(names) and all(re.fullmatch(TIME, t) for t in times)
        yield "" if good else _reason(row)


TEDLIUM = {"*.stm": lines_like(rf"(?:\S+\s+){{3}}{TIME}\s+{TIME}\s+<\S*>(?:\s.*)?")}
CHECKS = {
    "broadcast_news": {"*.sgml": lines_like(r"(?!;;).*")},  # ;; begins a comment
    "callhome_english": {"*.txt": callhome},
    "edacc": {
        "segments": lines_like(rf"\S+\s+\S+\s+{TIME}\s+{TIME}"),
        # EdAcc's patches count segments without words or speaker.
        "text": lines_like(r"\S+(?:\s.*)?", lost=False),
        "utt2spk": lines_like(r"\S+\s+\S+", lost=False),
    },
    "fisher_english": {
        "*.txt": lines_like(rf"{TIME}\s+{TIME}\s+[AB]:(?:\s.*)?", COMMENT),
        # Fisher's patches count calls without a row.
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

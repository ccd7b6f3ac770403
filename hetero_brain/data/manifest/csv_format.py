"""The columns of a manifest, and the fields of one line of it."""

import csv

COLUMNS = ("ID", "duration", "wav", "start", "stop", "domain", "spk_id", "wrd")
OPTIONAL_COLUMNS = ("channel",)


def split_line(line):
    """The fields of one line of bytes, as SpeechBrain reads them."""
    text = line.decode().rstrip("\r\n")
    if '"' not in text and ", " not in text:  # four times as fast as csv
        return text.split(",")
    return next(csv.reader([text], skipinitialspace=True, strict=True))

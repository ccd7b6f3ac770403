"""The columns of a manifest, and how a line is split into fields."""

import csv

COLUMNS = ("ID", "duration", "wav", "start", "stop", "domain", "spk_id", "wrd")
OPTIONAL_COLUMNS = ("channel",)


def split_line(line):
    r"""Split one line of a manifest into its fields, as SpeechBrain does.

    Arguments
    ---------
    line : bytes
        UTF-8, with or without its line ending.

    Returns
    -------
    list of str

    Raises
    ------
    UnicodeDecodeError
        If the line is not UTF-8.
    csv.Error
        If its quotes are not balanced.

    Example
    -------
    >>> split_line(b'a,1.5, "yes, please"\r\n')
    ['a', '1.5', 'yes, please']
    """
    text = line.decode().rstrip("\r\n")
    # Most lines need no CSV parser, and splitting them is four times as fast.
    if '"' not in text and ", " not in text:
        return text.split(",")
    return next(csv.reader([text], skipinitialspace=True, strict=True))

"""The tables of Mozilla Common Voice, such as ``train.tsv``.

They are not CSV: a field ends at a tab and a row at a line feed, whether or not there are
quotes around it. (U+0085 and U+2028 are characters of a sentence.) A ``"`` is a character
of the sentence, too, except where a CSV writer has certainly added it: then the sentence
is in quotes, contains quotes, since such a writer only quotes where it has to, and each
of these is doubled.
"""

import re
from collections import Counter
from functools import cache

from ...errors import InputError

# The name of this column up to release 7, and from release 8 on.
ALIASES = {"accent": "accents", "accents": "accent"}


class Table:
    """The rows of a split that can be used, column by column.

    Attributes
    ----------
    names, speakers, sentences : list of str
        The columns, see ``commonvoice.Clip``.
    left_out : collections.Counter
        The number of other rows, by the reason why they are left out.
    """

    def __init__(self):
        self.names, self.speakers, self.sentences = [], [], []
        self.left_out = Counter()


def read_table(path, where):
    """Reads one TSV.

    Arguments
    ---------
    path : Path
        UTF-8, with or without byte-order mark or CRLF.
    where : dict
        As for ``commonvoice.read_release``.

    Returns
    -------
    Table

    Raises
    ------
    InputError
        If a column is missing.
    """
    table, seen, speakers = Table(), set(), {}
    with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        header = file.readline().rstrip("\r\n").split("\t")
        speaker_at, name_at, sentence_at = (
            _column(header, name, path) for name in ("client_id", "path", "sentence")
        )
        filters = [
            (name, _column(header, name, path), _matcher(values))
            for name, values in where.items()
        ]
        for line in file:
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != len(header):
                if line.strip():
                    table.left_out["row of the wrong length"] += 1
                continue
            client, name = fields[speaker_at], fields[name_at]
            if not (client and name):
                table.left_out["row without clip or speaker"] += 1
                continue
            other = [c for c, index, matches in filters if not matches(fields[index])]
            if other:
                table.left_out[f"other {other[0]}"] += 1
                continue
            if "/" in name:
                name = name.rpartition("/")[2]
            if not name.endswith(".mp3"):  # as in the first releases
                name += ".mp3"
            if name in seen:
                table.left_out["duplicate"] += 1
                continue
            seen.add(name)
            if client not in speakers:
                speakers[client] = shorten_client_id(client)
            table.names.append(name)
            table.speakers.append(speakers[client])
            table.sentences.append(_without_csv_quotes(fields[sentence_at]))
    return table


def _column(header, name, path):
    """The index of a column, under either of its names."""
    for known in (name, ALIASES.get(name)):
        if known in header:
            return header.index(known)
    raise InputError(f"{path}: no column {name!r}; the first line has {header}")


def _matcher(values):
    """A function that says whether a field holds one of these values."""
    values = [values] if isinstance(values, str) else values
    wanted = {value.strip().casefold() for value in values}

    @cache
    def matches(field):
        # A comma in brackets is part of a name: "… South Asia (India, Pakistan)".
        entries = [field, *field.split("|"), *re.split(r"[,|](?![^()]*\))", field)]
        return any(entry.strip().casefold() in wanted for entry in entries)

    return matches


def shorten_client_id(client_id):
    """A shorter name for a speaker, see ``commonvoice.Clip``."""
    is_hash = re.fullmatch(r"[0-9a-f]{64,}", client_id)
    return client_id[:16] if is_hash else client_id


def _without_csv_quotes(sentence):
    """A sentence without the quotes that a CSV writer has put around and into it."""
    if len(sentence) > 3 and sentence[0] == sentence[-1] == '"':
        inner = sentence[1:-1]
        if '"' in inner and '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return sentence

"""Writes manifests, whole or not at all."""

import csv
import filecmp
import numbers
import os
from itertools import chain
from pathlib import Path

from .csv_format import COLUMNS
from .errors import ErrorList
from .reading import read_as


def write(path, rows, columns=COLUMNS):
    """Writes a manifest, whole or not at all.

    A file that already holds exactly these rows is left as it is, so that runs
    which are reading it go on.

    Arguments
    ---------
    path : str or Path
        The CSV file; its folder is made if need be.
    rows : iterable of Mapping
        Keys from ``columns``; one that is absent or None gives an empty field.
        ``duration`` is written with four decimals. Their order is kept.
    columns : sequence of str
        ``COLUMNS``, or those and some of ``OPTIONAL_COLUMNS``.

    Raises
    ------
    ManifestError
        For the faults that ``read`` finds, audio files aside, and for unknown
        keys and line breaks in a field. What was at ``path`` is then unharmed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    faults = ErrorList()
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for number, row in enumerate(rows, start=2):
                fields = [_text(key, row.get(key)) for key in columns]
                unknown = sorted(set(row) - set(columns))
                if unknown:
                    faults.add(number, f"unknown columns {unknown}")
                for key, field in zip(columns, fields):
                    if "\n" in field or "\r" in field:
                        faults.add(number, f"line break in {key}: {field!r}")
                writer.writerow(fields)
            file.flush()
            os.fsync(file.fileno())
        faults.raise_any(path)
        read_as(temporary, path, check_files=False)
        if not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_if_any(path, rows, columns=COLUMNS):
    """As :func:`write`; without any row there is no manifest, also no older one."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        Path(path).unlink(missing_ok=True)
    else:
        write(path, chain([first], rows), columns)


def _text(key, value):
    """A value as it stands in the file."""
    if value is None:
        return ""
    if key == "duration" and isinstance(value, numbers.Real):
        return f"{value:.4f}"
    return str(value)

"""Writes manifests; a file is replaced as a whole or not at all."""

import csv
import filecmp
import numbers
import os
from itertools import chain
from pathlib import Path

from .csv_format import COLUMNS
from .errors import ErrorList
from .reading import read_as

FIELDS = (str, numbers.Real, os.PathLike, type(None))  # what can be written in a field


def write(path, rows, columns=COLUMNS):
    """Write a manifest and check it; the file is replaced as a whole or not at all.

    A file that already holds exactly these rows is not touched, so that runs which are
    reading it can go on.

    Arguments
    ---------
    path : str or Path
        The CSV file; its folder is created if necessary.
    rows : iterable of Mapping
        Keys are names from ``columns``; a key that is absent or None gives an empty
        field. ``duration`` is written with four decimals. The order is kept.
    columns : sequence of str
        ``COLUMNS``, possibly with some of ``OPTIONAL_COLUMNS``.

    Raises
    ------
    ManifestError
        For every error that ``read`` reports, except missing audio files, and for
        unknown keys, values that are neither text nor a number, and line breaks in a
        field. The existing file is then left as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    errors = ErrorList()
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for number, row in enumerate(rows, start=2):
                fields = [_field(key, row.get(key)) for key in columns]
                unknown = sorted(set(row) - set(columns))
                if unknown:
                    errors.add(number, f"unknown columns {unknown}")
                for key in columns:
                    if not isinstance(value := row.get(key), FIELDS):
                        kind = type(value).__name__
                        errors.add(
                            number,
                            f"{key} is a {kind}, not text or a number: {value!r}",
                        )
                for key, field in zip(columns, fields):
                    if "\n" in field or "\r" in field:
                        errors.add(number, f"line break in {key}: {field!r}")
                writer.writerow(fields)
            file.flush()
            os.fsync(file.fileno())
        errors.raise_any(path)
        read_as(temporary, path, check_files=False)
        if not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_if_any(path, rows, columns=COLUMNS):
    """Write a manifest as :func:`write` does, or none if there are no rows.

    Without rows, a manifest that an earlier call left at ``path`` is deleted.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        Path(path).unlink(missing_ok=True)
    else:
        write(path, chain([first], rows), columns)


def _field(key, value):
    """A value as text of a CSV field."""
    if value is None:
        return ""
    if key == "duration" and isinstance(value, numbers.Real):
        return f"{value:.4f}"
    return str(value)

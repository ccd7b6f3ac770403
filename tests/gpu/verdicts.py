"""Checks and their verdicts: rows of a table, of which those that fail are remembered."""

import traceback
from typing import NamedTuple

from tests.benchmarks.measure import Table


class Finding(NamedTuple):
    """The result of a check.

    Attributes
    ----------
    name : str
        What was checked.
    expected, measured : str or float
        For the reader.
    holds : bool
        The verdict; None for a figure that nothing is demanded of.
    """

    name: str
    expected: str | float
    measured: str | float
    holds: bool | None


def at_most(name, measured, limit):
    """A :class:`Finding` that holds if a number does not exceed its limit; NaN fails."""
    return Finding(name, f"at most {limit:g}", f"{measured:.2g}", measured <= limit)


def equal(name, expected, measured):
    """A :class:`Finding` that holds if two values are equal."""
    return Finding(name, str(expected), str(measured), expected == measured)


def skipped(name, reason):
    """A :class:`Finding` about a check that cannot be made here."""
    return Finding(name, "-", f"not run: {reason}", None)


def judged(title, checks):
    """Make all checks of a table.

    Arguments
    ---------
    title : str
        Of the table.
    checks : iterable of (str, iterable of Finding)
        Name of a check, and a generator of its findings. If the generator raises, the
        check has failed and the next one is made.

    Returns
    -------
    Table
        With the names of what failed in ``failures``.
    """
    table = Table(title, ["check", "expected", "measured", "verdict"])
    for name, findings in checks:
        try:
            for finding in findings:
                add(table, finding._replace(name=f"{name}: {finding.name}"))
        except Exception:
            traceback.print_exc()
            add(table, Finding(name, "no exception", "raised", False))
    return table


def add(table, finding):
    """Add a finding to a table."""
    name, expected, measured, holds = finding
    verdict = "-" if holds is None else "ok" if holds else "FAILED"
    table.add(name, expected, measured, verdict)
    if holds is not None and not holds:
        table.failures.append(name)

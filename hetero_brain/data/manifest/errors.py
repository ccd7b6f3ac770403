"""Errors in a manifest, collected so that one exception reports them all."""

from ...errors import InputError

MAX_ERRORS_SHOWN = 20


class ManifestError(InputError):
    """A manifest cannot be used; the message lists everything that is wrong with it."""


class ErrorList:
    """Collects the errors of a file with their row numbers, in bounded memory.

    Example
    -------
    >>> errors = ErrorList()
    >>> errors.add(3, "empty ID")
    >>> errors.raise_any("train.csv")
    Traceback (most recent call last):
    ...
    hetero_brain.data.manifest.errors.ManifestError: train.csv: 1 error
      row 3: empty ID
    """

    def __init__(self):
        self.count = 0
        self.kept = []

    def add(self, row, text):
        """Record that a row (as line number in the file; 0: all of it) has an error."""
        self.count += 1
        self.kept.append((row, text))
        # Errors arrive check by check rather than row by row, so that the first rows
        # are known only after sorting. Sorting seldom keeps adding cheap.
        if len(self.kept) > 100 * MAX_ERRORS_SHOWN:
            self._keep_first_rows()

    def _keep_first_rows(self):
        self.kept.sort(key=lambda error: error[0])
        del self.kept[MAX_ERRORS_SHOWN:]

    def raise_any(self, name):
        """Raise a :class:`ManifestError` about the file ``name`` if there are errors."""
        if not self.count:
            return
        self._keep_first_rows()
        lines = [f"{name}: {self.count} error{'s' if self.count > 1 else ''}"]
        lines += [
            f"  row {row}: {text}" if row else f"  {text}" for row, text in self.kept
        ]
        if self.count > len(self.kept):
            lines.append(f"  and {self.count - len(self.kept)} more")
        raise ManifestError("\n".join(lines))

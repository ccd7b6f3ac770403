"""What is wrong with a manifest, all of it in one error."""

from ...errors import InputError

MAX_ERRORS_SHOWN = 20


class ManifestError(InputError):
    """A manifest that cannot be used; the message lists every fault."""


class ErrorList:
    """Collects what is wrong, in bounded memory."""

    def __init__(self):
        self.count = 0
        self.first = []

    def add(self, row, text):
        self.count += 1
        self.first.append((row, text))
        if len(self.first) > 100 * MAX_ERRORS_SHOWN:
            self._trim()

    def _trim(self):
        self.first.sort(key=lambda fault: fault[0])
        del self.first[MAX_ERRORS_SHOWN:]

    def raise_any(self, name):
        if not self.count:
            return
        self._trim()
        lines = [f"{name}: {self.count} fault(s)"]
        lines += [f"  row {row}: {text}" for row, text in self.first]
        if self.count > len(self.first):
            lines.append(f"  and {self.count - len(self.first)} more")
        raise ManifestError("\n".join(lines))

"""How much audio a command has read, how fast, and which recordings it could not."""

import sys
import time

from tqdm import tqdm

SHOWN_SECONDS = 0.5  # between two looks at a search


class Progress:
    """A bar on the terminal while recordings are read, and a line at the end.

    Arguments
    ---------
    recordings : Recordings
        What is read.

    Attributes
    ----------
    failed : int
        Recordings that could not be read.
    """

    def __init__(self, recordings):
        self.done, self.failed, self.seconds = 0, 0, 0.0
        self.began = self.shown = time.monotonic()
        self.tokens = 0  # of a search, since audio was last counted
        shown = sys.stderr.isatty()
        self.bar = tqdm(
            total=(shown and recordings.seconds()) or None,
            disable=not shown,
            bar_format="{percentage:3.0f} % |{bar}| {elapsed}<{remaining}{postfix}",
        )

    def advance(self, seconds):
        """Count audio that has been processed."""
        self.seconds += seconds
        self.tokens = 0
        self.bar.set_postfix_str(self.speed(), refresh=False)
        self.bar.update(seconds)

    def search(self):
        """Count a token that a search has come to in the recordings at hand."""
        self.tokens += 1
        if time.monotonic() - self.shown >= SHOWN_SECONDS:
            self.shown = time.monotonic()
            self.bar.set_postfix_str(f"searching, {self.tokens} tokens")

    def finish(self, error=None):
        """Count a recording, and print why it could not be read, if so."""
        if error is None:
            self.done += 1
            return
        self.failed += 1
        tqdm.write(error, file=sys.stderr)

    def speed(self):
        """Audio processed in the time it took, as text."""
        return f"{self.seconds / (time.monotonic() - self.began):.1f} × real time"

    def close(self, output=None):
        """Print the sum to stderr, and where the results are, if in files."""
        self.bar.close()
        noun = "recording" if self.done == 1 else "recordings"
        failed = f"; {self.failed} could not be read" if self.failed else ""
        print(
            f"{self.done} {noun}, {self.seconds / 3600:.2f} h, {self.speed()}{failed}"
            f"{f'; written to {output}' if output else ''}",
            file=sys.stderr,
        )

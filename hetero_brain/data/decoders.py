"""Audio files whose decoder names them in what it prints."""

import os
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from threading import Lock

import soundfile
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

PRINTING = "MP3"  # libmpg123 prints to stderr, and cannot be asked not to
redirected = Lock()  # whether stderr is, by some thread
told = set()  # paths and lines that were logged


class NamedSoundFile(soundfile.SoundFile):
    """A file open for reading, whose decoder's messages are logged with its path.

    Arguments
    ---------
    path : str or Path
        The file.
    view : file-like
        What is read in its place; None: the file itself.
    """

    def __init__(self, path, view=None):
        self.path = path
        prints = str(path).lower().endswith(f".{PRINTING.lower()}")
        with named(path) if prints else nullcontext():
            super().__init__(view or path, "r")

    def read(self, *args, **kwargs):
        """As the base class's."""
        with self._named():
            return super().read(*args, **kwargs)

    def seek(self, *args, **kwargs):
        """As the base class's."""
        with self._named():
            return super().seek(*args, **kwargs)

    def _named(self):
        return named(self.path) if self.format == PRINTING else nullcontext()


@contextmanager
def named(path):
    """Log what is printed to the process's stderr, each line once, behind a path.

    While another thread does so, nothing is changed.
    """
    if not redirected.acquire(blocking=False):
        yield
        return
    try:
        sys.stderr.flush()
        with tempfile.TemporaryFile() as printed:
            kept = os.dup(2)
            os.dup2(printed.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                os.close(kept)
                printed.seek(0)
                for line in printed.read().decode(errors="replace").splitlines():
                    if (path, line) not in told:
                        told.add((path, line))
                        logger.warning(f"{path}: {line}")
    finally:
        redirected.release()

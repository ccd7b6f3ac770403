"""Makes lhotse's readers read releases that are incomplete or damaged.

On their own they stop at the first clip that cannot be opened, drop or trim segments
without notice, and run an external program on SPHERE files just to read their headers.
Some download, write into the corpus, or pair files by their position in a listing. Within
``lenient(...)`` they do none of this, and return all that they find, so that ``segments``
can check and count it. ``text_files`` decides which text they see.
"""

import logging
import re
import urllib.request
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import lhotse
import lhotse.audio.recording_set
import lhotse.kaldi
from lhotse.audio import AudioSource, Recording

from .headers import Header, read_header
from .text_files import TextFiles

# Longer than any recording, so that no reader rejects a segment for being beyond its end.
ENDLESS_SECONDS = 1e7


class Call:
    """What one call of a reader sees and reports.

    Arguments
    ---------
    texts : TextFiles
        The text files that it sees; None if there are none.

    Attributes
    ----------
    headers : dict
        {path: Header} of the audio files that it has looked at.
    left_out : collections.Counter
        What the reader itself left out, by reason; also counts the warnings that it logs.
    warnings : list of str
        Python's warnings; they are about the corpus as a whole.
    counted : set of str
        IDs of recordings without segments that ``left_out`` already counts.
    """

    def __init__(self, texts=None):
        self.texts = texts or TextFiles()
        self.headers = {}
        self.left_out = Counter()
        self.warnings = []
        self.counted = set()

    def header(self, path):
        """The header of a file, read once."""
        path = str(path)
        if path not in self.headers:
            at = self.texts.at
            self.headers[path] = read_header(path)
            self.texts.at = at  # errors name the text file, not the audio file
        return self.headers[path]

    def recording(self, path, recording_id=None, *_, **__):
        """Replaces ``Recording.from_file``: a file that cannot be opened gives an empty
        recording."""
        path = Path(path)
        if callable(recording_id):
            recording_id = recording_id(path)
        header = self.header(path)
        if header.problem:
            header = Header(0, 16000, 1)
        return Recording(
            id=path.stem if recording_id is None else recording_id,
            sources=[AudioSource("file", list(range(header.channels)), str(path))],
            sampling_rate=header.rate,
            num_samples=header.frames,
            duration=header.frames / header.rate,
        )

    def warned(self, message):
        """Counts a warning, without names and numbers, so that equal ones add up."""
        words = [word for word in message.split() if not re.search(r"[\d/\\]", word)]
        self.left_out["lhotse: " + " ".join(words).strip(" :.,")] += 1


@contextmanager
def lenient(module, call, patches=()):
    """A context in which a reader is lenient; everything is restored at its end.

    Arguments
    ---------
    module : module
        The reader's module in ``lhotse.recipes``.
    call : Call
        Collects what the reader reports.
    patches : Mapping
        {attribute of the module: replacement}, specific to this corpus.
    """
    names = {
        "fix_manifests": lambda recordings, supervisions: (recordings, supervisions),
        "validate_recordings_and_supervisions": lambda *_, **__: None,
        "validate": lambda *_, **__: None,
        # Threads see the patches and share the headers; processes would not.
        "ProcessPoolExecutor": call.texts.executor(),
        "ThreadPoolExecutor": call.texts.executor(),
        **{name: _refuse_download for name in vars(module) if "download" in name},
    }
    names = {name: value for name, value in names.items() if hasattr(module, name)}
    with ExitStack() as stack:
        for name, value in {**names, **dict(patches)}.items():
            stack.enter_context(patch.object(module, name, value))
        for owner, name, value in (
            (Recording, "from_file", staticmethod(call.recording)),
            (lhotse.audio.recording_set, "ProcessPoolExecutor", ThreadPoolExecutor),
            (lhotse.kaldi, "ProcessPoolExecutor", ThreadPoolExecutor),
            (lhotse.kaldi, "get_duration", lambda p: call.recording(p).duration),
            (urllib.request, "urlopen", _refuse_download),
            (urllib.request, "urlretrieve", _refuse_download),
            (logging.root, "handlers", [_Collector(call)]),
            (warnings, "showwarning", lambda text, *_: call.warnings.append(str(text))),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield


def _refuse_download(*args, **_):
    raise ValueError(f"it would download {args[0] if args else 'a part of the corpus'}")


class _Collector(logging.Handler):
    """Passes warnings to a ``Call``, and keeps them off the terminal."""

    def __init__(self, call):
        super().__init__(logging.WARNING)
        self.call = call

    def emit(self, record):
        self.call.warned(record.getMessage())

"""lhotse's readers, made to read releases as they are.

By themselves they stop at the first clip that cannot be opened, drop or trim segments
without a word, decode SPHERE files through a binary just for their headers, and some
download, write into the corpus, or pair files by their position in a listing. Within
``lenient(...)`` they do none of this, and whatever they are given comes back, so that
``lhotse_corpora`` can check and count it. What they see of text is in ``text_files``.
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

# Longer than any recording: no reader finds a segment to be beyond its end.
ENDLESS_SECONDS = 1e7


class Call:
    """What one call of a reader sees and reports.

    Arguments
    ---------
    texts : TextFiles
        The text files that it sees; None for those of no folder.

    Attributes
    ----------
    headers : dict
        {path: Header} of the files that were asked for.
    left_out : collections.Counter
        Reasons, of what the reader leaves out itself, among them what it logs as a
        warning.
    warnings : list of str
        Of Python, which tell of the corpus as a whole.
    counted : set of str
        IDs of recordings without segments that ``left_out`` has under another reason.
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
            self.texts.at = at  # it is the text that a reader may stumble over
        return self.headers[path]

    def recording(self, path, recording_id=None, *_, **__):
        """``Recording.from_file``; a file that cannot be opened is an empty recording."""
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
        """Counts a warning, without the names and numbers that make it unique."""
        words = [word for word in message.split() if not re.search(r"[\d/\\]", word)]
        self.left_out["lhotse: " + " ".join(words).strip(" :.,")] += 1


@contextmanager
def lenient(module, call, patches=()):
    """Makes a reader lenient, and everything as it was afterwards.

    Arguments
    ---------
    module : module
        The reader's, of ``lhotse.recipes``.
    call : Call
        Takes what it reports.
    patches : Mapping
        {attribute of the module: what to put there}, of this corpus.
    """
    names = {
        "fix_manifests": lambda recordings, supervisions: (recordings, supervisions),
        "validate_recordings_and_supervisions": lambda *_, **__: None,
        "validate": lambda *_, **__: None,
        # Threads, which see the patches and share the headers.
        "ProcessPoolExecutor": call.texts.executor(),
        "ThreadPoolExecutor": call.texts.executor(),
        **{name: _no_download for name in vars(module) if "download" in name},
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
            (urllib.request, "urlopen", _no_download),
            (urllib.request, "urlretrieve", _no_download),
            (logging.root, "handlers", [_Collector(call)]),
            (warnings, "showwarning", lambda text, *_: call.warnings.append(str(text))),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield


def _no_download(*args, **_):
    raise ValueError(f"it would download {args[0] if args else 'a part of the corpus'}")


class _Collector(logging.Handler):
    """Gives warnings to a ``Call`` and nothing to the terminal."""

    def __init__(self, call):
        super().__init__(logging.WARNING)
        self.call = call

    def emit(self, record):
        self.call.warned(record.getMessage())

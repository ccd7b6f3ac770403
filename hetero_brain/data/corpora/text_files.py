"""The text files of a corpus, as a reader of lhotse sees them.

A reader stops at the first line that it does not understand, or misinterprets it. Within
``TextFiles.served``, everything that is opened or listed below the folders of the corpus
passes through this module:

- Text is UTF-8 whatever the locale. Other bytes become U+FFFD, so that only the words of
  one utterance are lost rather than the file; a byte-order mark is dropped.
- In files that have a check, lines that are not utterances are withheld and counted. A
  check knows what the reader needs, e.g. that the second and third field are numbers. No
  line is withheld from other files, since some corpora pair lines by position.
- A last line without a line feed may be cut short. In files that have a check, U+FFFD is
  added to it, so that its words are not trusted.
- Files that operating systems leave behind (``.DS_Store``, ``._x``, ``Thumbs.db``) are
  not listed.
- The place that is being read is remembered, so that an error can name it.
"""

import builtins
import glob
import io
import os
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from unittest.mock import patch

EMPTY = "empty text file"
SHOWN_PLACES = 10
SHOWN_CHARACTERS = 60
JUNK = re.compile(
    r"\..*|__MACOSX|@eaDir|lost\+found|\$RECYCLE\.BIN|Thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
READ = open  # the original, which is needed while builtins.open is replaced
# Characters at which str.splitlines ends a line and a text file does not.
OTHER_LINE_ENDS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")


class TextFiles:
    """What a reader sees, and what is withheld from it.

    Arguments
    ---------
    roots : sequence of str or Path
        The folders of the corpus.
    checks : Mapping
        {pattern of file names: check}, see ``transcript_lines``.

    Attributes
    ----------
    places : list of str
        The first places where something was withheld, for the user to look at.
    empty : set of str
        Stems of the files that have a check but no text.
    """

    def __init__(self, roots=(), checks=()):
        self.roots = tuple(os.path.join(os.path.abspath(root), "") for root in roots)
        self.checks = dict(checks)
        self.places, self.empty = [], set()
        self._hidden, self._reasons = set(), {}
        self._local = threading.local()

    # ----------------------------------------------------------------- what is withheld

    @property
    def left_out(self):
        """What was withheld, by reason: ``collections.Counter``."""
        return sum(self._reasons.values(), Counter())

    def hide(self, path, reason="", detail=""):
        """Removes a file from the listings of ``Path``.

        Arguments
        ---------
        path : Path
            The file, as the reader's own listing gives it.
        reason : str
            The reason under which it is counted; if "", it is not counted.
        detail : str
            An explanation for the user.
        """
        self._hidden.add(str(path))
        if reason:
            self._reasons[str(path)] = Counter([reason])
            self.places.append(f"{path}: {reason}{detail and f': {detail}'}")

    def check(self, path):
        """The check of a file, or None."""
        name = os.path.basename(path)
        return next((c for p, c in self.checks.items() if fnmatch(name, p)), None)

    def clean(self, path, content):
        """The text of a file without the lines that are withheld.

        Arguments
        ---------
        path : str or Path
            The file. Its lines are counted once, however often it is read.
        content : bytes or str
            Its whole content.

        Returns
        -------
        str
            Lines that end in a line feed.
        sequence of int
            The number of each line in the file, from 1.
        """
        if isinstance(content, bytes):
            content = content.decode("utf-8-sig", errors="replace")
        content = content.replace("\r\n", "\n").replace("\r", "\n")
        check = self.check(path)
        if check is None:
            return content, range(1, content.count("\n") + 2)
        *lines, rest = OTHER_LINE_ENDS.sub(" ", content).split("\n")
        if rest.strip():
            lines.append(f"{rest} \N{REPLACEMENT CHARACTER}")
        kept, numbers, reasons, places = [], [], Counter(), []
        if not content.strip():
            self.empty.add(Path(path).stem)
            lines, reasons, places = [], Counter([EMPTY]), [f"{path}: {EMPTY}"]
        for number, (line, reason) in enumerate(zip(lines, check(lines)), 1):
            if reason == "":
                kept.append(line + "\n")
                numbers.append(number)
            elif reason:
                reasons[reason] += 1
                shown = line[:SHOWN_CHARACTERS]
                places.append(f"{path}, line {number}: {reason}: {shown!r}")
        if str(path) not in self._reasons:
            self._reasons[str(path)] = reasons
            self.places += places[:SHOWN_PLACES]
        return "".join(kept), numbers

    def withheld(self):
        """The first places where something was withheld, as the end of a message; "" if
        there are none."""
        if not self.places:
            return ""
        more = sum(self.left_out.values()) - SHOWN_PLACES
        places = self.places[:SHOWN_PLACES] + [f"and {more} more"] * (more > 0)
        return "\n  ".join([": left out of its text:", *places])

    # --------------------------------------------------------------- what is being read

    @property
    def at(self):
        """The (path, line number or 0) that this thread has read last, or None."""
        return getattr(self._local, "at", None)

    @at.setter
    def at(self, place):
        self._local.at = place

    def where(self, error):
        """Where a reader was when it failed, as the end of an error message."""
        path, line = getattr(error, "reading", self.at) or ("", 0)
        if line:
            return f"; it was reading {path}, line {line}"
        return f"; the last file that it read is {path}" if path else ""

    def executor(self):
        """A ``ThreadPoolExecutor`` whose tasks start with the ``at`` of the thread that
        submits them."""
        files = self

        class Executor(ThreadPoolExecutor):
            def submit(self, function, /, *args, **kwargs):
                place = files.at

                def task():
                    files.at = place
                    try:
                        return function(*args, **kwargs)
                    except Exception as error:
                        error.reading = files.at
                        raise

                return super().submit(task)

        return Executor

    # ------------------------------------------------------------------------ the hooks

    @contextmanager
    def served(self):
        """A context in which files and listings are as the reader is to see them."""
        with ExitStack() as stack:
            for owner, name, value in (
                (builtins, "open", self._open),
                (Path, "open", lambda path, *args, **kw: self._open(path, *args, **kw)),
                (Path, "glob", self._listing(Path.glob)),
                (Path, "rglob", self._listing(Path.rglob)),
                (Path, "iterdir", self._listing(Path.iterdir)),
                (os, "listdir", self._names(os.listdir)),
                (glob, "glob", self._names(glob.glob)),
            ):
                stack.enter_context(patch.object(owner, name, value))
            yield self

    def _open(self, file, mode="r", buffering=-1, encoding=None, *args, **kwargs):
        """Replaces ``open`` for files below the roots that are read."""
        path = isinstance(file, (str, os.PathLike)) and os.path.abspath(file)
        if not path or not path.startswith(self.roots) or set(mode) & set("wax+"):
            return READ(file, mode, buffering, encoding, *args, **kwargs)
        self.at = path, 0
        if "b" in mode and (path.endswith(".gz") or self.check(path) is None):
            return READ(file, mode, buffering)
        with READ(file, "rb") as raw:
            content = raw.read()
        if "b" not in mode and encoding not in (None, "locale", "utf8", "utf-8"):
            content = content.decode(encoding, errors="replace")
        text, numbers = self.clean(path, content)
        return (
            io.BytesIO(text.encode())
            if "b" in mode
            else _Lines(self, path, text, numbers)
        )

    def _listing(self, function):
        """A listing method of ``Path`` without what is hidden. What is not a folder is
        empty, also for ``iterdir``."""

        def listing(folder, *args, **kwargs):
            found = function(folder, *args, **kwargs) if folder.is_dir() else ()
            skip = len(folder.parts)
            return (
                path
                for path in found
                if str(path) not in self._hidden
                and not any(map(JUNK.fullmatch, path.parts[skip:]))
            )

        return listing

    def _names(self, function):
        """A function that lists names, without files that systems leave behind."""

        def listing(*args, **kwargs):
            names = function(*args, **kwargs)
            return [n for n in names if not JUNK.fullmatch(os.path.basename(str(n)))]

        return listing


class _Lines(io.StringIO):
    """A text file that keeps track of the line being read, also after ``readlines()``."""

    def __init__(self, files, path, text, numbers):
        super().__init__(text)
        self.files, self.path, self.name = files, path, path
        self.numbers, self.rest = numbers, iter(numbers)

    def readline(self, *args):  # iteration calls it, too
        line = super().readline(*args)
        self.files.at = self.path, next(self.rest, 0) if line else 0
        return line

    def readlines(self, *args):
        return _List(self, super().readlines(*args))


class _List(list):
    """The lines of a file; keeps track of the one that is read."""

    def __init__(self, file, lines):
        super().__init__(lines)
        self.file = file

    def __iter__(self):
        files, path = self.file.files, self.file.path
        for number, line in zip(self.file.numbers, super().__iter__()):
            files.at = path, number
            yield line
        files.at = path, 0

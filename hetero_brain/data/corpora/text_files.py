"""The text files of a corpus, as a reader of lhotse gets to see them.

A reader stops at the first line that it does not understand, or takes it for something
else. While ``TextFiles.served`` is entered, everything that is opened or listed below the
corpus's folders goes through here:

- Text is UTF-8 whatever the locale. A byte that is not becomes U+FFFD, so that it costs
  the words of one utterance and not the file; a byte-order mark is dropped.
- Lines that are no utterances are withheld and counted, in files that have a check. A
  check knows what the reader needs, e.g. that two numbers come second and third. Lines
  are withheld from no other file: some corpora pair them by position.
- A last line without its line feed may be cut: in files that have a check it ends in
  U+FFFD, so that its words are not believed.
- Files that systems leave behind (``.DS_Store``, ``._x``, ``Thumbs.db``) are not listed.
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
READ = open  # itself, whatever it is replaced by
# Where str.splitlines ends a line and a text file does not.
OTHER_LINE_ENDS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")


class TextFiles:
    """What a reader sees, and what is withheld from it.

    Arguments
    ---------
    roots : sequence of str or Path
        The corpus's folders.
    checks : Mapping
        {pattern of file names: check}. A check takes the lines of a file and gives for
        each why it is withheld: ``""`` if it is not, ``None`` if no utterance is lost.

    Attributes
    ----------
    places : list of str
        The first that something was withheld from, for people to look at.
    empty : set of str
        Stems of files that have a check and no text.
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
        """Reasons of what was withheld, ``collections.Counter``."""
        return sum(self._reasons.values(), Counter())

    def hide(self, path, reason="", detail=""):
        """Takes a file out of the listings of ``Path``.

        Arguments
        ---------
        path : Path
            As the reader's own listing gives it.
        reason : str
            What it is counted under; not at all if it is "".
        detail : str
            What more to tell people.
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
            The file; it is counted once, however often it is read.
        content : bytes or str
            All that is in it.

        Returns
        -------
        str
            Lines that end in a line feed.
        sequence of int
            The number of each in the file, from 1.
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

    def told(self):
        """The first places in words, to put behind a message; "" if there are none."""
        if not self.places:
            return ""
        more = sum(self.left_out.values()) - SHOWN_PLACES
        places = self.places[:SHOWN_PLACES] + [f"and {more} more"] * (more > 0)
        return "\n  ".join([": left out of its text:", *places])

    # --------------------------------------------------------------- what is being read

    @property
    def at(self):
        """(path, number of the line or 0) that this thread read last, or None."""
        return getattr(self._local, "at", None)

    @at.setter
    def at(self, place):
        self._local.at = place

    def where(self, error):
        """Where a reader was when it failed: a half-sentence to put behind the error."""
        path, line = getattr(error, "reading", self.at) or ("", 0)
        if line:
            return f"; it was reading {path}, line {line}"
        return f"; the last file that it read is {path}" if path else ""

    def executor(self):
        """A ``ThreadPoolExecutor`` whose tasks stand where they were submitted."""
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
        """Serves files and listings to whatever runs, and all is as before afterwards."""
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
        """``open``, of files that are read below the roots."""
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
        """A method of ``Path`` that lists, without what is hidden. What is no folder has
        nothing in it, also for ``iterdir``."""

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
        """A function that lists names, without those that are junk."""

        def listing(*args, **kwargs):
            names = function(*args, **kwargs)
            return [n for n in names if not JUNK.fullmatch(os.path.basename(str(n)))]

        return listing


class _Lines(io.StringIO):
    """A text file that tells which line is being read, also of ``readlines()``."""

    def __init__(self, files, path, text, numbers):
        super().__init__(text)
        self.files, self.path, self.name = files, path, path
        self.numbers, self.rest = numbers, iter(numbers)

    def readline(self, *args):  # what iterating calls
        line = super().readline(*args)
        self.files.at = self.path, next(self.rest, 0) if line else 0
        return line

    def readlines(self, *args):
        return _List(self, super().readlines(*args))


class _List(list):
    """The lines of a file."""

    def __init__(self, file, lines):
        super().__init__(lines)
        self.file = file

    def __iter__(self):
        files, path = self.file.files, self.file.path
        for number, line in zip(self.file.numbers, super().__iter__()):
            files.at = path, number
            yield line
        files.at = path, 0

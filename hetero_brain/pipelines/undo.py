"""What a start has changed on disk, which a refused one takes back."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

MANIFESTS = (
    "manifests"  # which a recipe writes before its run can be compared with them
)
KEPT = ".manifests_before"


class Undo:
    """The folders that a start has made, and the manifests that it has replaced, until
    its run is accepted.

    Attributes
    ----------
    folder : Path
        The output folder; None before :meth:`begin` and after :meth:`accept`.
    made : list of Path
        It and those above it, from the innermost, that were not there before.
    """

    def __init__(self):
        self.folder, self.made = None, []

    def begin(self, folder):
        """To be called before anything is written to an output folder."""
        self.folder = Path(folder).absolute()
        above = (self.folder, *self.folder.parents)
        self.made = [path for path in above if not path.exists()]
        shutil.rmtree(
            self.folder / KEPT, ignore_errors=True
        )  # of a start that was killed
        if (self.folder / MANIFESTS).is_dir():
            manifests, kept = self.folder / MANIFESTS, self.folder / KEPT
            shutil.copytree(manifests, kept, copy_function=linked)

    def accept(self):
        """The run begins: there is nothing to take back."""
        if self.folder is not None:
            shutil.rmtree(self.folder / KEPT, ignore_errors=True)
        self.folder, self.made = None, []

    def take_back(self):
        """The start is refused, unless its run has begun."""
        if self.folder is None:
            return
        if (self.folder / KEPT).is_dir():
            shutil.rmtree(self.folder / MANIFESTS, ignore_errors=True)
            (self.folder / KEPT).rename(self.folder / MANIFESTS)
        if self.made:
            shutil.rmtree(self.made[0], ignore_errors=True)
            for parent in self.made[1:]:
                with suppress(OSError):  # something else is in it by now
                    parent.rmdir()
        self.folder, self.made = None, []


def linked(source, target):
    """A second name for a file, which manifests replace as a whole; or a copy, where that
    cannot be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

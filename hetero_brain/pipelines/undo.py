"""What a start has changed on disk, which a refused one takes back."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

MANIFESTS = (
    "manifests"  # which a recipe writes before its run can be compared with them
)


class Undo:
    """The folders that a start has made, and the manifests that it has replaced, until
    its run is accepted.

    Other starts may use the same folder at the same time, as two phases do that begin
    with the same one.

    Attributes
    ----------
    folder : Path
        The output folder; None before :meth:`begin` and after :meth:`accept`.
    made : list of Path
        It and those above it, from the innermost, that were not there before.
    kept : Path
        Folder with the manifests as they were; None if there were none.
    """

    def __init__(self):
        self.folder, self.made, self.kept = None, [], None

    def begin(self, folder):
        """To be called before anything is written to an output folder."""
        self.folder, self.kept = Path(folder).absolute(), None
        above = (self.folder, *self.folder.parents)
        self.made = [path for path in above if not path.exists()]
        if manifests := [*self.manifests()]:
            self.kept = Path(tempfile.mkdtemp(prefix=".manifests_", dir=self.folder))
            for path in manifests:
                linked(path, self.kept / path.name)

    def manifests(self):
        """Those that are in the output folder."""
        return (self.folder / MANIFESTS).glob("*.csv")

    def accept(self):
        """The run begins: there is nothing to take back."""
        if self.kept is not None:
            shutil.rmtree(self.kept, ignore_errors=True)
        self.folder, self.made, self.kept = None, [], None

    def take_back(self):
        """The start is refused, unless its run has begun."""
        if self.kept is not None:
            before = {path.name: path for path in self.kept.iterdir()}
            for path in self.manifests():
                if path.name not in before:
                    path.unlink()
            for name, path in before.items():
                path.replace(self.folder / MANIFESTS / name)
        if self.made:
            shutil.rmtree(self.made[0], ignore_errors=True)
            for parent in self.made[1:]:
                with suppress(OSError):  # something else is in it by now
                    parent.rmdir()
        self.accept()


def linked(source, target):
    """A second name for a manifest, which is only ever replaced as a whole; or a copy,
    where that cannot be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

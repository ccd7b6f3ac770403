"""Writing model folders, so that a kill cannot leave them half written."""

import filecmp
import json
import os
import shutil
from pathlib import Path

import torch

from ..errors import InputError
from ..training.files import UNFINISHED, sync
from ..training.integrity import FILES, file_digest
from .model_folder import DESCRIPTION

CARD = "README.md"


def write_model(folder, description, weights, card):
    """Write a model folder; a kill leaves either the old one or the new one.

    Arguments
    ---------
    folder : str or Path
        It may exist if it is a model folder, which is replaced.
    description : str
        Of ``hyperparams.yaml``.
    weights : dict
        Name of a file → another file to copy, or a state to save.
    card : str
        Of ``README.md``.

    Raises
    ------
    InputError
        The folder exists and is something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / DESCRIPTION).exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise InputError(f"{folder} exists and is not a model folder")
    draft = folder.with_name(f"{UNFINISHED}{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, source in weights.items():
        if isinstance(source, Path):
            shutil.copyfile(source, draft / name)
        else:
            torch.save(source, draft / name)
    sizes = {n: [(draft / n).stat().st_size, file_digest(draft / n)] for n in weights}
    (draft / FILES).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    (draft / DESCRIPTION).write_text(description, encoding="utf-8")
    (draft / CARD).write_text(card, encoding="utf-8")
    for path in (*draft.iterdir(), draft):
        sync(path)
    if folder.is_dir() and _same(draft, folder):
        shutil.rmtree(draft)
        return
    old = folder.with_name(f"{UNFINISHED}old.{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(draft, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _same(one, other):
    """Whether two folders have the same files with the same contents."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])

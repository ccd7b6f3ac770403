"""Checks that a checkpoint can be read back, and is what was written."""

import hashlib
import json
import zipfile

import yaml
from speechbrain.utils.checkpoints import METAFNAME, PARAMFILE_EXT

FILES = "files.json"  # name → size and digest of each file of a checkpoint
RUN = "run.json"  # the fingerprint of the run that wrote it


def written_by_speechbrain(folder):
    """Whether SpeechBrain's own checkpointer wrote a checkpoint: it records neither
    digests nor a fingerprint."""
    return not any((folder / name).exists() for name in (FILES, RUN))


def damage(folder, names=()):
    """Describe what is wrong with a checkpoint; None if nothing is.

    Arguments
    ---------
    folder : Path
        A ``CKPT+…`` folder that an :class:`AtomicCheckpointer` wrote, or SpeechBrain's
        own checkpointer. The latter leaves no digests to compare with, so that only a
        file that is missing, empty or cut off is found.
    names : sequence of str
        What a checkpoint of SpeechBrain's own checkpointer must hold.
    """
    try:
        if written_by_speechbrain(folder):
            return _torn(folder, names)
        listed = json.loads((folder / FILES).read_text(encoding="utf-8"))
        for name, (size, digest) in listed.items():
            path = folder / name
            if not path.exists():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if file_digest(path) != digest:
                return f"{name} does not match its digest"
    except FileNotFoundError:
        return f"{FILES} is missing"
    except (ValueError, AttributeError, TypeError):
        return f"{FILES} is corrupt"
    except OSError as error:
        return str(error)
    return None


def _torn(folder, names):
    """What a checkpoint of SpeechBrain's own checkpointer lacks: a kill has left it
    undone, or a recipe wrote it that saves other things."""
    files = [f"{name}{PARAMFILE_EXT}" for name in names]
    if missing := [file for file in files if not (folder / file).exists()]:
        return (
            f"{', '.join(missing)}: missing, as SpeechBrain's own checkpointer was "
            "killed while it saved, or saved in another recipe. Its weights can start a "
            f"run in another output_folder, in recipes by --pretrained {folder}"
        )
    for path in sorted(folder.glob(f"*{PARAMFILE_EXT}")):
        with open(path, "rb") as file:
            start = file.read(2)
        if not start:
            return f"{path.name} is empty"
        # torch.save writes a zip archive, whose directory comes last.
        if start == b"PK" and not zipfile.is_zipfile(path):
            return f"{path.name} is cut off"
    return None


def metadata_damage(folder):
    """Describe what is wrong with the metadata of a checkpoint, or None."""
    try:
        meta = yaml.safe_load((folder / METAFNAME).read_text(encoding="utf-8"))
        complete = {"unixtime", "end-of-epoch"} <= meta.keys()
    except FileNotFoundError:
        return f"{METAFNAME} is missing"
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        complete = False
    return None if complete else f"{METAFNAME} is corrupt"


def plain_metadata(meta):
    """Metadata as it will be read back: a 0-dimensional tensor, and a number of NumPy,
    becomes a Python number.

    Raises
    ------
    TypeError
        A value that YAML has no type for; names its key.

    Example
    -------
    >>> import torch
    >>> plain_metadata({"epoch": 3, "loss": torch.tensor(0.5), "lengths": (1, 2)})
    {'epoch': 3, 'loss': 0.5, 'lengths': [1, 2]}
    """
    plain = {}
    for key, value in meta.items():
        if getattr(value, "ndim", None) == 0:
            value = value.item()
        try:
            plain[key] = yaml.safe_load(yaml.safe_dump(value))
        except yaml.YAMLError:
            raise TypeError(
                f"the metadata {key} of a checkpoint is {value!r}, which cannot be read "
                "back; give a Python number or string, or a list or dict of them"
            ) from None
    return plain


def file_digest(path):
    """A hexadecimal digest of 16 bytes of the contents of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

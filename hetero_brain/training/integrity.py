"""Checks that a checkpoint on disk is what was written."""

import hashlib
import json

import yaml
from speechbrain.utils.checkpoints import METAFNAME

FILES = "files.json"  # name → size and digest of each file of a checkpoint


def damage(folder):
    """Describe what is wrong with a checkpoint; None if nothing is.

    Arguments
    ---------
    folder : Path
        A ``CKPT+…`` folder that an :class:`AtomicCheckpointer` wrote.
    """
    try:
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


def file_digest(path):
    """A hexadecimal digest of 16 bytes of the contents of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

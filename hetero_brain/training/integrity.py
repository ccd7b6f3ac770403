"""Whether a checkpoint is what was written."""

import hashlib
import json

import yaml
from speechbrain.utils.checkpoints import METAFNAME

FILES = "files.json"  # name → size and digest of each file of a checkpoint


def damage(folder):
    """What is wrong with a checkpoint, in words; None if it is whole.

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
                return f"{name} has {path.stat().st_size} bytes of {size}"
            if file_digest(path) != digest:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return f"{FILES} is missing"
    except (ValueError, AttributeError, TypeError):
        return f"{FILES} is not what was written"
    except OSError as fault:
        return str(fault)
    return None


def metadata_damage(folder):
    """What is wrong with the metadata of a checkpoint, or None."""
    try:
        meta = yaml.safe_load((folder / METAFNAME).read_text(encoding="utf-8"))
        whole = {"unixtime", "end-of-epoch"} <= meta.keys()
    except FileNotFoundError:
        return f"{METAFNAME} is missing"
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        whole = False
    return None if whole else f"{METAFNAME} is not what was written"


def file_digest(path):
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

"""The fingerprint of a run: everything that its results depend on.

Runs with different fingerprints cannot share a checkpoint.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

# Keys that do not affect the weights at a given iteration, but for rounding: locations,
# logging intervals, how audio is read, how kernels are chosen and launched, what is
# evaluated and how, how long the run is.
LEFT_OUT = {
    "angle_interval",
    "beam_size",
    "ckpt_interval_minutes",
    "ckpt_interval_steps",
    "cosine_interval",
    "cuda_graphs",
    "deterministic",
    "epochs",
    "eval_batch_seconds",
    "eval_splits",
    "find_local_lr",
    "keep_last",
    "lm",
    "lm_alpha",
    "lm_beta",
    "loader",
    "log_interval",
    "loggers",
    "max_decode_ratio",
    "max_test_hours",
    "milestone_interval",
    "modules",
    "num_workers",
    "patience",
    "pretrained",
    "recomputed",
    "search_ctc_weight",
    "searches",
    "tokenizer",
    "train_logger",
    "valid_interval",
}
OPTIONS = ("precision", "max_grad_norm")  # of SpeechBrain, which a Brain has settled
PATH_ENDINGS = ("_folder", "_file", "_path", "_root")  # of keys that hold paths
PLAIN = (str, bool, int, float, type(None))
# Ends the key of where something is from that another key has the digest of. It is shown,
# but not compared: the same weights may stand in any folder.
FROM = "_from"


def fingerprint(brain, hparams, manifest=None, leave_out=(), **more):
    """Everything that the results of a run depend on, as plain values to compare.

    Arguments
    ---------
    brain : HeteroBrain
        Its modules and run options are included.
    hparams, leave_out, **more
        As for :func:`settings`.
    manifest : Manifest
        Of the training data; None if it is not known.

    Returns
    -------
    dict
        Key → plain value, nested keys joined by dots.
    """
    tensors = {
        f"{name}.{key}": f"{tuple(value.shape)} {str(value.dtype).split('.')[-1]}"
        for name, module in brain.modules.items()
        for key, value in module.state_dict().items()
    }
    chosen = settings(hparams, brain.modules, leave_out, **more)
    options = {key: getattr(brain, key) for key in OPTIONS}
    data = {} if manifest is None else {"train_manifest": manifest.digest()}
    # What a user has chosen comes first, and so does in messages.
    return chosen | options | data | tensors


def settings(hparams, modules, leave_out=(), **more):
    """What of a fingerprint is known before there is a Brain, or any data.

    Arguments
    ---------
    hparams : dict
        The recipe's; paths, intervals, durations and loader settings are left out.
    modules : dict
        Those that are trained, which the fingerprint has the tensors of.
    leave_out : sequence of str
        Further keys of ``hparams`` to leave out.
    **more
        Further values to include, such as the settings of a phase. A key that ends with
        :data:`FROM` says where another value, a digest, is from.

    Returns
    -------
    dict
        As for :func:`fingerprint`.
    """
    known = {part for module in modules.values() for part in module.modules()}
    counted = {
        key: value
        for key, value in hparams.items()
        if key not in (*LEFT_OUT, *OPTIONS, *leave_out)
        and not key.endswith(PATH_ENDINGS)
        and not (isinstance(value, torch.nn.Module) and value in known)
    }
    return dict(_flat({**more, **counted}))


def differences(theirs, ours):
    """Describe where two fingerprints differ.

    Arguments
    ---------
    theirs, ours : dict
        From :func:`fingerprint`; ``theirs`` was read from a file.

    Returns
    -------
    list of str
        ``key: value there, value here`` for the first 20, and how many more there are.
    """
    ours, absent = json.loads(json.dumps(ours)), "absent"

    def shown(values, key):
        value, place = values.get(key, absent), values.get(f"{key}{FROM}")
        return f"{place} (weights {value})" if place else value

    found = [
        f"{key}: {shown(theirs, key)} there, {shown(ours, key)} here"
        for key in dict.fromkeys((*ours, *theirs))
        if not key.endswith(FROM) and theirs.get(key, absent) != ours.get(key, absent)
    ]
    return found[:20] + [f"and {len(found) - 20} more"] * (len(found) > 20)


def digest_of(module):
    """A digest of a module's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for key, value in module.state_dict().items():
        digest.update(key.encode())
        digest.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        )
    return digest.hexdigest()


def _flat(values, prefix=""):
    """(dotted key, plain value) pairs of nested settings, factories and objects."""
    for key, value in values.items():
        key = f"{prefix}{key}"
        if isinstance(value, PLAIN):
            yield key, value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, (list, tuple)):
            yield from _flat(dict(enumerate(value)), f"{key}.")
        elif isinstance(value, partial):
            yield key, _name(value.func)
            yield from _flat(value.keywords, f"{key}.")
        elif isinstance(value, Path):
            continue
        elif isinstance(value, type) or not hasattr(value, "__dict__"):
            yield key, _name(value)
        elif hasattr(value, "__qualname__"):  # a function
            yield key, _name(value)
        else:
            yield key, _name(type(value))
            settings = {k: v for k, v in vars(value).items() if _counts(v)}
            if isinstance(value, torch.nn.Module):
                settings |= dict(value.named_children())
                settings.pop("training", None)
            hidden = [k for k in settings if k.startswith("_")]
            yield from _flat(
                {k: v for k, v in settings.items() if k not in hidden}, f"{key}."
            )


def _counts(value):
    """Whether an attribute is a setting: plain, or all that it holds is plain, or modules
    in a dict, as SpeechBrain's ``Augmenter`` has them."""
    if isinstance(value, dict):
        return all(isinstance(v, torch.nn.Module) for v in value.values())
    items = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(item, PLAIN) for item in items)


def _name(thing):
    thing = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{thing.__module__}.{thing.__qualname__}"

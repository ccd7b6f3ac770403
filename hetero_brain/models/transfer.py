"""From one run's checkpoint to another's modules: weights, checked."""

from pathlib import Path

import torch
from speechbrain.utils.logger import get_logger

from ..errors import InputError, MissingData
from .run_folder import checkpoints

logger = get_logger(__name__)

MAX_SHOWN = 10  # tensors that do not fit, in a message


def find_checkpoint(folder):
    """The newest checkpoint folder of a phase.

    Arguments
    ---------
    folder : str or Path
        The folder of a phase, its ``save`` folder, or a ``CKPT+…`` folder itself.

    Returns
    -------
    Path

    Raises
    ------
    MissingData
        There is none; says where it was looked for.
    """
    folder = Path(folder)
    if folder.name.startswith("CKPT+") and folder.is_dir():
        return folder
    for found in checkpoints(folder):
        return found.path
    raise MissingData(
        f"{folder}: no checkpoint (looked for CKPT+* in it and in its save folder). "
        "Give the folder of a phase, such as results/pretrain/CSSL.1."
    )


def load_module(module, name, folder):
    """Load a module's parameters from a checkpoint, exactly.

    Arguments
    ---------
    module : torch.nn.Module
        Gets the parameters.
    name : str
        Its name in the checkpoint (file ``<name>.ckpt``).
    folder : str or Path
        As for :func:`find_checkpoint`.

    Raises
    ------
    MissingData
        No checkpoint, or none of this module in it.
    InputError
        See :func:`fit_state`.
    """
    path = find_checkpoint(folder) / f"{name}.ckpt"
    if not path.exists():
        raise MissingData(f"{path}: the checkpoint has no module {name}")
    fit_state(module, name, path)


def fit_state(module, name, path):
    """Load a module's parameters and buffers from a file, exactly.

    Arguments
    ---------
    module : torch.nn.Module
        Gets them.
    name : str
        Its name, for messages.
    path : Path
        The file.

    Raises
    ------
    InputError
        The file is damaged or holds more than tensors; or some of them are missing, not
        the module's, or of another shape: the first of them, with both shapes.
    """
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {key: tuple(value.shape) for key, value in theirs.items()}
    except Exception as error:  # whatever a damaged file makes of the unpickler
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(f"{path}: damaged, or not weights alone: {reason}") from error
    ours = module.state_dict()
    faults = [f"not in the checkpoint: {key}" for key in ours.keys() - theirs.keys()]
    faults += [f"only in the checkpoint: {key}" for key in theirs.keys() - ours.keys()]
    faults += [
        f"{key}: {shapes[key]} in the checkpoint, {tuple(value.shape)} here"
        for key, value in ours.items()
        if key in shapes and shapes[key] != tuple(value.shape)
    ]
    if faults:
        more = len(faults) - MAX_SHOWN
        raise InputError(
            f"{path} does not fit {name}; use the sizes it was trained with:\n  "
            + "\n  ".join(sorted(faults)[:MAX_SHOWN])
            + (f"\n  and {more} more" if more > 0 else "")
        )
    module.load_state_dict(theirs)


PUBLIC = "public"  # in place of a folder: the weights that others have published


def without_a_folder(encoder, pretrained):
    """Have an encoder start from random weights, or from those that were published.

    Arguments
    ---------
    encoder : torch.nn.Module
        A public one gets random weights, too.
    pretrained : str or None
        None for random weights, or :data:`PUBLIC`.

    Raises
    ------
    InputError
        :data:`PUBLIC`, of an encoder that is not.
    """
    if pretrained is None:
        if hasattr(encoder, "randomize"):
            encoder.randomize()
        logger.info("from scratch: all weights are random")
    elif not hasattr(encoder, "checkpoint"):
        raise InputError(
            f"pretrained: {PUBLIC} is for YAMLs with a source; give the folder of a "
            "phase, or null for random weights"
        )
    else:
        logger.info(f"encoder as in {encoder.checkpoint.source}; other modules are new")

"""From a pre-training phase to a fine-tuning model: weights, checked."""

from pathlib import Path

import torch
from speechbrain.utils.logger import get_logger

from ..errors import InputError
from ..training.checkpoints import AtomicCheckpointer
from ..training.integrity import FILES, damage

logger = get_logger(__name__)


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
    FileNotFoundError
        There is none; says where it was looked for.
    """
    folder = Path(folder)
    if folder.name.startswith("CKPT+") and folder.is_dir():
        return folder
    for candidate in (folder / "save", folder):
        if candidate.is_dir():
            for found in AtomicCheckpointer(candidate).find_checkpoints():
                # SpeechBrain's own checkpointer lists no files: nothing to check.
                fault = damage(found.path) if (found.path / FILES).exists() else None
                if fault is None:
                    return found.path
                logger.warning(
                    f"damaged: {found.path}: {fault}; the one before is used."
                )
    raise FileNotFoundError(
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
    FileNotFoundError
        No checkpoint, or none of this module in it.
    ValueError
        Parameters that are missing, that the module does not have, or of another
        shape: all of them, with both shapes.
    """
    path = find_checkpoint(folder) / f"{name}.ckpt"
    if not path.exists():
        raise FileNotFoundError(f"{path}: the checkpoint has no module {name}")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = module.state_dict()
    faults = [f"not in the checkpoint: {key}" for key in ours.keys() - theirs.keys()]
    faults += [f"only in the checkpoint: {key}" for key in theirs.keys() - ours.keys()]
    faults += [
        f"{key}: {tuple(theirs[key].shape)} in the checkpoint, {tuple(value.shape)} here"
        for key, value in ours.items()
        if key in theirs and theirs[key].shape != value.shape
    ]
    if faults:
        raise ValueError(
            f"{path} does not fit {name}; use the sizes it was trained with:\n  "
            + "\n  ".join(sorted(faults))
        )
    module.load_state_dict(theirs)
    n = sum(p.numel() for p in module.parameters())
    logger.info(f"{name}: loaded {len(ours)} tensors ({n} parameters) from {path}")


PUBLIC = "public"  # in place of a folder: the weights that others have published


def load_encoder(encoder, folder, new):
    """Load the encoder of a phase, or none, and say what was loaded, new and left.

    Arguments
    ---------
    encoder : torch.nn.Module
        Gets the parameters.
    folder : str, Path or None
        As for :func:`find_checkpoint`. None is for random parameters: those that it has,
        or, of a public encoder, new ones; ``public`` keeps those that were published.
    new : sequence of str
        Names of the modules that begin at random, for the log.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_module`.
    InputError
        ``public``, of an encoder that is not.
    """
    if folder is None:
        if hasattr(encoder, "randomize"):
            encoder.randomize()
        logger.info(f"new: encoder (trained from scratch), {', '.join(new)}")
        return
    if folder == PUBLIC:
        if not hasattr(encoder, "checkpoint"):
            raise InputError(
                f"pretrained: {PUBLIC} is for YAMLs with a source; give the folder of a "
                "phase, or null for random weights"
            )
        logger.info(f"new: {', '.join(new)}; encoder as in {encoder.checkpoint.source}")
        return
    load_module(encoder, "encoder", folder)
    checkpoint = find_checkpoint(folder)
    left = sorted(p.stem for p in checkpoint.glob("*.ckpt") if p.stem != "encoder")
    logger.info(f"new: {', '.join(new)}; left in {checkpoint}: {', '.join(left)}")

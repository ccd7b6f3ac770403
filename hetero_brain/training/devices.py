"""Copies between the host and the device of the model that keep neither waiting."""

import torch

from ..errors import InputError


def to_device(array, device):
    """Copy a small array or tensor from the host to a device without waiting for it.

    The copy goes through pinned memory: from pageable memory, the host would wait until
    the device has finished all earlier work.

    Arguments
    ---------
    array : numpy.ndarray or torch.Tensor
        In host memory.
    device : torch.device
        Where to.

    Returns
    -------
    torch.Tensor
        On the device; the memory of the array itself if that is the CPU.
    """
    tensor = torch.as_tensor(array)
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def usable_device(name):
    """The device of a name that a user has given.

    Arguments
    ---------
    name : str
        Such as ``cpu`` or ``cuda:0``.

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        There is none, or PyTorch cannot use it.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used: {reason}") from error

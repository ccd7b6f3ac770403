"""What a device can do, and copies between it and the host that keep neither waiting."""

import platform

import torch
from speechbrain.utils.logger import get_logger

from ..errors import InputError

logger = get_logger(__name__)


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


def cpu_multiplies_in_bf16():
    """Whether the CPU has instructions for products in bf16.

    oneDNN also takes bf16 on other CPUs with AVX-512, where it emulates them: what it
    says of x86 is not enough.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    has_onednn = torch.backends.mkldnn.is_available()
    return has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def warn_of_slow_precision(brain):
    """Warn, once a run, if bf16 is far slower than fp32 on the device of a Brain.

    Arguments
    ---------
    brain : Brain
        Its run options have been read.
    """
    keys = [k for k in ("precision", "eval_precision") if getattr(brain, k) == "bf16"]
    if keys and brain.device_type == "cpu" and not cpu_multiplies_in_bf16():
        logger.warning_once(
            f"{' and '.join(keys)}: bf16 on a CPU without instructions for it, which "
            "takes several times as long as fp32 (training of tiny: nine times). Set "
            f"{' and '.join(f'{key}: fp32' for key in keys)}"
        )

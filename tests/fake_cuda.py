"""A GPU that only counts: fake CUDA tensors, and every wait of the host for the device.

FakeTensors carry shape, dtype and device but no data, so that a device mismatch raises
here as it would on a GPU. What a host would have to wait for, a value of a tensor on the
device, is counted with the line that asked for it.
"""

import contextlib
import traceback
from collections import Counter
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda:0")
VALUES = ("tolist", "item", "cpu", "__bool__", "__float__", "__int__", "__index__")


class Copies(TorchDispatchMode):
    """Counts copies from the host to the device that block the host."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default:
            target, blocks = kwargs.get("device"), not kwargs.get("non_blocking")
            if blocks and target is not None and args[0].device != torch.device(target):
                self.waits[f"copy of {tuple(args[0].shape)}, {asked_by()}"] += 1
        elif function is torch.ops.aten.index_put_.default:
            if args[0].is_cuda and not args[2].is_cuda:
                self.waits[f"copy of a value to set, {asked_by()}"] += 1
        return function(*args, **kwargs)


def asked_by():
    """The two innermost lines outside of PyTorch and this file."""
    frames = [
        f"{frame.filename}:{frame.lineno}"
        for frame in reversed(traceback.extract_stack())
        if "/torch/" not in frame.filename and frame.filename != __file__
    ]
    return " < ".join(frames[:2])


def counted(name, original, waits, values):
    """A method of tensors that reads a value, replaced by one that counts."""

    def method(self, *args, **kwargs):
        if not isinstance(self, FakeTensor):
            return original(self, *args, **kwargs)
        if self.device.type == "cuda":
            waits[f"{name} of {tuple(self.shape)}, {asked_by()}"] += 1
        if name == "cpu":
            return original(self, *args, **kwargs)
        return values(self) if name == "tolist" else values(self)[0]

    return method


@contextlib.contextmanager
def fake_cuda(values):
    """Inside, tensors are fake, and ``torch.cuda`` does nothing.

    There are no generators on the device.

    Arguments
    ---------
    values : callable
        Tensor → list of the values that the host reads of it.

    Yields
    ------
    collections.Counter
        What the host waited for, and how often.
    """
    waits = Counter()
    with contextlib.ExitStack() as stack:
        patch = lambda *args, **kwargs: stack.enter_context(  # noqa: E731
            mock.patch.object(*args, **kwargs)
        )
        for name in VALUES:
            original = getattr(torch.Tensor, name)
            patch(torch.Tensor, name, counted(name, original, waits, values))
        patch(FakeTensor, "tolist", torch.Tensor.tolist)
        patch(torch.Tensor, "pin_memory", lambda self, *_: self)
        patch(torch.nn.Module, "to", lambda self, *_, **__: self)
        patch(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        for name in ("set_device", "manual_seed", "set_rng_state", "get_rng_state"):
            patch(torch.cuda, name)
        patch(torch.cuda, "is_bf16_supported", lambda: True)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(Copies(waits))
        yield waits


def moved(module):
    """Put a module's parameters and buffers on the device, under :func:`fake_cuda`."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    there = torch.empty_like(tensor, device=CUDA)
                    is_parameter = isinstance(tensor, torch.nn.Parameter)
                    tensors[name] = torch.nn.Parameter(there) if is_parameter else there
    return module

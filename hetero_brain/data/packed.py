"""How loader workers send batches: each takes a single file descriptor, however many
domains and tensors it has."""

import io
import math
import pickle
from dataclasses import dataclass

import torch


@dataclass
class Packed:
    """An item of a dataset with all of its tensors in one block of shared memory.

    Attributes
    ----------
    skeleton : bytes
        The item, pickled without its tensors.
    layout : list of tuple
        Offset in bytes, dtype and shape of each tensor.
    memory : torch.Tensor
        The block, as uint8 of shape (bytes,).
    """

    skeleton: bytes
    layout: list
    memory: torch.Tensor

    def pin_memory(self):
        """A copy in pinned memory; a ``DataLoader`` calls this."""
        return Packed(self.skeleton, self.layout, self.memory.pin_memory())

    def unpack(self):
        """The item; its tensors are views of the shared memory."""
        tensors = [
            self.memory[at : at + math.prod(shape) * dtype.itemsize]
            .view(dtype)
            .view(shape)
            for at, dtype, shape in self.layout
        ]
        return _Unpickler(io.BytesIO(self.skeleton), tensors).load()


def pack(item):
    """Turn an item into :class:`Packed` in a worker; elsewhere, return the item itself.

    Each tensor that is sent on its own takes a file descriptor in both processes, so that
    a few hundred domains would use up the usual limit of 1024.
    """
    if torch.utils.data.get_worker_info() is None:
        return item
    skeleton, tensors = io.BytesIO(), []
    _Pickler(skeleton, tensors).dump(item)
    layout, end = [], 0
    for tensor in tensors:
        layout.append((end, tensor.dtype, tuple(tensor.shape)))
        end += -(-tensor.nbytes // 64) * 64
    # The memory is shared here rather than when it is sent, because an error raised here
    # reaches the run.
    memory = torch.empty(max(1, end), dtype=torch.uint8).share_memory_()
    packed = Packed(skeleton.getvalue(), layout, memory)
    for (at, dtype, shape), tensor in zip(layout, tensors):
        memory[at : at + tensor.nbytes].view(dtype).view(shape).copy_(tensor)
    return packed


class _Pickler(pickle.Pickler):
    """Pickles everything except tensors, which it appends to a list."""

    def __init__(self, file, tensors):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors, self.places = tensors, {}

    def persistent_id(self, thing):
        if type(thing) is not torch.Tensor or thing.layout != torch.strided:
            return None
        if id(thing) not in self.places:
            self.places[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
        return self.places[id(thing)]


class _Unpickler(pickle.Unpickler):
    """Unpickles what :class:`_Pickler` wrote."""

    def __init__(self, file, tensors):
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, place):
        return self.tensors[place]

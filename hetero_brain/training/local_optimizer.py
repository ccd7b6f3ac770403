"""The optimizer of the local steps, which may begin anew in every local solve."""

from collections import defaultdict
from functools import partial

import torch
from torch.optim import Adam, Adamax, AdamW, RAdam, RMSprop

FUSED = Adam, AdamW  # on a GPU, in a third of the time (AdamW on base, H200)
WAYS = {"fused", "foreach", "capturable", "differentiable"}
# Their state before the first step consists of zeros only, as with any of their options.
BEGIN_WITH_ZEROS = Adam, AdamW, Adamax, RAdam, RMSprop


def make_local_optimizer(factory, params):
    """The optimizer of a factory; on a GPU a fused one, unless the factory has a say.

    Arguments
    ---------
    factory : callable
        List of parameters → optimizer.
    params : list of torch.nn.Parameter
    """
    if isinstance(factory, partial) and factory.func in FUSED:
        on_gpu = all(p.is_cuda and p.is_floating_point() for p in params)
        if on_gpu and not WAYS & factory.keywords.keys():
            return factory(params, fused=True)
    return factory(params)


def empty_state(optimizer, params):
    """A state of an optimizer as before its first step.

    Where it begins with zeros, the state that the optimizer has is set to zero in place:
    a few kernels, where PyTorch would allocate and fill two tensors a parameter.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
    params : list of torch.nn.Parameter
        Those that it trains now; memory of others is freed.

    Returns
    -------
    defaultdict
        To become ``optimizer.state``.
    """
    if type(optimizer) not in BEGIN_WITH_ZEROS:
        return defaultdict(dict)
    state = {p: optimizer.state[p] for p in params if p in optimizer.state}
    alike = defaultdict(list)  # for one kernel, tensors have to be of a device and type
    for slots in state.values():
        for tensor in slots.values():
            alike[tensor.device, tensor.dtype].append(tensor)
    for tensors in alike.values():
        torch._foreach_zero_(tensors)
    return defaultdict(dict, state)

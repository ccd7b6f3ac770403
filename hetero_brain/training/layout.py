"""Gradients in the memory layout of their parameters."""

import torch


def laid_out(grad, param):
    """A gradient in its parameter's layout in memory; itself where it has it.

    Fused optimizers take that for granted: on a CPU they go through the memory of both
    and would mix up the elements, on a GPU they raise. PyTorch sees to it for what
    ``backward`` adds up in ``.grad``, but not for what ``torch.autograd.grad`` returns.

    Arguments
    ---------
    grad, param : torch.Tensor
        Of one shape and type.

    Returns
    -------
    torch.Tensor
        With the strides of param.
    """
    if grad.stride() == param.stride():
        return grad
    return torch.empty_like(param).copy_(grad)


def memory_of(tensor):
    """The elements of a dense tensor in the order of its memory; not a copy."""
    return tensor.as_strided((tensor.numel(),), (1,))

"""Gradients as lists beside the parameters: made, added up and laid out in memory."""

from collections import Counter

import torch


def gradients(loss, params, scaler):
    """The gradients of a loss, without touching any ``.grad``.

    Arguments
    ---------
    loss : torch.Tensor
        Scalar.
    params : list of torch.nn.Parameter
        What it is differentiated by.
    scaler : torch.amp.GradScaler
        Of fp16: the loss is scaled for the backward pass, the gradients unscaled after.

    Returns
    -------
    list of torch.Tensor or None
        Aligned with ``params``; None where the loss does not depend on one.
    """
    scaled = scaler.scale(loss)
    grads = list(torch.autograd.grad(scaled, params, allow_unused=True))
    if scaler.is_enabled():
        scale = scaler.get_scale()
        for i, grad in enumerate(grads):  # one by one: no second copy of them all
            grads[i] = None if grad is None else grad / scale
    return grads


def total_norm(grads):
    """The 2-norm of all gradients together, without those that are None."""
    return torch.nn.utils.get_total_norm([g for g in grads if g is not None])


def accumulate(params, grads, scale=1):
    """Add gradients to ``.grad``, as ``backward`` does.

    Arguments
    ---------
    params : list of torch.nn.Parameter
        Their ``.grad`` may be None.
    grads : list of torch.Tensor or None
        Aligned with ``params``. One that shares its memory with nothing is taken as it
        is, not copied.
    scale : float
        What the gradients are multiplied by.
    """
    pairs = [(param, grad) for param, grad in zip(params, grads) if grad is not None]
    added = [(param.grad, grad) for param, grad in pairs if param.grad is not None]
    places = Counter(grad.untyped_storage().data_ptr() for _, grad in pairs)
    for param, grad in pairs:
        if param.grad is None:
            memory = grad.untyped_storage()
            alone = places[memory.data_ptr()] == 1 and memory.nbytes() == grad.nbytes
            own = grad if alone and scale == 1 else grad * scale
            param.grad = laid_out(own, param)
    if added:
        torch._foreach_add_(*zip(*added), alpha=scale)


def divide(params, divisor):
    """Divide every ``.grad``."""
    for param in params:
        if param.grad is not None:
            param.grad.div_(divisor)


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

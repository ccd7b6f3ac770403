"""Lists of gradients aligned with the parameters: their computation, sum and layout."""

from collections import Counter

import torch


def gradients(loss, params, scaler):
    """The gradients of a loss, without touching any ``.grad``.

    Arguments
    ---------
    loss : torch.Tensor
        Scalar.
    params : list of torch.nn.Parameter
        The parameters to differentiate with respect to.
    scaler : torch.amp.GradScaler
        For fp16: scales the loss before the backward pass; the gradients are unscaled.

    Returns
    -------
    list of torch.Tensor or None
        Aligned with ``params``; None where the loss does not depend on one.
    """
    scaled = scaler.scale(loss)
    grads = list(torch.autograd.grad(scaled, params, allow_unused=True))
    if scaler.is_enabled():
        scale = scaler.get_scale()
        for i, grad in enumerate(grads):  # one by one, to avoid a second copy of all
            grads[i] = None if grad is None else grad / scale
    return grads


def total_norm(grads):
    """The 2-norm of all gradients together, ignoring those that are None."""
    return torch.nn.utils.get_total_norm([g for g in grads if g is not None])


def accumulate(params, grads, scale=1):
    """Add gradients to ``.grad``, as ``backward`` does.

    Arguments
    ---------
    params : list of torch.nn.Parameter
        Their ``.grad`` may be None.
    grads : list of torch.Tensor or None
        Aligned with ``params``. A gradient that shares its memory with no other becomes
        ``.grad`` without a copy.
    scale : float
        Factor on the gradients.
    """
    pairs = [(param, grad) for param, grad in zip(params, grads) if grad is not None]
    added = [(param.grad, grad) for param, grad in pairs if param.grad is not None]
    users = Counter(grad.untyped_storage().data_ptr() for _, grad in pairs)
    for param, grad in pairs:
        if param.grad is None:
            memory = grad.untyped_storage()
            alone = users[memory.data_ptr()] == 1 and memory.nbytes() == grad.nbytes
            own = grad if alone and scale == 1 else grad * scale
            param.grad = laid_out(own, param)
    if added:
        torch._foreach_add_(*zip(*added), alpha=scale)


def divide(params, divisor):
    """Divide every ``.grad`` in place."""
    for param in params:
        if param.grad is not None:
            param.grad.div_(divisor)


def laid_out(grad, param):
    """A gradient with the strides of its parameter; the same tensor if it has them.

    Fused optimizers assume equal strides: on a CPU they walk through the memory of both
    and would pair up the wrong elements, on a GPU they raise. PyTorch ensures this for
    what ``backward`` accumulates in ``.grad``, but not for what ``torch.autograd.grad``
    returns.

    Arguments
    ---------
    grad, param : torch.Tensor
        Of the same shape and dtype.

    Returns
    -------
    torch.Tensor
        With the strides of ``param``.
    """
    if grad.stride() == param.stride():
        return grad
    return torch.empty_like(param).copy_(grad)


def memory_of(tensor):
    """A flat view of a dense tensor, its elements in memory order."""
    return tensor.as_strided((tensor.numel(),), (1,))

"""Lists of gradients aligned with the parameters: their computation, sum and layout."""

from collections import Counter, defaultdict

import torch

# Integers by their size in bytes, to read the bits of floating-point numbers.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        scale = loss_scale(scaler, loss.device)
        for i, grad in enumerate(grads):  # one by one, to avoid a second copy of all
            grads[i] = None if grad is None else grad / scale
    return grads


def loss_scale(scaler, device):
    """The current scale of a GradScaler as a tensor, for which the host need not wait."""
    return scaler.scale(torch.ones((), device=device))


def total_norm(grads):
    """The 2-norm of all gradients together, ignoring those that are None."""
    return torch.nn.utils.get_total_norm([g for g in grads if g is not None])


def zero_unless(finite, grads):
    """Set all gradients to zero unless ``finite``, without the host waiting for it.

    A NaN multiplied by 0 stays a NaN, but its bits, as an integer, become those of 0.

    Arguments
    ---------
    finite : torch.Tensor
        Scalar of bool, on the device of the gradients.
    grads : list of torch.Tensor or None
        Changed in place.
    """
    by_size = defaultdict(list)
    for i, grad in enumerate(grads):
        if grad is not None:
            if 0 in grad.stride():  # an expanded tensor cannot be written to
                grads[i] = grad = grad.clone(memory_format=torch.contiguous_format)
            by_size[grad.itemsize].append(grad)
    for size, members in by_size.items():
        bits = INTEGERS[size]
        torch._foreach_mul_([grad.view(bits) for grad in members], finite.to(bits))


def accumulate(params, grads, scaler):
    """Add gradients to ``.grad``, as ``backward`` does.

    Arguments
    ---------
    params : list of torch.nn.Parameter
        Their ``.grad`` may be None.
    grads : list of torch.Tensor or None
        Aligned with ``params``. A gradient that shares its memory with no other becomes
        ``.grad`` without a copy.
    scaler : torch.amp.GradScaler
        For fp16: scales what is added, since the optimizer step divides by the scale.
    """
    for i, grad in enumerate(grads):
        grads[i] = None if grad is None else scaler.scale(grad)
    pairs = [(param, grad) for param, grad in zip(params, grads) if grad is not None]
    added = [(param.grad, grad) for param, grad in pairs if param.grad is not None]
    users = Counter(grad.untyped_storage().data_ptr() for _, grad in pairs)
    for param, grad in pairs:
        if param.grad is None:
            memory = grad.untyped_storage()
            alone = users[memory.data_ptr()] == 1 and memory.nbytes() == grad.nbytes
            param.grad = laid_out(grad if alone else grad.clone(), param)
    if added:
        torch._foreach_add_(*zip(*added))


def divide(params, divisor):
    """Divide every ``.grad`` in place."""
    torch._foreach_div_([p.grad for p in params if p.grad is not None], divisor)


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

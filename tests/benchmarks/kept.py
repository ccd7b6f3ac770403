"""Activations kept for the backward pass: memory at the end of the forward pass."""

import torch

# Kinds by the backward function that keeps a tensor: the first match counts. The names
# are those that occur in either code.
KINDS = {
    "attention weights": ("Softmax",),
    "inputs of matrix products": ("Addmm", "Mm", "Bmm", "LinearCrossEntropy"),
    "inputs of convolutions": ("Convolution",),
    "inputs of activations": ("Silu", "Gelu", "Glu", "Relu"),
    "inputs of normalisation": ("NativeLayerNorm",),
    "dropout": ("Masked", "Mul"),  # PyTorch's is a product with a mask
}
REST = "all else"


def saved_tensors(node):
    """The tensors that a node of the graph has saved."""
    yield from getattr(node, "saved_tensors", ())  # of a Function of Python
    for name in dir(node):
        if name.startswith("_saved_"):
            value = getattr(node, name)
            yield from value if isinstance(value, (list, tuple)) else [value]


def kept(loss, parameters):
    """Bytes that the graph of a loss keeps alive besides parameters, by kind.

    A tensor saved by several functions counts once, for the first matching kind.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    sizes, users, seen, left = {}, {}, set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [function for function, _ in node.next_functions]
        for tensor in saved_tensors(node):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in own:
                    sizes[storage.data_ptr()] = storage.nbytes()
                    users.setdefault(storage.data_ptr(), set()).add(node.name())
    by_kind = dict.fromkeys([*KINDS, REST], 0)
    for place, size in sizes.items():
        fitting = (
            kind
            for kind, names in KINDS.items()
            if any(user.startswith(names) for user in users[place])
        )
        by_kind[next(fitting, REST)] += size
    return by_kind

"""What a Brain has to meet to become a HeteroBrain: errors that name the way out."""

import re
from contextlib import contextmanager

import torch


def refuse_own_fit_batch(brain, base):
    """Raise if a class replaces the ``fit_batch`` of its base, which is the update.

    Arguments
    ---------
    brain : Brain
        An override that calls ``super().fit_batch`` is accepted.
    base : type
        The base class that defines the update.

    Raises
    ------
    TypeError
        Names the class that has a ``fit_batch`` of its own.
    """
    for kind in type(brain).__mro__[: type(brain).__mro__.index(base)]:
        own = vars(kind).get("fit_batch")
        code = getattr(own, "__code__", None)
        if code and not {"super", "fit_batch"} & {*code.co_names}:
            raise TypeError(
                f"{kind.__name__}.fit_batch replaces the bilevel update of "
                f"{base.__name__}. Remove it: return one scalar loss from "
                "compute_objectives, and do what follows an update in on_fit_batch_end. "
                "A Brain that minimises several losses in turn, such as a GAN, cannot "
                "become heterogeneous."
            )


def scalar(loss, brain):
    """The loss itself, if it is a single number.

    Raises
    ------
    TypeError
        ``compute_objectives`` returned something else.
    """
    if torch.is_tensor(loss) and loss.numel() == 1:
        return loss.squeeze()
    found = (
        f"shape {tuple(loss.shape)}" if torch.is_tensor(loss) else type(loss).__name__
    )
    raise TypeError(
        f"{type(brain).__name__}.compute_objectives returned {found}, but a local solve "
        "minimises one scalar loss: return the sum of its losses as a tensor"
    )


def refuse_reentrant_checkpoint(loss):
    """Raise if a graph has a reentrant activation checkpoint, whose parameters would get
    no gradient from :func:`torch.autograd.grad`, in silence.

    Raises
    ------
    ValueError
        There is one.
    """
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "The model uses torch.utils.checkpoint with use_reentrant=True, in which "
                "its parameters get no gradient from torch.autograd.grad; set "
                "use_reentrant=False (in transformers: gradient_checkpointing_enable("
                'gradient_checkpointing_kwargs={"use_reentrant": False}))'
            )
        nodes.extend(following for following, _ in node.next_functions)


@contextmanager
def naming_missing_derivatives():
    """Turn PyTorch's error about a missing second derivative into one that names it.

    Raises
    ------
    ValueError
        Something in this context cannot be differentiated twice.
    """
    try:
        yield
    except RuntimeError as error:
        named = re.search(r"derivative for '?aten::_*(\w+)'? is not", str(error))
        if not named and "once_differentiable" not in str(error):
            raise
        what = (
            named[1].removesuffix("_backward")
            if named
            else "a torch.autograd.Function of the model"
        )
        raise ValueError(
            f"hypergradient: exact differentiates twice, but {what} has no second "
            "derivative in PyTorch; set it to first_order, or use another loss"
        ) from error

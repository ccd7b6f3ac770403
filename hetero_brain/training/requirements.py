"""What a Brain has to meet to become a HeteroBrain: errors that name the way out."""

import re

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

NOT_TWICE = (
    "hypergradient: exact differentiates twice, but {} has no second derivative in "
    "PyTorch; set it to first_order, or use another loss"
)


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


def refuse_graphs(brain):
    """Raise if ``cuda_graphs: True`` is set where passes cannot be CUDA graphs, and warn,
    once a run, where it has no effect.

    Arguments
    ---------
    brain : Participants
        Its ``graph_obstacle`` says why they cannot.

    Raises
    ------
    ValueError
        Names the key and the reason.
    """
    if not getattr(brain.hparams, "cuda_graphs", False):
        return
    if obstacle := brain.graph_obstacle():
        raise ValueError(f"cuda_graphs: True is not possible: {obstacle}")
    if brain.device_type != "cuda":
        logger.warning_once(f"cuda_graphs: True has no effect on {brain.device}")


def refuse_data_parallel(brain):
    """Raise if a Brain is to spread a batch over GPUs, as local solves are not spread.

    Raises
    ------
    ValueError
        The run option ``data_parallel_backend`` is set.
    """
    if brain.data_parallel_backend:
        raise ValueError(
            "data_parallel_backend: a local solve runs on one GPU; start a process for "
            "each GPU with torchrun instead, and they share the domains"
        )


def scalar(loss, brain):
    """The loss itself, if it is a single number.

    Raises
    ------
    TypeError
        ``compute_objectives`` returned something else.
    """
    if torch.is_tensor(loss) and loss.numel() == 1:
        return loss
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
    if "CheckpointFunctionBackward" in operations([loss]):
        raise ValueError(
            "The model uses torch.utils.checkpoint with use_reentrant=True, in which "
            "its parameters get no gradient from torch.autograd.grad; set "
            "use_reentrant=False (in transformers: gradient_checkpointing_enable("
            'gradient_checkpointing_kwargs={"use_reentrant": False}))'
        )


def operations(tensors):
    """The names of all operations in the graph of some tensors."""
    nodes, seen = [x.grad_fn for x in tensors if x is not None], {None}
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            nodes.extend(following for following, _ in node.next_functions)
    return {node.name() for node in seen if node is not None}


def second_derivatives(gradient, params, vectors):
    """The derivatives of ``gradient`` · ``vectors`` with respect to the parameters.

    Arguments
    ---------
    gradient, vectors : sequence of torch.Tensor
        Aligned; the former with its graph.
    params : list of torch.nn.Parameter

    Returns
    -------
    sequence of torch.Tensor or None
        Aligned with ``params``.

    Raises
    ------
    ValueError
        Names what has no second derivative in PyTorch.
    """
    missing = "a torch.autograd.Function marked as once_differentiable"
    # Of such a function PyTorch may also return no derivative, in silence.
    if "torch::autograd::Error" in operations(gradient):
        raise ValueError(NOT_TWICE.format(missing))
    try:
        return torch.autograd.grad(gradient, params, vectors, allow_unused=True)
    except RuntimeError as error:
        named = re.search(r"derivative for '?aten::_*(\w+)'? is not", str(error))
        if not named:
            raise
        raise ValueError(
            NOT_TWICE.format(named[1].removesuffix("_backward"))
        ) from error

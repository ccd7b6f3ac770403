"""Sharing the units of an iteration among ranks, and what ranks tell each other.

A unit is one local solve: a domain, or a replica of it. Units are planned without regard
to the number of ranks; a local solve needs no communication.
"""

import heapq

import torch
from speechbrain.utils.distributed import is_distributed_initialized


def rank_and_size():
    """This process's rank, and how many there are: (0, 1) without torchrun."""
    if not is_distributed_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def share_out(costs, n_ranks):
    """Which rank takes which unit: longest first, each to the rank that has least.

    Arguments
    ---------
    costs : sequence of float
        Of each unit, in any measure of time.
    n_ranks : int
        Ranks.

    Returns
    -------
    list of int
        The rank of each unit. Every rank has one if there are as many units.

    Example
    -------
    >>> share_out([3.0, 5.0, 2.0, 1.0], n_ranks=2)
    [1, 0, 1, 0]
    """
    loads = [(0.0, rank) for rank in range(n_ranks)]
    ranks = [0] * len(costs)
    for unit in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, ranks[unit] = loads[0]
        heapq.heapreplace(loads, (load + costs[unit], ranks[unit]))
    return ranks


def gathered(value):
    """The values of all ranks, by rank; every rank must call it."""
    _, size = rank_and_size()
    if size == 1:
        return [value]
    values = [None] * size
    torch.distributed.all_gather_object(values, value)
    return values


def broadcast_module(module):
    """Give every rank the parameters and buffers of rank 0."""
    if rank_and_size()[1] > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor.data, src=0)


def reduce_gradients(params, figures):
    """Add up gradients and some figures over all ranks, in one all-reduce a dtype.

    Arguments
    ---------
    params : list of torch.nn.Parameter
        ``.grad`` becomes the sum, or stays None where no rank has one.
    figures : torch.Tensor
        (n,) of any floating type.

    Returns
    -------
    torch.Tensor
        (n,), the sums; the argument itself without other ranks.
    """
    if rank_and_size()[1] == 1:
        return figures
    dtypes = dict.fromkeys(param.dtype for param in params)
    total = figures
    for dtype in dtypes:
        members = [param for param in params if param.dtype == dtype]
        present = [float(param.grad is not None) for param in members]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        head = torch.tensor(present, device=members[0].device, dtype=dtype)
        pieces = [head, figures.to(head), *(grad.flatten() for grad in grads)]
        flat = torch.cat(pieces)
        torch.distributed.all_reduce(flat)
        head, total, *sums = flat.split([piece.numel() for piece in pieces])
        for param, there, summed in zip(members, head.tolist(), sums):
            param.grad = summed.view_as(param) if there else None
    return total

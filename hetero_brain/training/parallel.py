"""Distributing the units of an iteration over ranks, and communication between ranks.

A unit is one local solve: a domain, or a replica of it. Units are planned independently
of the number of ranks; a local solve needs no communication.
"""

import heapq
import re
from collections import Counter, defaultdict
from contextlib import contextmanager
from types import FunctionType
from unittest.mock import patch

import torch
from speechbrain.utils.distributed import is_distributed_initialized

from ..errors import InputError
from .devices import to_device
from .gradients import memory_of

BUCKET_BYTES = 25 * 2**20  # of gradients per all-reduce, as in DDP
# What functions of torch.distributed that communicate begin with, in any version.
COLLECTIVE = re.compile(
    "_?(all_|batch_|barrier|broadcast|gather|i?recv|i?send|monitored|reduce|scatter)"
)


def rank_and_size():
    """The rank of this process, and the number of ranks: (0, 1) without torchrun."""
    if not is_distributed_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def check_ranks(size, n_domains, replicas_per_domain):
    """Refuse more ranks than an iteration has units.

    Arguments
    ---------
    size : int
        Number of ranks.
    n_domains, replicas_per_domain : int
        Domains of an iteration, and local solves of each.

    Raises
    ------
    InputError
        There are more; says what to do.
    """
    units = n_domains * replicas_per_domain
    if size > units:
        raise InputError(
            f"{size} ranks for {units} units per iteration ({n_domains} domains × "
            f"replicas_per_domain: {replicas_per_domain}); raise replicas_per_domain, or "
            "start fewer ranks"
        )


def share_out(costs, n_ranks):
    """Assign units to ranks: longest first, each to the rank with the least load so far.

    Arguments
    ---------
    costs : sequence of float
        Cost of each unit, in any measure of time.
    n_ranks : int
        Number of ranks.

    Returns
    -------
    list of int
        The rank of each unit. No rank is idle if there are at least as many units.

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


@contextmanager
def without_collectives():
    """Refuse communication between ranks in a local solve, where it would hang: ranks
    have solves of their own, and different numbers of them.

    Raises
    ------
    RuntimeError
        Something called a collective of ``torch.distributed`` in this context.
    """

    def refusing(name):
        def refuse(*args, **kwargs):
            raise RuntimeError(
                f"torch.distributed.{name} was called in a local solve, in which other "
                "ranks take no part. A global or synchronised normalisation does so: use "
                "one over the sentence or over the batch of a rank, or train on one rank."
            )

        return refuse

    if rank_and_size()[1] == 1:
        yield
        return
    names = [
        name
        for name, value in vars(torch.distributed).items()
        if COLLECTIVE.match(name) and type(value) is FunctionType
    ]
    with patch.multiple(torch.distributed, **{name: refusing(name) for name in names}):
        yield


def broadcast_module(module):
    """Broadcast parameters and buffers from rank 0 to all ranks."""
    if rank_and_size()[1] > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor.data, src=0)


def reduce_gradients(params, figures):
    """All-reduce gradients, and some figures, to their sums over ranks.

    One all-reduce per bucket, each sent while the next bucket is filled: for 25 M and
    71 M parameters this takes three quarters of the time of a single all-reduce (gloo, 2
    ranks). The host waits for none of them.

    Arguments
    ---------
    params : list of torch.nn.Parameter
        ``.grad``, with the strides of its parameter, becomes the sum.
    figures : torch.Tensor
        (n,) of float64.

    Returns
    -------
    figures : torch.Tensor
        (n,), the sums; the argument itself if there is only one rank.
    ranks : torch.Tensor
        (len(params),) of float64: how many ranks had a gradient of each parameter, for
        :func:`drop_absent`; empty if there is only one rank.
    """
    if rank_and_size()[1] == 1:
        return figures, figures.new_zeros(0)
    present = torch.tensor([p.grad is not None for p in params], dtype=figures.dtype)
    head = torch.cat([figures, to_device(present, figures.device)])
    works = [torch.distributed.all_reduce(head, async_op=True)]
    reduced = []
    for members in _buckets(params):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        pieces = [memory_of(grad) for grad in grads]
        flat = torch.cat(pieces)
        works.append(torch.distributed.all_reduce(flat, async_op=True))
        reduced.append((members, flat, [piece.numel() for piece in pieces]))
    for work in works:
        work.wait()
    for members, flat, sizes in reduced:
        for param, grad in zip(members, flat.split(sizes)):
            param.grad = grad.as_strided(param.shape, param.stride())
    return head.split([len(figures), len(present)])


def drop_absent(params, ranks):
    """Set ``.grad`` to None where no rank had a gradient, as without other ranks.

    Arguments
    ---------
    params : list of torch.nn.Parameter
        Their gradients after :func:`reduce_gradients`.
    ranks : list of float
        How many ranks had a gradient of each; empty if there is only one rank.
    """
    for param, count in zip(params, ranks):
        if not count:
            param.grad = None


def keep_once(params):
    """Have only rank 0 keep what a step has left in ``.grad``, such as the gradient of an
    optimizer that rests, so that the next sum over ranks counts it once."""
    if rank_and_size()[0] > 0:
        for param in params:
            param.grad = None


def _buckets(params):
    """Parameters grouped by dtype, and into lists of about :data:`BUCKET_BYTES`."""
    buckets, sizes = defaultdict(list), Counter()
    for param in params:
        buckets[param.dtype, sizes[param.dtype] // BUCKET_BYTES].append(param)
        sizes[param.dtype] += param.nbytes
    return buckets.values()

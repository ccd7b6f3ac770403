"""Dot products of long vectors that different ranks hold."""

import torch

from .parallel import rank_and_size

CHUNK = 2**20  # elements of each vector that are on the device at a time


def gram(vectors, n_vectors, length, device="cpu"):
    """Dot products of the vectors of all ranks, each with each.

    Every rank adds up a part of the elements of all vectors, so that none ever has a
    whole vector of another, nor sends or receives more than the size of its own ones.
    Every rank must call it.

    Arguments
    ---------
    vectors : list of torch.Tensor
        (length,), those of this rank, on any device.
    n_vectors : int
        The most that any rank has.
    length : int
        Of each vector.
    device : torch.device or str
        Where to compute, and what the ranks communicate by.

    Returns
    -------
    torch.Tensor
        (size · n_vectors, size · n_vectors) of float64 on the CPU. Vector i of rank r is
        in row r · n_vectors + i; the rows of vectors that a rank lacks are zero.

    Example
    -------
    >>> gram([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])], 2, 2)
    tensor([[5., 3.],
            [3., 9.]], dtype=torch.float64)
    """
    _, size = rank_and_size()
    if size > 1 and torch.distributed.get_backend() == "gloo":
        device = "cpu"  # gloo exchanges nothing else
    total = torch.zeros(2 * (size * n_vectors,), dtype=torch.float64, device=device)
    for start in range(0, length, CHUNK):
        width = -(-min(CHUNK, length - start) // size)  # elements that a rank adds up
        own = torch.zeros(n_vectors, size * width, device=device)
        for row, vector in zip(own, vectors):
            piece = vector[start : start + CHUNK]
            row[: len(piece)] = piece
        parts = own.view(n_vectors, size, width).transpose(0, 1).contiguous()
        if size > 1:
            sent, parts = parts, torch.empty_like(parts)
            torch.distributed.all_to_all_single(parts, sent)
        parts = parts.flatten(0, 1).double()
        total += parts @ parts.T
    if size > 1:
        torch.distributed.all_reduce(total)
    return total.cpu()

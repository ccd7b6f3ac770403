"""Bit for bit the same results on a GPU, where many fast kernels add in any order."""

import os
from contextlib import contextmanager

import torch


def be_deterministic():
    """Let PyTorch use deterministic algorithms only, from now on in this process.

    An operation that has none is an error, in which PyTorch names it. To be called before
    the first product on a GPU, when cuBLAS reads its environment variable. On a CPU all
    algorithms that training takes are deterministic anyway.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False  # it takes what happens to be the fastest
    torch.use_deterministic_algorithms(True)


@contextmanager
def any_algorithms():
    """Allow all algorithms in this context: for what does not go into training, and has
    no deterministic algorithm."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)

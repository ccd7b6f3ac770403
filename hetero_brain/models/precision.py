"""Half precision, where it is not enough."""

from contextlib import contextmanager

import torch

HALF = torch.bfloat16, torch.float16


def widened(x):
    """``x`` in fp32 if it is in half precision."""
    return x.float() if x.dtype in HALF else x


@contextmanager
def full_fp32():
    """Matrix products of fp32 tensors are not rounded to TF32 in this context.

    SpeechBrain allows TF32 on a GPU, which keeps 10 bits of each operand. That is enough
    for training, but it would change one label in a thousand.
    """
    matmul = torch.backends.cuda.matmul
    name, full = "allow_tf32", False
    try:
        before = matmul.allow_tf32
    except RuntimeError:  # it was set by its newer name, and cannot be read by this one
        name, full = "fp32_precision", "ieee"
        before = matmul.fp32_precision
    setattr(matmul, name, full)
    try:
        yield
    finally:
        setattr(matmul, name, before)

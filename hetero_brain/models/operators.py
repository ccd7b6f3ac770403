"""The operators of the models: PyTorch's own, and on a CPU those of ``cpu``.

Here alone it is chosen between the two.
"""

from functools import wraps

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import cpu
from .precision import HALF


def on_cpu(faster):
    """Decorate a function so that tensors on a CPU go to ``faster`` instead.

    Compiled code is PyTorch's on any device.

    Arguments
    ---------
    faster : callable
        Takes what the function takes, and computes the same.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(function):
        @wraps(function)
        def chosen(*args, **kwargs):
            tensor = next(arg for arg in args if isinstance(arg, torch.Tensor))
            here = tensor.is_cpu and not torch.compiler.is_compiling()
            return (faster if here else function)(*args, **kwargs)

        return chosen

    return decorate


# Not cuDNN's attention, which builds a plan for each shape of a batch that is new.
ATTENTION = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

dropout = on_cpu(cpu.dropout)(F.dropout)
linear = on_cpu(cpu.linear)(F.linear)
conv2d = on_cpu(cpu.conv2d)(F.conv2d)


@on_cpu(cpu.attention)
def attention(q, k, v, allowed=None, dropout_p=0.0, causal=False):
    """Attention of queries that are scaled already.

    In half precision with a mask, the fast kernels want a multiple of 8 channels: zeros
    are added to other heads, such as tiny's, as they change no product. With 36 channels,
    PyTorch would take five times as long (H200, bf16: 1.27 ms against 0.26 with 40).

    Arguments
    ---------
    q, k, v : torch.Tensor
        (batch, heads, frames, head_dim); the output is of the type of v.
    allowed : torch.Tensor
        Broadcast to (batch, heads, frames, frames), True where attention is allowed.
    dropout_p : float
        Probability with which a weight is dropped.
    causal : bool
        No frame attends to a later one; only without ``allowed``.

    Returns
    -------
    torch.Tensor
        (batch, heads, frames, head_dim).
    """
    qkv, channels = [x.to(v.dtype) for x in (q, k, v)], v.shape[-1]
    if v.dtype in HALF and channels % 8:
        qkv = [F.pad(x, (0, -channels % 8)) for x in qkv]
    with sdpa_kernel(ATTENTION):
        out = F.scaled_dot_product_attention(
            *qkv, allowed, dropout_p, causal, scale=1.0
        )
    return out[..., :channels]


@on_cpu(cpu.logits_at_once)
def logits_at_once(x):
    """How many logits of rows ``x`` a cross-entropy computes at once.

    Pieces are for memory here: each takes some tens of kernels. With 8192 classes and
    four codebooks, pieces of 2**21 logits took seven times as long on an H200.
    """
    return 2**25

"""Half precision, where it is not enough."""

import torch


def widened(x):
    """``x`` in fp32 if it is in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

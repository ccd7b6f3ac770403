"""What the local solves of an iteration gave: on the device until the iteration ends.

The host has to know whether a domain was finite only to log and to count it. Until then,
a domain that was not has its gradient set to zero by the device itself, so that the host
can prepare the next domain instead of waiting for this one.
"""

import math
from dataclasses import dataclass

import torch


@dataclass
class Solve:
    """A local solve whose passes are done.

    Attributes
    ----------
    domain_batch : DomainBatch
        The domain, and its batch.
    share : float
        Weight of the domain in the mean over domains.
    passes : torch.Tensor
        (K + 1, 2): loss and gradient norm of each pass.
    outputs : any
        What ``compute_forward`` returned at φ_K.
    """

    domain_batch: object
    share: float
    passes: torch.Tensor
    outputs: object


def sums(solves, scaled, stop, device):
    """Figures of some solves whose sums over all ranks decide how an iteration ends.

    Arguments
    ---------
    solves : list of Solve
        The solves of this rank.
    scaled : bool
        Whether the loss is scaled for fp16. A gradient that is not finite, of a loss that
        is, then means that the scale was too large.
    stop : bool
        Whether this rank asks to stop.
    device : torch.device
        Of the result.

    Returns
    -------
    torch.Tensor
        (5,) of float64: the total share of the domains that were finite; how many were
        not, for other reasons than the scale; how many overflowed because of the scale;
        ``stop``; the mean loss at φ_K of those that were finite.
    """
    totals = torch.zeros(5, dtype=torch.float64, device=device)
    for solve in solves:
        finite = solve.passes.isfinite()
        leading = finite.all(1).cumprod(0).sum()  # passes before the first that is not
        whole = leading == len(finite)
        overflowed = (finite[:, 0].cumprod(0).sum() > leading) & scaled
        left_out, none = ~whole & ~overflowed, torch.zeros_like(whole)
        loss = torch.where(whole, solve.passes[-1, 0], 0)
        figures = [whole, left_out, overflowed, none, loss]
        figures = torch.stack([figure.double() for figure in figures])
        figures[0::4] *= solve.share
        totals += figures
    totals[3] += stop
    return totals


def fetched(solves, *tensors):
    """Bring tensors, and the passes of some solves, to the host: its only wait.

    Arguments
    ---------
    solves : list of Solve
        The solves of this rank.
    *tensors : torch.Tensor
        One-dimensional, of float64.

    Returns
    -------
    list of list
        The values of each tensor, and then of each solve its (loss, norm) pairs.
    """
    flat = [*tensors, *(solve.passes.double().flatten() for solve in solves)]
    values = iter(torch.cat(flat).tolist())
    lists = [[next(values) for _ in range(len(tensor))] for tensor in flat]
    pairs = [list(zip(each[::2], each[1::2])) for each in lists[len(tensors) :]]
    return [*lists[: len(tensors)], *pairs]


def reason_to_leave_out(passes):
    """Why a domain is left out of the mean; None if all its passes were finite.

    Arguments
    ---------
    passes : list of (float, float)
        Loss and gradient norm of each pass.

    Example
    -------
    >>> reason_to_leave_out([(2.0, 1.0), (float("inf"), float("nan"))])
    'loss inf, gradient norm nan'
    """
    for loss, norm in passes:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss:.4g}, gradient norm {passes[-1][1]:.4g}"
    return None

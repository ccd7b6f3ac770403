"""Cross-entropy of a linear layer's logits, which are never in memory all at once."""

import math

import torch
import torch.nn.functional as F

from ..models.cpu import ROWS
from ..models.operators import logits_at_once
from ..models.precision import widened


def linear_cross_entropy(x, labels, weight, bias):
    """Mean cross-entropy of a linear layer's logits, and which of the labels were hit.

    ``F.cross_entropy`` of ``F.linear`` holds the logits, their log-softmax and two
    gradients of that size. Here a piece of the rows after the other gives its share of
    the loss and of the gradients, as in Liger-Kernel (arXiv:2410.10989).

    Arguments
    ---------
    x : torch.Tensor
        (rows, inputs).
    labels : torch.Tensor
        (rows, groups) of int64, in [0, classes), or -1 for what does not count; each
        group has classes of its own.
    weight, bias : torch.Tensor
        (groups · classes, inputs) and (groups · classes,).

    Returns
    -------
    loss : torch.Tensor
        Scalar, in nats, averaged over the labels that count; 0 if there are none.
    hits : torch.Tensor
        (rows, groups) of bool: whether the label's logit was the largest.
    """
    return LinearCrossEntropy.apply(x, labels, weight, bias)


class LinearCrossEntropy(torch.autograd.Function):
    """:func:`linear_cross_entropy`, the gradients made in the forward pass.

    They are kept of the sum over the rows: those of the mean would be too small for
    fp16, as the loss is scaled behind.
    """

    @staticmethod
    def forward(ctx, x, labels, weight, bias):
        """See :func:`linear_cross_entropy`."""
        device, count = x.device.type, (labels >= 0).sum().clamp(min=1)
        kind = x.dtype
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        padded = F.pad(x.to(kind), (0, 0, 0, -len(x) % ROWS))
        rows = ROWS * max(1, logits_at_once(x) // len(weight) // ROWS)
        narrow = weight.to(kind), bias.to(kind)
        total = widened(padded.new_zeros(()))
        hits = torch.empty_like(labels, dtype=torch.bool)
        to_x, to_weight, to_bias = map(torch.zeros_like, (padded, weight, bias))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(x), rows):
                piece = slice(start, start + rows)
                here = padded[piece], labels[piece]
                loss, hits[piece], slope = of_rows(*here, *narrow)
                total += loss
                if any(ctx.needs_input_grad):
                    torch.mm(slope, narrow[0], out=to_x[piece])
                    if kind == weight.dtype:
                        to_weight.addmm_(slope.T, padded[piece])
                    else:
                        to_weight += slope.T @ padded[piece]
                    to_bias += slope.sum(0, dtype=bias.dtype)
        to_x = to_x[: len(x)]
        ctx.save_for_backward(x, labels, weight, bias, to_x, to_weight, to_bias, count)
        ctx.mark_non_differentiable(hits)
        return total / count, hits

    @staticmethod
    def backward(ctx, grad, _):
        """Gradients of x, weight and bias; all rows at once if these are to have some."""
        x, labels, weight, bias, to_x, to_weight, to_bias, count = ctx.saved_tensors
        grad = grad / count
        if torch.is_grad_enabled():
            logits = F.linear(x, weight, bias).unflatten(-1, (labels.shape[-1], -1))
            target = F.one_hot(labels.clamp(min=0), logits.shape[-1])
            slope = (logits.softmax(-1) - target) * (labels >= 0).unsqueeze(-1)
            slope = slope.flatten(1)
            to_x, to_weight, to_bias = slope @ weight, slope.T @ x, slope.sum(0)
        return (to_x * grad).to(x.dtype), None, to_weight * grad, to_bias * grad


def of_rows(x, labels, weight, bias):
    """Of some rows, behind which ``x`` may have others, that do not count.

    Returns
    -------
    loss : torch.Tensor
        Scalar, summed.
    hits : torch.Tensor
        (rows, groups).
    slope : torch.Tensor
        (rows of x, groups · classes): derivative of the loss by the logits.
    """
    slope = widened(F.linear(x, weight, bias))  # the logits first, changed in place
    slope[len(labels) :] = 0
    logits = slope[: len(labels)].unflatten(-1, (labels.shape[-1], -1))
    labels, best = labels.unsqueeze(-1), logits.argmax(-1, keepdim=True)
    counts, hits = labels >= 0, best == labels
    labels = labels.clamp(min=0)
    label_logits, largest = logits.gather(-1, labels), logits.gather(-1, best)
    total = logits.sub_(largest).exp_().sum(-1, keepdim=True)
    loss = ((total.log() + largest - label_logits) * counts).sum()
    logits.div_(total.masked_fill(~counts, math.inf))
    logits.scatter_add_(-1, labels, -counts.to(logits.dtype))
    return loss, hits.squeeze(-1), slope.to(x.dtype)

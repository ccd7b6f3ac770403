"""6. The limit: the time of the matrix products, convolutions and attention alone."""

import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from .measure import Table, alternate, spread
from .models import ours
from .speech import global_batch

# Substrings of operator names: those that the limit counts, and kinds for the profile.
HEAVY = ("mm", "conv", "_scaled_dot_product")
KINDS = {
    "matrix products": ("mm",),
    "attention": ("scaled_dot_product", "_softmax"),
    "depthwise convolution": ("conv",),
    "activations": ("silu", "gelu", "glu", "sigmoid"),
    "normalisation": ("layer_norm",),
    "optimizer, clipping, local steps": ("adamw", "foreach", "norm", "Optimizer"),
    "copies and fills": ("copy_", "fill_", "cat", "clone", "zero_", "index", "masked"),
    "arithmetic": ("add", "mul", "sub", "div", "sum", "mean"),
}


class Recorder(TorchDispatchMode):
    """Records the operators that run under it, with the shapes of their operands."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        shapes = tree_map_only(torch.Tensor, describe, (args, kwargs))
        self.calls.append((operator, shapes))
        return operator(*args, **kwargs)

    def heavy(self):
        """For each call, whether it is a matrix product, a convolution or attention."""
        return [any(n in str(operator) for n in HEAVY) for operator, _ in self.calls]


def describe(tensor):
    """A tensor's shape, strides and dtype, without its memory."""
    return ("tensor", tensor.shape, tensor.stride(), tensor.dtype)


def is_description(item):
    """Whether ``item`` comes from :func:`describe`."""
    return isinstance(item, tuple) and len(item) == 4 and item[0] == "tensor"


def revive(item):
    """Replace descriptions by tensors of ones, or of zeros for integers, which may be
    indices. The time of hardly any operator depends on the values."""
    if is_description(item):
        _, shape, stride, dtype = item
        size = 1 + sum((n - 1) * step for n, step in zip(shape, stride))
        real = dtype.is_floating_point or dtype.is_complex or dtype == torch.bool
        return torch.full((size,), real, dtype=dtype).as_strided(shape, stride)
    if isinstance(item, (list, tuple)):
        return type(item)(revive(element) for element in item)
    if isinstance(item, dict):
        return {key: revive(element) for key, element in item.items()}
    return item


def replay(recorder):
    """Seconds of a recorder's calls, replayed one by one on operands made beforehand: of
    the heavy ones, and of all."""
    heavy = total = 0.0
    for (operator, shapes), is_heavy in zip(recorder.calls, recorder.heavy()):
        args, kwargs = revive(shapes)
        start = time.perf_counter()
        operator(*args, **kwargs)
        taken = time.perf_counter() - start
        total += taken
        heavy += taken * is_heavy
    return heavy, total


def large_product_rate(n, rounds):
    """GFLOP/s of a product of two n × n matrices, for each round."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    taken = alternate({"mm": lambda: a @ b}, rounds)["mm"]
    return [2e-9 * n**3 / t for t in taken]


def profiled(train):
    """Self time of each kind of operator in an iteration, in per cent of the total."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        train()
    shares = dict.fromkeys([*KINDS, "all else (Python, dispatch, features)"], 0.0)
    events = found.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    for event in events:
        kinds = (k for k, names in KINDS.items() if any(n in event.key for n in names))
        kind = next(kinds, list(shares)[-1])
        shares[kind] += 100 * event.self_cpu_time_total / total
    return shares


def run(quick):
    """The limit and the profile of an iteration, K = 1 and M = 2."""
    limit = Table(
        "The limit: heavy operators of an iteration (K = 1, M = 2)",
        [
            "size",
            "GFLOP",
            "iteration (s)",
            "at the large product's rate (s)",
            "the model's own shapes (s)",
            "iteration / large product",
            "iteration / own shapes",
        ],
    )
    where = Table("Where an iteration's time goes (% of a profile)", ["kind"])
    columns = []
    rate = large_product_rate(1024 if quick else 3072, 3 if quick else 7)
    for size in (quick,) if quick else ("tiny", "base"):
        brain, parts = ours(size, 1), global_batch(2, 2 if quick else 32)

        def train(brain=brain, parts=parts):
            brain.fit_batch(parts)

        taken = sorted(alternate({size: train}, 2)[size])
        median = statistics.median(taken)
        with FlopCounterMode(display=False) as flops, Recorder() as recorder:
            train()
        own, _ = sorted(replay(recorder) for _ in range(3))[1]
        gflop = flops.get_total_flops() / 1e9
        ideal = gflop / sorted(rate)[len(rate) // 2]
        limit.rows.append(
            [size, gflop, spread(taken), ideal, own, median / ideal, median / own]
        )
        where.columns.append(size)
        columns.append(profiled(train))
    where.rows = [[kind, *(c[kind] for c in columns)] for kind in columns[0]]
    limit.notes = [
        f"Large product: {spread(rate)} GFLOP/s in fp32. Own shapes: every matrix "
        "product, convolution and attention of the iteration, forward and backward, "
        "replayed alone.",
    ]
    return [limit, where]

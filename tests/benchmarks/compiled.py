"""7. The speed-up by ``torch.compile`` of the encoder, with SpeechBrain's option."""

import shutil
import time

from .measure import Table, alternate, ratios, spread
from .models import ours
from .speech import global_batch

SECONDS = 32
OPTIONS = {"compile": True, "compile_module_keys": ["encoder"]}
WAYS = {
    "eager": {},
    "compiled, dynamic shapes": OPTIONS,
    "compiled for this shape": {
        **OPTIONS,
        "compile_using_dynamic_shape_tracing": False,
    },
}


def run(quick):
    """Repeat one batch, so that only the first iteration compiles; nothing if quick."""
    if quick:  # compiling alone takes a minute
        return []
    table = Table(
        f"torch.compile of the encoder (tiny, K = 1, M = 1, {SECONDS} s)",
        ["code", "first iteration (s)", "s / iteration", "ratio to eager"],
        notes=[
            "One batch. With dynamic shapes, the default, batches of any length are "
            "compiled in the first iteration; otherwise each shape is compiled, up to "
            "PyTorch's limit of 8.",
        ],
    )
    if shutil.which("c++") is None:
        table.rows.append(["not run: no C++ compiler", "-", "-", "-"])
        return [table]
    parts, losses, first, brains = global_batch(1, SECONDS), {}, {}, {}
    for name, options in WAYS.items():
        brains[name] = ours("tiny", 1, **options)
        start = time.perf_counter()
        losses[name] = brains[name].fit_batch(parts).item()
        first[name] = time.perf_counter() - start
    taken = alternate(
        {name: lambda b=b: b.fit_batch(parts) for name, b in brains.items()}, 7
    )
    for name in brains:
        ratio = spread(ratios(taken[name], taken["eager"]))
        table.rows.append([name, first[name], spread(taken[name]), ratio])
    difference = max(abs(loss - losses["eager"]) for loss in losses.values())
    table.notes.append(
        f"Losses of the first iteration differ by {difference:.1g} at most."
    )
    return [table]

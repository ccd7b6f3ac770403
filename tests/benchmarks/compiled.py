"""7. The speed-up by ``torch.compile`` of the encoder, with SpeechBrain's option."""

import shutil
import time

from .measure import Table, alternate, ratios, spread
from .models import ours
from .speech import global_batch

SECONDS = 32
OPTIONS = {"compile": True, "compile_module_keys": ["encoder"]}


def run(quick):
    """Repeat one batch, so that only the first iteration compiles; nothing if quick."""
    if quick:  # compiling alone takes a minute
        return []
    table = Table(
        f"torch.compile of the encoder (tiny, K = 1, M = 1, {SECONDS} s)",
        ["code", "first iteration (s)", "s / iteration", "ratio to eager"],
        notes=[
            "One batch, whose shapes are compiled in the first iteration; each new "
            "shape is compiled again, up to torch's limit of 8 times.",
        ],
    )
    if shutil.which("c++") is None:
        table.rows.append(["not run: no C++ compiler", "-", "-", "-"])
        return [table]
    parts, losses, first, brains = global_batch(1, SECONDS), {}, {}, {}
    for name, options in {"eager": {}, "compiled": OPTIONS}.items():
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
    difference = abs(losses["compiled"] - losses["eager"])
    table.notes.append(f"Loss of the first iteration differs by {difference:.1g}.")
    return [table]

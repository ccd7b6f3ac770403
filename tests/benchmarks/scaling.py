"""4. How the time of an iteration scales with domains, local steps, length and size."""

import numpy as np
from speechbrain.dataio.batch import PaddedBatch

from hetero_brain import DomainBatch

from .measure import Table, alternate, spread
from .models import ours
from .speech import RATE, batch, global_batch


def long_batch(seconds, n):
    """``n`` utterances of exactly ``seconds``, cut from concatenated speech."""
    speech = batch(seconds * n + 10.0, 0)
    wavs, lengths = speech.sig
    samples = (lengths * wavs.shape[1]).round().int()
    joined = np.concatenate([wav[:m].numpy() for wav, m in zip(wavs, samples)])
    size = int(seconds * RATE)
    pieces = np.resize(joined, (n, size))
    return PaddedBatch([{"id": str(i), "sig": piece} for i, piece in enumerate(pieces)])


def measured(trainers, rounds):
    """Median seconds of some functions: value of the varied quantity → seconds."""
    return {x: float(np.median(s)) for x, s in alternate(trainers, rounds).items()}


def iteration(brain, parts):
    """A function without arguments that trains one iteration."""
    return lambda: brain.fit_batch(parts)


def bend(x, y):
    """Largest distance of the points from a fitted line, divided by their largest y."""
    line = np.polyval(np.polyfit(x, y, 1), x)
    return float(np.abs(line - y).max() / max(y))


def run(quick):
    """Time by domains, local steps and utterance length for tiny; and for each size."""
    rounds, seconds = (1, 1) if quick else (2, 6)
    domains = (1, 2) if quick else (1, 2, 4, 8, 16, 32)
    steps = (0, 1) if quick else (0, 1, 2, 4, 6, 8)
    lengths = (1, 2) if quick else (2, 4, 8, 16, 32, 64)
    size = quick or "tiny"
    brain = ours(size, 1)
    three = global_batch(3, seconds)
    curves = {
        "domains M (K = 1)": {
            m: iteration(brain, global_batch(m, seconds)) for m in domains
        },
        "local steps K (M = 3)": {k: iteration(ours(size, k), three) for k in steps},
        "length of 2 utterances (s; K = 1, M = 1)": {
            n: iteration(brain, [DomainBatch("a", (long_batch(n, 2),))])
            for n in lengths
        },
    }
    table = Table(
        f"Scaling of an iteration ({size})",
        [
            "quantity",
            "from … to",
            "s at the first",
            "s at the last",
            "nonlinearity (%)",
        ],
    )
    for name, trainers in curves.items():
        taken = measured(trainers, rounds)
        x, y = list(taken), list(taken.values())
        table.rows.append([name, f"{x[0]} … {x[-1]}", y[0], y[-1], 100 * bend(x, y)])
        table.curves.append(
            dict(panel=name, xlabel=name, ylabel="s / iteration", label=size, x=x, y=y)
        )
    table.notes = [
        f"Domain batches of {seconds} s, except where the length varies. Nonlinearity: "
        "largest distance from a fitted line, divided by the longest time. Attention "
        "grows with the square of the length, everything else linearly."
    ]
    sizes = Table(
        "Scaling of an iteration: parameters (K = 1, M = 2)",
        [
            "size",
            "parameters (M)",
            "s / iteration",
            "ns per parameter and second of audio",
        ],
    )
    for size in (quick,) if quick else ("tiny", "base", "paper"):
        brain, parts = ours(size, 1), global_batch(2, 2 * seconds)
        millions = sum(p.numel() for p in brain.local_solver.params) / 1e6
        taken = alternate({size: iteration(brain, parts)}, 2)[size]
        cost = np.median(taken) / (millions * 1e6 * 4 * seconds) * 1e9
        sizes.rows.append([size, millions, spread(taken), float(cost)])
    sizes.curves = [
        dict(
            panel="parameters (K = 1, M = 2)",
            xlabel="parameters (M)",
            ylabel="ns per parameter and second of audio",
            label="all sizes",
            x=[row[1] for row in sizes.rows],
            y=[row[3] for row in sizes.rows],
        )
    ]
    return [table, sizes]

"""What :mod:`local_lr` has measured: a table, a picture, and what follows from it."""

import math

from .geometry import SMALL_ANGLE

# Degrees, in single updates at the beginning of a phase. On the sample of VoicePrompts,
# phases that began at up to 6° kept θ as well as any (docs/algorithm.md).
LARGE_ANGLE = 6


def table(rows, given):
    """The lines of a Markdown table of the rows; the rate ``given`` is marked."""
    lines = [
        "Local learning rates, at these weights:",
        "| local_lr | update angle | local gain | domains whose loss rose |",
        "|---|---|---|---|",
    ]
    for row in rows:
        mark = " (now)" if math.isclose(row["local_lr"], given, rel_tol=1e-6) else ""
        lines.append(
            f"| {row['local_lr']:.3g}{mark} | {row['update_angle']:.1f}° "
            f"| {row['local_gain']:.4g} | {100 * row['risen']:.0f} % |"
        )
    return lines


def advice(rows, given):
    """What follows from the rows, and what does not, in lines.

    Arguments
    ---------
    rows : list of dict
        From :func:`~hetero_brain.training.local_lr.local_lr_finder`.
    given : float
        The rate that the optimizer has.
    """
    rows = sorted(rows, key=lambda row: row["local_lr"])
    low, high = useful_rates(rows)
    limits = f"{SMALL_ANGLE}° to {LARGE_ANGLE}°"
    if low is None:
        yield f"None of these rates turns the update by {limits}: try others."
    else:
        yield (
            f"Rates from {low:.2g} to {high:.2g} turn this update by {limits} away from "
            "CSSL's, and no domain's loss rises. Begin at the lower end."
        )
        place = "below" if given < low else "above" if given > high else "within"
        yield f"local_lr is {given:.3g} now, which is {place} these."
    yield (
        "These are single updates at these weights. Over a phase the angle can grow "
        "several times, and θ can be lost at a rate that looks good here: watch "
        "update_angle and the dev loss at θ in the first epochs (docs/algorithm.md)."
    )


def useful_rates(rows):
    """The lowest and the highest rate at which the angle is from :data:`SMALL_ANGLE` to
    :data:`LARGE_ANGLE`, interpolated, and no domain's loss rises; None if there is none.

    Arguments
    ---------
    rows : list of dict
        As for :func:`advice`, by rising rates.

    Example
    -------
    >>> rows = [
    ...     {"local_lr": 10.0**i, "update_angle": 10.0**i, "risen": 0} for i in (-1, 0, 1)
    ... ]
    >>> [round(rate, 6) for rate in useful_rates(rows)]
    [3.0, 6.0]
    """
    usable = []
    for row in rows:
        if row["risen"] or not row["update_angle"] > 0:
            break
        usable.append((row["local_lr"], row["update_angle"]))
        if row["update_angle"] > LARGE_ANGLE:
            break
    found = [rate for rate, angle in usable if SMALL_ANGLE <= angle <= LARGE_ANGLE]
    for (rate, angle), (next_rate, next_angle) in zip(usable, usable[1:]):
        for limit in (SMALL_ANGLE, LARGE_ANGLE):
            if angle < limit < next_angle:
                share = math.log(limit / angle) / math.log(next_angle / angle)
                found.append(rate * (next_rate / rate) ** share)
    return (min(found), max(found)) if found else (None, None)


def plot(rows, given, path):
    """Plot the figures of the rows over α as a PNG, with the rate ``given``, the limits
    of the angle, and the rates between them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "update_angle": "update angle (degrees)",
        "local_gain": "local gain (nats)",
        "risen": "share of domains whose loss rose",
    }
    low, high = useful_rates(rows)
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2))
    for axis, (name, label) in zip(axes, panels.items()):
        axis.semilogx(
            [r["local_lr"] for r in rows], [r[name] for r in rows], marker="o"
        )
        axis.axvline(given, color="gray", linestyle=":", label=f"now: {given:.3g}")
        if low is not None:
            between = f"{SMALL_ANGLE}° to {LARGE_ANGLE}°: {low:.2g} to {high:.2g}"
            axis.axvspan(low, high, color="tab:green", alpha=0.15, label=between)
        axis.set_xlabel("local_lr")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].axhline(SMALL_ANGLE, color="tab:green", linewidth=1)
    axes[0].axhline(LARGE_ANGLE, color="tab:green", linewidth=1)
    axes[0].legend(fontsize="small")
    axes[-1].set_ylim(-0.05, 1.05)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

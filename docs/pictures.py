"""Draws the pictures of these pages: ``python docs/pictures.py``."""

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

HERE = Path(__file__).parent
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8a8a8a")
UNSEEN = ("it", "ru")


def bowl(centre, angle, narrow):
    """(A, c) of the loss ½ (θ − c)ᵀ A (θ − c) of a domain."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([1.0, narrow]) @ turn.T, np.array(centre)


def method(path):
    """Two domains' losses, an iteration of PTLOC between them, and CSSL's direction."""
    bowls = [bowl((-1.7, 0.5), 0.4, 5.0), bowl((1.9, -0.2), -1.1, 3.0)]
    theta, alpha, length = np.array([-0.5, -1.7]), 0.15, 1.0
    x, y = np.meshgrid(np.linspace(-3.2, 3.4, 240), np.linspace(-2.4, 1.9, 160))
    figure, axis = plt.subplots(figsize=(7.2, 4.4))
    mean, plain = np.zeros(2), np.zeros(2)
    for number, (colour, (curvature, centre)) in enumerate(
        zip(COLOURS, bowls), start=1
    ):
        away = np.stack([x - centre[0], y - centre[1]], -1)
        loss = np.einsum("...i,ij,...j->...", away, curvature, away) / 2
        levels = [0.15, 0.6, 1.4, 2.6, 4.2]
        axis.contour(x, y, loss, levels, colors=colour, linewidths=0.7, alpha=0.6)
        axis.text(*centre, f"$\\ell_{number}$", color=colour, ha="center", va="center")
        phi = theta - alpha * curvature @ (theta - centre)
        plain -= curvature @ (theta - centre) / len(bowls)
        gradient = -curvature @ (phi - centre)
        mean += gradient / len(bowls)
        arrow(axis, theta, phi, colour, "--")
        arrow(axis, phi, phi + 0.35 * gradient, colour, "-")
        axis.plot(*phi, "o", color=colour, markersize=5)
        axis.annotate(f"$\\varphi_{number}$", phi, (-14, 2), textcoords="offset points")
    for update, colour in ((plain, COLOURS[3]), (mean, "black")):
        end = theta + length * update / np.linalg.norm(update)
        arrow(axis, theta, end, colour, "-", width=2)
    axis.plot(*theta, "o", color="black", markersize=6)
    axis.annotate("$\\theta$", theta, (5, -12), textcoords="offset points")
    lines = {
        "K local steps on each domain": dict(color="black", linestyle="--", lw=1),
        "its gradient there": dict(color=COLOURS[0], lw=1.4),
        "direction of PTLOC's update: their mean": dict(color="black", lw=2),
        "direction of CSSL's update": dict(color=COLOURS[3], lw=2),
    }
    handles = [plt.Line2D([], [], **style) for style in lines.values()]
    axis.legend(handles, lines, loc="lower left", fontsize=8, frameon=False)
    axis.set_aspect("equal")
    axis.axis("off")
    save(figure, path)


def arrow(axis, start, end, colour, style, width=1.4):
    """An arrow between two points."""
    options = dict(arrowstyle="->", color=colour, linestyle=style, linewidth=width)
    axis.annotate("", end, start, arrowprops=dict(shrinkA=0, shrinkB=0, **options))


def result(path):
    """Character error rates of the probe after the long pre-training, by language."""
    rates = defaultdict(list)
    with open(HERE / "results.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            figures = (float(row[name]) for name in ("CER", "low", "high"))
            rates[row["model"]].append((row["domain"], *figures))
    figure, axis = plt.subplots(figsize=(7.2, 3.2))
    colours = (COLOURS[3], COLOURS[0], COLOURS[1], COLOURS[2])
    for place, (colour, (model, rows)) in enumerate(zip(colours, rates.items())):
        domains, values, low, high = (np.array(column) for column in zip(*rows))
        at = np.arange(len(domains)) + 0.2 * (place - 1.5)
        errors = (values - low, high - values)
        axis.bar(
            at, values, 0.18, yerr=errors, color=colour, label=model, ecolor="black"
        )
    names = [f"{d}\n(unseen)" if d in UNSEEN else d for d in domains]
    axis.set_xticks(range(len(domains)), names)
    axis.set_ylabel("CER %, frozen encoder")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, ncols=4, loc="upper center")
    axis.set_ylim(0, 88)
    save(figure, path)


def save(figure, path):
    """Write a picture that is the same for the same code."""
    figure.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "ptloc", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    method(HERE / "method.svg")
    result(HERE / "result.svg")

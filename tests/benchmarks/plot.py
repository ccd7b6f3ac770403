"""The plot of the benchmarks: one panel per quantity that is varied."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def draw(tables, path):
    """Draw the curves of all tables; nothing if there are none."""
    curves = [curve for table in tables for curve in table.curves]
    panels = list(dict.fromkeys(curve["panel"] for curve in curves))
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False
    )
    for axis, panel in zip(axes.flat, panels):
        for curve in (c for c in curves if c["panel"] == panel):
            axis.plot(curve["x"], curve["y"], marker="o", label=curve["label"])
            axis.set_xlabel(curve["xlabel"])
            axis.set_ylabel(curve["ylabel"])
            axis.set_xscale(curve.get("scale", "linear"))
            axis.set_yscale(curve.get("scale", "linear"))
        axis.set_title(panel, fontsize="medium")
        axis.legend(fontsize="small")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)

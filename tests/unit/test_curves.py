"""Learning curves: what is drawn of a log, and that it is an image."""

import logging
import os

import matplotlib.image

from hetero_brain.pipelines.curves import plot_finetuning, plot_phases
from hetero_brain.training.loggers import JsonLinesLogger


def drawn(figure):
    """Row, column → a panel; row, column → label → points of each of its lines."""
    axes = {}
    for axis in figure.axes:
        place = axis.get_subplotspec()
        axes[place.rowspan.start, place.colspan.start] = axis
    return axes, {
        place: {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
        for place, axis in axes.items()
    }


def test_phases(tmp_path):
    measured = ("update_angle", "step_ratio")
    for place, phase in enumerate(["CSSL.1", "A-later.1"]):
        (tmp_path / phase).mkdir()
        log = tmp_path / phase / "log.jsonl"
        for iteration in (10, 20):
            figures = (
                {"loss_at_theta": 3.0, "local_gain": 0.3} if place else {"loss": 4.0}
            )
            stats = {
                f"{name}/{domain}": value + iteration / 10
                for domain in ("en", "fr")
                for name, value in figures.items()
            }
            if place:
                stats |= {f"{name}/en": iteration for name in measured}
                stats |= {name: iteration for name in measured}
            logger = JsonLinesLogger(log)
            logger.log_stats({"iteration": iteration}, train_stats=stats)
            dev = {"loss": 2.0, "loss/en": 1.0 + place, "loss_at_phi/en": 0.0}
            train = {"loss": 2.0}  # over all domains
            logger.log_stats({"iteration": iteration}, train, dev)
        with open(log, "a") as file:
            file.write('{"iteration": 30, "tr')  # another process is writing it
        os.utime(log, (place, place))
    figure = plot_phases(tmp_path, tmp_path / "phases.png")
    assert matplotlib.image.imread(tmp_path / "phases.png").shape[2] == 4
    assert not logging.getLogger("matplotlib.font_manager").isEnabledFor(logging.INFO)
    axes, curves = drawn(figure)
    assert [axes[0, i].get_title() for i in (0, 1)] == ["CSSL.1", "A-later.1"]
    assert curves[0, 0] == {d: [[10, 5.0], [20, 6.0]] for d in ("en", "fr")}
    assert curves[0, 1] == {d: [[10, 4.0], [20, 5.0]] for d in ("en", "fr")}
    assert curves[1, 0] == {"en": [[10, 1.0], [20, 1.0]]}
    assert curves[1, 1] == {"en": [[10, 2.0], [20, 2.0]]}
    assert curves[2, 1] == {d: [[10, 1.3], [20, 2.3]] for d in ("en", "fr")}
    assert curves[3, 1] == curves[4, 1] == {"en": [[10, 10], [20, 20]]}
    assert axes[0, 0].get_ylim() == axes[0, 1].get_ylim()  # panels of a row compare
    # CSSL has losses only.
    assert {*axes} == {(0, 0), (1, 0), *((row, 1) for row in range(5))}
    labelled = {place for place, axis in axes.items() if axis.get_xlabel()}
    assert labelled == {(1, 0), (4, 1)}


def test_no_phase_has_an_entry(tmp_path):
    """They were shorter than an interval, and not validated."""
    (tmp_path / "CSSL.1").mkdir()
    assert plot_phases(tmp_path, tmp_path / "phases.png") is None
    assert not (tmp_path / "phases.png").exists()


def test_finetuning(tmp_path):
    logger = JsonLinesLogger(tmp_path / "log.jsonl")
    logger.log_stats({"iteration": 5}, {"loss/it": 90.0, "unspellable/it": 0.0})
    dev = {"loss": 70.0, "loss/it": 70.0, "CER": 40.0, "WER": 80.0}
    dev |= {"CER/it": 40.0, "WER/it": 80.0}
    logger.log_stats({"iteration": 6}, {"loss": 85.0}, dev)
    figure = plot_finetuning(tmp_path, tmp_path / "curves.png")
    assert matplotlib.image.imread(tmp_path / "curves.png").shape[2] == 4
    axes, curves = drawn(figure)
    values = [[5, 90.0]], [[6, 70.0]], [[6, 40.0]], [[6, 80.0]]
    assert [*curves.values()] == [{"it": points} for points in values]
    assert axes[0, 0].get_title() == tmp_path.name


def test_a_log_without_figures_gives_empty_panels(tmp_path):
    """A phase that is shorter than an interval, and losses that are not finite."""
    logger = JsonLinesLogger(tmp_path / "log.jsonl")
    nothing = {"loss/it": float("nan"), "CER/it": float("inf")}
    logger.log_stats({"iteration": 6}, {"loss": 85.0}, nothing)
    plot_finetuning(tmp_path, tmp_path / "curves.png")
    assert matplotlib.image.imread(tmp_path / "curves.png").shape[2] == 4


def test_a_figure_that_no_phase_has_gets_no_row(tmp_path):
    (tmp_path / "CSSL.1").mkdir()
    logger = JsonLinesLogger(tmp_path / "CSSL.1/log.jsonl")
    logger.log_stats({"iteration": 6}, {"loss": 5.0}, {"loss/en": 4.0})
    figure = plot_phases(tmp_path, tmp_path / "phases.png")
    axes, curves = drawn(figure)
    assert curves[0, 0] == {"en": [[6, 4.0]]}
    assert axes[0, 0].get_ylabel() == "dev loss at θ (nats)"

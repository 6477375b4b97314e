"""The report's pictures, as SVG text that stands in the page itself."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from regraft.versions import Metric
from training.calibrate import bins
from training.progress import Point

INK, QUIET, BLUE, ORANGE = "#1f2933", "#9aa5b1", "#2563a8", "#c2571a"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "regraft",
}


def learning_curves(curve: Sequence[Point], best_step: int) -> str:
    """Loss, accuracy and macro F1 of both parts over the batches, on scales that are shared between them."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _curve(left, curve, "loss")
        _curve(middle, curve, "accuracy")
        _curve(right, curve, "macro_f1")
        for axes in (middle, right):
            axes.set_ylim(0, 1)
        for axes in (left, middle, right):
            axes.axvline(best_step, color=QUIET, linewidth=0.8, linestyle=":")
        left.legend(frameon=False)
        return _svg(figure)


def gradient_norms(curve: Sequence[Point]) -> str:
    """How hard each layer group is pulled at, over the batches; the head first."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.6), layout="constrained")
        axes = figure.subplots()
        groups = list(dict.fromkeys(group for point in curve for group in point.gradient_norms))
        shades = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, len(groups)))
        for group, shade in zip(groups, shades, strict=True):
            points = [(point.step, point.gradient_norms.get(group, np.nan)) for point in curve]
            axes.plot(*np.array(points).T, color=shade, linewidth=1.4, marker=".", label=group)
        axes.set(xlabel="batches", ylabel="gradient norm", yscale="log")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure)


def confusion(counts: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Rows are the truth; the shade is the share of the row."""
    with mpl.rc_context(STYLE):
        size = max(3.2, 0.55 * len(labels) + 1.6)
        figure = Figure(figsize=(size + 0.6, size), layout="constrained")
        axes = figure.subplots()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=45 if len(labels) > 4 else 0)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="answered", ylabel="truth")
        axes.spines[:].set_visible(False)
        if len(labels) <= 20:
            for (row, column), count in np.ndenumerate(counts):
                color = "white" if shares[row, column] > 0.5 else INK
                axes.text(column, row, str(count), ha="center", va="center", color=color)
        return _svg(figure)


def reliability(before: NDArray[np.floating], after: NDArray[np.floating], truth: NDArray[np.int64]) -> str:
    """Accuracy against confidence, before and after the temperature; on the diagonal confidence means what it says."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for probabilities, name, color in ((before, "before", QUIET), (after, "after", BLUE)):
            confidence, accuracy, share = np.array(bins(probabilities, truth)).T
            axes.plot(confidence, accuracy, color=color, linewidth=1, label=name)
            axes.scatter(confidence, accuracy, s=12 + 220 * share, color=color, alpha=0.7, linewidth=0)
        low = min(0.9, 1 / before.shape[1])
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.02), ylim=(0, 1.02))
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)


def intervals(rows: Sequence[tuple[str, Metric]]) -> str:
    """One line a model: its value and the 95% interval."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9, 0.36 * len(rows) + 0.7), layout="constrained")
        axes = figure.subplots()
        for place, (_, metric) in enumerate(reversed(rows)):
            color = BLUE if place == len(rows) - 1 else QUIET
            axes.plot([metric.low, metric.high], [place, place], color=color, linewidth=2)
            axes.plot(metric.value, place, "o", color=color, markersize=6)
        axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
        axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4))
        axes.grid(axis="x", color="#e4e7eb", linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        return _svg(figure)


def _curve(axes: Axes, curve: Sequence[Point], metric: str) -> None:
    steps = [point.step for point in curve]
    for part, color in (("train", QUIET), ("validation", BLUE)):
        values = [getattr(point, f"{part}_{metric}") for point in curve]
        axes.plot(steps, values, color=color, linewidth=1.4, marker=".", label="training" if part == "train" else part)
    axes.set(title=metric.replace("_", " ").replace("f1", "F1"), xlabel="batches")


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)

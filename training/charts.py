"""The report's curves, as SVG text that stands in the page itself."""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from regraft.versions import Manifest
from training.calibrate import Bin, Calibrated
from training.robustness import Curve
from training.scratch import Scratch

INK, QUIET, LINE, BLUE = "#1f2933", "#9aa5b1", "#e4e7eb", "#2563a8"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "regraft",
}


def learning(curve: Sequence[Mapping[str, Any]], best_step: int) -> str:
    """Loss, accuracy and macro F1 of both parts over the batches, on scales that are shared between them."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, metric in zip(panels, ("loss", "accuracy", "macro_f1"), strict=True):
            for part, color in (("train", QUIET), ("validation", BLUE)):
                values = [point[f"{part}_{metric}"] for point in curve]
                label = "training" if part == "train" else part
                axes.plot([point["step"] for point in curve], values, color=color, marker=".", label=label)
            axes.axvline(best_step, color=QUIET, linewidth=0.8, linestyle=":")
            axes.set_title(metric.replace("_", " ").replace("f1", "F1"), fontsize=9, loc="left")
            axes.set(xlabel="batches", ylim=(0, 1 if metric != "loss" else None))
        panels[0].legend(frameon=False)
        last = curve[-1]
        return _svg(figure, f"Learning curves over {last['step']} batches; the best point is at batch {best_step}.")


def race(curve: Sequence[Mapping[str, Any]], scratch: Scratch, manifest: Manifest) -> str:
    """Quality over seconds of training: fine-tuned, its frozen layers run first, and from scratch."""
    first = manifest.training["seconds"].get("run the frozen layers", 0.0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.subplots()
        tuned = [(first + point["seconds"], point["validation_macro_f1"]) for point in curve]
        axes.plot(*np.array(tuned).T, color=BLUE, marker=".", label="fine-tuned")
        tried = [(moment.seconds, moment.macro_f1) for moment in scratch.moments]
        axes.plot(*np.array(tried).T, color=QUIET, marker=".", label="from scratch")
        axes.set(xlabel="seconds", ylim=(0, 1), xlim=(0, None))
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure, f"From scratch: at best {scratch.best.macro_f1:.3f} after {scratch.best.seconds:.0f} s.")


def gradients(curve: Sequence[Mapping[str, Any]]) -> str:
    """How hard each layer group is pulled at, over the batches; the head first."""
    groups = list(dict.fromkeys(group for point in curve for group in point["gradient_norms"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.4), layout="constrained")
        axes = figure.subplots()
        shades = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, len(groups)))
        for group, shade in zip(groups, shades, strict=True):
            points = [(point["step"], point["gradient_norms"].get(group, np.nan)) for point in curve]
            axes.plot(*np.array(points).T, color=shade, linewidth=1.4, marker=".", label=group)
        axes.set(xlabel="batches", yscale="log")
        axes.set_title("gradient norm", fontsize=9, loc="left")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        last = ", ".join(f"{group} {norm:.2g}" for group, norm in curve[-1]["gradient_norms"].items())
        return _svg(figure, f"Gradient norm of each layer group over the batches; at the last point: {last}.")


def reliability(measured: Calibrated, labels: int) -> str:
    """Accuracy against confidence, before and after the temperature; on the diagonal confidence means what it says."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        _bins(axes, measured.bins_before, "before", QUIET)
        _bins(axes, measured.bins_after, "after", BLUE)
        low = min(0.9, 1 / labels)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.02), ylim=(0, 1.02))
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure, f"Accuracy against confidence; the mean gap is {measured.ece_after:.3f}.")


def robustness(curves: Sequence[Curve]) -> str:
    """Accuracy against severity, one panel a change, with 95% intervals."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axes, curve in zip(panels, curves, strict=True):
            places = np.arange(len(curve.points))
            for metric, color in (("macro_f1", QUIET), ("accuracy", BLUE)):
                figures = [getattr(point, metric) for point in curve.points]
                axes.fill_between(
                    places, [f.low for f in figures], [f.high for f in figures], color=color, alpha=0.12, linewidth=0
                )
                label = metric.replace("_f1", " F1")
                axes.plot(places, [f.value for f in figures], color=color, marker="o", markersize=4, label=label)
            names = [point.severity.replace(" of ", "\nof ").replace("first ", "first\n") for point in curve.points]
            axes.set_xticks(places, [name.replace("as it is", "as\nit is") for name in names], fontsize=8)
            axes.set_title(curve.change, fontsize=9, loc="left")
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panels[-1].legend(frameon=False, loc="lower left")
        worst = "; ".join(f"{one.change}: {one.points[-1].accuracy.value:.0%} at the most severe" for one in curves)
        return _svg(figure, f"Accuracy and macro F1 on changed inputs. {worst}.")


def _bins(axes: Axes, bins: Sequence[Bin], name: str, color: str) -> None:
    confidence, accuracy, share = np.array(bins).T
    axes.plot(confidence, accuracy, color=color, linewidth=1, label=name)
    axes.scatter(confidence, accuracy, s=12 + 220 * share, color=color, alpha=0.7, linewidth=0)


def _svg(figure: Figure, said: str) -> str:
    """`said` is what a reader who sees no pictures is told."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    return svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(said)}"', 1)

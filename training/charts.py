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

from regraft.answers import FIGURES, LESS_IS_BETTER, number, written
from regraft.versions import Manifest
from training.calibrate import Bin, Calibrated
from training.intervals import Held
from training.robustness import Curve
from training.summary import reached_by
from training.whole import Course

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


def learning(curve: Sequence[Mapping[str, Any]], best_step: int, figures: Sequence[str]) -> str:
    """The loss and the `figures` of both parts over the batches, on scales that are shared between them."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, metric in zip(panels, ("loss", *figures), strict=True):
            for part, color in (("train", QUIET), ("validation", BLUE)):
                values = [point[f"{part}_{metric}"] for point in curve]
                label = "training" if part == "train" else part
                axes.plot([point["step"] for point in curve], values, color=color, marker=".", label=label)
            axes.axvline(best_step, color=QUIET, linewidth=0.8, linestyle=":")
            axes.set_title(FIGURES.get(metric, metric), fontsize=9, loc="left")
            axes.set(xlabel="batches", ylim=_scale(metric))
        panels[0].legend(frameon=False)
        last = curve[-1]
        return _svg(figure, f"Learning curves over {last['step']} batches; the best point is at batch {best_step}.")


def race(curve: Sequence[Mapping[str, Any]], scratch: Course, manifest: Manifest) -> str:
    """Quality over seconds of training: fine-tuned, its frozen layers run first, and from scratch."""
    first = manifest.training["seconds"].get("run the frozen layers", 0.0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.subplots()
        sign = -1 if manifest.answers.judged in LESS_IS_BETTER else 1
        tuned = [(first + point["seconds"], sign * reached_by(point)) for point in curve]
        axes.plot(*np.array(tuned).T, color=BLUE, marker=".", label="fine-tuned")
        tried = [(moment.seconds, sign * moment.reached) for moment in scratch.moments]
        axes.plot(*np.array(tried).T, color=QUIET, marker=".", label="from scratch")
        axes.set(xlabel="seconds", ylim=_scale(manifest.answers.judged), xlim=(0, None))
        axes.legend(frameon=False, loc="best")
        best = written(sign * scratch.best.reached, manifest.answers.judged)
        return _svg(figure, f"From scratch: at best {best} after {scratch.best.seconds:.0f} s.")


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
    """The first figure, and the second where it has the same scale, against severity, one panel a change, with 95%
    intervals."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        first, *others = curves[0].points[0].figures
        names = [first, *(name for name in others if _scale(name) == _scale(first))]
        for axes, curve in zip(panels, curves, strict=True):
            places = np.arange(len(curve.points))
            for metric in reversed(names):
                color = BLUE if metric == first else QUIET
                figures = [point.figures[metric] for point in curve.points]
                axes.fill_between(
                    places, [f.low for f in figures], [f.high for f in figures], color=color, alpha=0.12, linewidth=0
                )
                values = [f.value for f in figures]
                axes.plot(places, values, color=color, marker="o", markersize=4, label=FIGURES[metric])
            axes.set_xticks(places, [_short(point.severity) for point in curve.points], fontsize=8)
            axes.set_title(curve.change, fontsize=9, loc="left")
            axes.set_ylim(*_scale(first))
            if _scale(first)[1] == 1:
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panels[-1].legend(frameon=False, loc="lower left")
        drawn = " and ".join(FIGURES[name] for name in names)
        worst = "; ".join(
            f"{one.change}: {written(one.points[-1].figures[first].value, first)} at the most severe" for one in curves
        )
        return _svg(figure, f"{drawn} on changed inputs. {worst}.")


def scatter(pairs: Sequence[tuple[float, float]], mae: float) -> str:
    """Truth against answer, and how far answers are off, on either side."""
    truth, answers = np.array(pairs).T
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
        ends = (min(truth.min(), answers.min()), max(truth.max(), answers.max()))
        left.plot(ends, ends, color=QUIET, linewidth=0.8, linestyle=":")
        left.scatter(truth, answers, s=9, color=BLUE, alpha=0.45, linewidth=0)
        left.set(xlabel="truth", ylabel="answer")
        left.set_title("on the dotted line the answer is the truth", fontsize=9, loc="left")
        off = answers - truth
        right.hist(off, bins=min(40, max(10, len(off) // 10)), color=BLUE, alpha=0.7)
        right.axvline(0, color=QUIET, linewidth=0.8, linestyle=":")
        right.set(xlabel="answer minus truth", ylabel="rows")
        said = f"off by {number(mae)} on average, {number(off.mean(), '+')} with its sign"
        right.set_title(said, fontsize=9, loc="left")
        return _svg(figure, f"{len(off)} test rows: answers against truths, and their differences.")


def widths(held: Held) -> str:
    """Whether wide intervals go with large errors: both, over rows of like width."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 3.0), layout="constrained")
        axes = figure.subplots()
        half, error = [one.half for one in held.bins], [one.error for one in held.bins]
        axes.plot(half, error, color=BLUE, marker="o", linewidth=1)
        axes.set(xlabel="half the interval", ylabel="mean absolute error", ylim=(0, None))
        ends = f"{number(error[0])} to {number(error[-1])}"
        return _svg(figure, f"From the narrowest to the widest fifth the mean error goes {ends}.")


def _scale(figure: str) -> tuple[float | None, float | None]:
    """Shares from 0 to 1; errors and losses from 0; what is explained may be less than nothing."""
    return {"accuracy": (0, 1), "macro_f1": (0, 1), "r2": (None, 1)}.get(figure, (0, None))


def _short(severity: str) -> str:
    """Its number, as the table beside says of what; "all lower" has none, and room."""
    found = re.search(r"\d+%?", severity)
    return found[0] if found else severity.replace("as it is", "as\nit is")


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

"""One page that says how good a version is, against what, at what cost, and where it fails; readable offline.

a version's folder (proof.json, data_card.json, comparison.json of a candidate) and manifest -> words, tables, curves
-> templates/ -> HTML without a single link to elsewhere
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import AliasChoices, BaseModel, Field

from regraft.answers import FIGURES, LESS_IS_BETTER, number, written
from regraft.versions import Manifest, Metric
from training import charts, summary
from training.beside import Beside
from training.proof import Proof
from training.slices import Slice
from training.value import Worth
from training.wording import tested, wording_of

REPORT, COMPARISON = "report.html", "comparison.json"
MOST_LABELS = 20  # that a confusion matrix is shown of; above, its largest cells
MOST_CONFUSIONS = 20


class Compared(BaseModel):
    """A candidate and production on the same rows."""

    rows: int
    candidate: float = Field(validation_alias=AliasChoices("candidate", "candidate_accuracy"))
    production: float = Field(validation_alias=AliasChoices("production", "production_accuracy"))
    difference: dict[str, Metric]  # above 0 the candidate is better
    worth: Worth | None = None


class Comparison(BaseModel):
    """Why a candidate got its A/B test."""

    compared_with: str
    original_test: Compared
    newest: Compared


def write(folder: Path, manifest: Manifest, comparison: dict[str, Any] | None = None) -> None:
    """Put the report of the version in `folder` there; `comparison` with production, where there is one, too."""
    if comparison is not None:
        (folder / COMPARISON).write_text(json.dumps(comparison, indent=1), encoding="utf-8")
    (folder / REPORT).write_text(render(folder, manifest), encoding="utf-8")


def render(folder: Path, manifest: Manifest, beside: Beside | None = None) -> str:
    """The page of the version in `folder`, another one set beside it. Raises VersionRefused for one without proof."""
    proof = Proof.load(folder)
    card = json.loads((folder / "data_card.json").read_text())
    file, figures = folder / COMPARISON, manifest.answers.figures
    comparison = Comparison.model_validate_json(file.read_bytes()) if file.is_file() else None
    shown = {
        "manifest": manifest,
        "proof": proof,
        "card": card,
        "figures": figures,
        "names": FIGURES,
        "scales": scales(figures[0], drawn(manifest, proof, comparison, beside)),
        "gained": wording_of(manifest.answers).gained,
        "comparison": comparison,
        "beside": beside,
        "steps": summary.steps(manifest),
        "machinery": summary.machinery(manifest),
        "saved": summary.saved(manifest, proof),
        "stages": summary.on_stages(manifest, proof),
        "race": charts.race(proof.curve, proof.scratch, manifest) if proof.scratch else None,
        "verdict": " ".join(summary.verdict(manifest, proof)),
        "advice": summary.advice(manifest, proof, card),
        "compared": [("this version", manifest.test), *manifest.baselines.items()],
        "slices": by_condition(proof.slices),
        "learning": charts.learning(proof.curve, manifest.training["best_step"], figures),
        "gradients": charts.gradients(proof.curve),
        "robustness": charts.robustness(proof.robustness),
    }
    kind = of_numbers if manifest.kind == "regression" else of_labels
    return _environment().get_template(f"{manifest.kind}.html.jinja").render(**shown, **kind(manifest, proof))


def of_labels(manifest: Manifest, proof: Proof) -> dict[str, Any]:
    """What only a classification shows."""
    assert proof.calibration is not None
    known = tested(manifest.labels, proof)
    return {
        "labels": manifest.labels,
        "most_labels": MOST_LABELS,
        "worst_labels": sorted(manifest.labels, key=lambda one: (one not in known, manifest.test[f"f1/{one}"].value)),
        "confusions": largest_confusions(proof.confusion, manifest.labels),
        "reliability": charts.reliability(proof.calibration, len(manifest.labels)),
    }


def of_numbers(manifest: Manifest, proof: Proof) -> dict[str, Any]:
    """What only a regression shows."""
    assert proof.intervals is not None
    return {
        "scatter": charts.scatter(proof.pairs, manifest.test["mae"].value),
        "widths": charts.widths(proof.intervals) if proof.intervals.adaptive else None,
    }


def scales(figure: str, shown: Iterable[Metric]) -> dict[str, tuple[float, float]]:
    """What `figure`, and differences in it, are drawn from and to, so that all that is `shown` has room."""
    if figure not in LESS_IS_BETTER:
        return {"figure": (0, 1), "gain": (-0.5, 0.5)}
    most = max(max(one.high, -one.low) for one in shown)
    return {"figure": (0, most), "gain": (-most, most)}


def drawn(manifest: Manifest, proof: Proof, comparison: Comparison | None, beside: Beside | None) -> Iterator[Metric]:
    """The first figure wherever the page draws it, and differences in it."""
    figure = manifest.answers.figures[0]
    yield from (metrics[figure] for metrics in (manifest.test, *manifest.baselines.values()))
    yield from (one.figure for one in proof.slices)
    if comparison:
        yield from (one.difference[figure] for one in (comparison.original_test, comparison.newest))
    if beside and beside.gains:
        yield beside.gains[figure]


def by_condition(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """Conditions with a failing slice first."""
    found: dict[str, list[Slice]] = {}
    for one in slices:
        found.setdefault(one.condition, []).append(one)
    return dict(sorted(found.items(), key=lambda item: not any(one.fails for one in item[1])))


def largest_confusions(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """(truth, answer, rows, share of the truth's rows), most rows first."""
    found = [
        (labels[true], labels[answer], count, count / sum(row))
        for true, row in enumerate(confusion)
        for answer, count in enumerate(row)
        if count and answer != true
    ]
    return sorted(found, key=lambda one: -one[2])[:MOST_CONFUSIONS]


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size,
        "money": summary.money,
        "duration": summary.duration,
        "number": number,
        "written": written,
    }
    return environment

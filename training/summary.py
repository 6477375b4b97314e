"""A version in plain words: what it does, how good it is, against what, at what cost; and what to do next.

manifest, proof -> sentences
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from regraft.versions import Manifest, Metric
from training.proof import Proof
from training.slices import Slice

SCRATCH = "train from scratch"  # the step that is not part of making a version
TRANSFER_BELOW = 50_000  # labels: starting from a pre-trained network is the right choice
SCRATCH_ABOVE = 1_000_000  # labels: training from scratch is worth a trial
FRAGILE = 0.05  # accuracy that mild changes of the input may cost without a word
SLOW_MS = 100.0  # of one answer on one processor thread: above it a GPU is worth a thought
FEW_TEST_ROWS = 0.05  # half the width of accuracy's interval, above which a larger test part is asked for


def verdict(manifest: Manifest, proof: Proof) -> list[str]:
    """What a reader who stops after one paragraph should know."""
    accuracy, rows = manifest.test["accuracy"], manifest.training["rows"]["test"]
    said = [
        f"This version sorts {manifest.input}s into {_listed(manifest.labels)}.",
        (
            f"Of {rows:,} it had never seen it got {percent(accuracy)} right"
            f" (with 95% confidence between {accuracy.low:.1%} and {accuracy.high:.1%})."
        ),
        _against(manifest),
        _weakest(manifest, proof),
    ]
    said += [_failure(one) for one in sorted(failing(proof), key=lambda one: one.p_value)[:2]]
    if proof.worth:
        said += [_worth(proof)]
    said.append(_cost(manifest, proof))
    return said


def advice(manifest: Manifest, proof: Proof, card: Mapping[str, Any]) -> list[str]:
    """What would make the next version better, the most telling first."""
    return [
        *(f"Label more {manifest.input}s like these: {_where(one)}. {_failure(one)}" for one in failing(proof)),
        *(f"In training: {finding['advice']}." for finding in manifest.training["findings"]),
        *_on_baselines(manifest),
        *_on_labels(manifest, card),
        *_on_robustness(proof),
        *_on_calibration(proof),
        *_on_test_rows(manifest),
        *_on_scratch(manifest, proof),
        _transfer(sum(manifest.training["rows"].values())),
    ]


def failing(proof: Proof) -> list[Slice]:
    return [one for one in proof.slices if one.fails]


def best_baseline(manifest: Manifest) -> tuple[str, dict[str, Metric]]:
    return max(manifest.baselines.items(), key=lambda one: one[1]["accuracy"].value)


def percent(metric: Metric) -> str:
    return f"{metric.value:.1%}"


def points(metric: Metric, sign: str = "+") -> str:
    """A difference of shares, in percentage points with its interval."""
    value, low, high = (f"{100 * figure:{sign}.1f}" for figure in (metric.value, metric.low, metric.high))
    return f"{value} points ({low} to {high})"


def money(amount: float, currency: str) -> str:
    digits = 0 if abs(amount) >= 100 else 2
    return f"{amount:,.{digits}f} {currency}".strip()


def _against(manifest: Manifest) -> str:
    name, metrics = best_baseline(manifest)
    gain = metrics["gain/accuracy"]
    if gain.low > 0:
        return (
            f"The best of the simpler alternatives ({name}) gets {percent(metrics['accuracy'])}, so that"
            f" {points(gain, sign='')} are gained."
        )
    if gain.high < 0:
        return f"A simpler alternative ({name}) is better: {percent(metrics['accuracy'])}."
    return (
        f"That is not clearly more than what a simpler alternative ({name}) gets, {percent(metrics['accuracy'])}:"
        f" the difference is {points(gain)}."
    )


def _weakest(manifest: Manifest, proof: Proof) -> str:
    labels = manifest.labels
    label = min(labels, key=lambda one: manifest.test[f"f1/{one}"].value)
    place, recall = labels.index(label), manifest.test[f"recall/{label}"].value
    wrong = [0 if other == place else count for other, count in enumerate(proof.confusion[place])]
    said = f"It is weakest at {label}, of which it finds {recall:.0%}"
    if not any(wrong):
        return said + "."
    taken = labels[wrong.index(max(wrong))]
    return f"{said}; {max(wrong) / sum(proof.confusion[place]):.0%} it takes for {taken}."


def _failure(one: Slice) -> str:
    return (
        f"Where {_where(one)} it is clearly worse than elsewhere: {one.accuracy.value:.0%} right"
        f" instead of {one.elsewhere:.0%}."
    )


def _where(one: Slice) -> str:
    return f"{one.condition} is {one.value}"


def _worth(proof: Proof) -> str:
    assert proof.worth is not None
    worth = proof.worth
    name, saving = min(worth.savings.items(), key=lambda one: one[1].value)
    low, high = (money(amount, worth.currency) for amount in (saving.low, saving.high))
    return (
        f"At {worth.volume:,} predictions a month its errors cost {money(worth.cost.value, worth.currency)};"
        f" {name} would cost {money(saving.value, worth.currency)} more ({low} to {high})."
    )


def _cost(manifest: Manifest, proof: Proof) -> str:
    seconds, serves = sum(steps(manifest).values()), manifest.serve_cpu
    footprint, size = proof.footprints[serves], manifest.artifacts[serves].measured["bytes"]
    gpu = "no GPU is needed" if footprint.p50_ms < SLOW_MS else "a GPU may be worth its price"
    return (
        f"It was made in {duration(seconds)} on {manifest.training['threads']} processor threads, weighs"
        f" {size / 1e6:.0f} MB and answers in {footprint.p50_ms:.1f} ms on one thread: {gpu}."
    )


def steps(manifest: Manifest) -> dict[str, float]:
    """Seconds of each step that it takes to make a version."""
    return {name: seconds for name, seconds in manifest.training["seconds"].items() if name != SCRATCH}


class Saved(NamedTuple):
    """Time until fine-tuning was as good on validation as the best from scratch; None where it never was."""

    transfer: float | None
    scratch: float

    @property
    def share(self) -> float | None:
        return None if self.transfer is None else 1 - self.transfer / self.scratch


def saved(manifest: Manifest, proof: Proof) -> Saved | None:
    """None where nothing was trained from scratch. Running the frozen layers counts, as if all of it came first."""
    if proof.scratch is None:
        return None
    best, first = proof.scratch.best, manifest.training["seconds"].get("run the frozen layers", 0.0)
    reached = (point["seconds"] for point in proof.curve if point["validation_macro_f1"] >= best.macro_f1)
    soonest = next(reached, None)
    return Saved(None if soonest is None else first + soonest, best.seconds)


def _on_scratch(manifest: Manifest, proof: Proof) -> Iterator[str]:
    found = saved(manifest, proof)
    if found and found.transfer is None:
        yield "From scratch the same network got better on validation than fine-tuned: consider it."
    elif found and found.share is not None and found.transfer is not None and found.share > 0:
        yield (
            f"The pre-trained start saved {found.share:.0%} of the time: as good as the best from scratch after"
            f" {duration(found.transfer)} instead of {duration(found.scratch)}."
        )


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _on_baselines(manifest: Manifest) -> Iterator[str]:
    for name, metrics in manifest.baselines.items():
        if metrics["gain/accuracy"].low <= 0:
            yield f"It is not clearly better than {name}, which costs far less: ask whether fine-tuning pays here."


def _on_labels(manifest: Manifest, card: Mapping[str, Any]) -> Iterator[str]:
    counts = card["parts"]["train"]["labels"]
    rarest = min(manifest.labels, key=lambda one: counts.get(one, 0))
    weakest = min(manifest.labels, key=lambda one: manifest.test[f"recall/{one}"].value)
    if rarest == weakest:
        yield f"{weakest} is found least and has the fewest rows, {counts.get(weakest, 0)}: more of them help most."


def _on_robustness(proof: Proof) -> Iterator[str]:
    for curve in proof.robustness:
        for point in curve.points[1:]:
            if point.gain.high < 0 and -point.gain.value > FRAGILE:
                yield (
                    f"Under {curve.change} ({point.severity}) it loses {-100 * point.gain.value:.0f} points of"
                    " accuracy: train on such inputs too if they are to be expected."
                )
                break


def _on_calibration(proof: Proof) -> Iterator[str]:
    measured = proof.calibration
    if measured.ece_after > measured.ece_by_chance[1]:
        yield (
            f"Confidence is off by {measured.ece_after:.3f} on average, more than chance explains"
            f" ({measured.ece_by_chance[1]:.3f}): do not act on it without a look at live accuracy."
        )


def _on_test_rows(manifest: Manifest) -> Iterator[str]:
    accuracy, rows = manifest.test["accuracy"], manifest.training["rows"]["test"]
    if (accuracy.high - accuracy.low) / 2 > FEW_TEST_ROWS:
        yield f"{rows} test rows leave accuracy uncertain; four times as many would halve the interval."


def _transfer(labels: int) -> str:
    if labels < TRANSFER_BELOW:
        return (
            f"With {labels:,} labelled rows a pre-trained network is the right start; training from scratch is worth"
            f" a trial above some {SCRATCH_ABOVE:,}."
        )
    if labels <= SCRATCH_ABOVE:
        return f"With {labels:,} labelled rows a pre-trained network is still the cheaper start."
    return f"With {labels:,} labelled rows, train the same network from scratch as well and compare."


def _listed(labels: Sequence[str], most: int = 6) -> str:
    if len(labels) > most:
        return f"{len(labels)} labels, among them {', '.join(labels[: most - 1])}"
    return f"{', '.join(labels[:-1])} and {labels[-1]}"

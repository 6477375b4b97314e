"""A version in plain words: what it does, how good it is, against what, at what cost; and what to do next.

manifest, proof -> sentences
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from regraft.answers import FIGURES
from regraft.versions import Manifest, Metric
from training.proof import Proof
from training.slices import Slice
from training.whole import AT_ONCE, FROM_SCRATCH
from training.wording import failure, in_order, tested, where, wording_of

# Steps that are not part of making a version.
SCRATCH = "train from scratch"
WITHOUT_STAGES = "train all layers at once"
BESIDES = frozenset({SCRATCH, WITHOUT_STAGES})
TRANSFER_BELOW = 50_000  # labels: starting from a pre-trained network is the right choice
SCRATCH_ABOVE = 1_000_000  # labels: training from scratch is worth a trial
RARE = 5  # times rarer than the most frequent label; weights were measured at 7.5 and 9
SLOW_MS = 100.0  # of one answer on one processor thread: above it a GPU is worth a thought


def verdict(manifest: Manifest, proof: Proof) -> list[str]:
    """What a reader who stops after one paragraph should know."""
    words = wording_of(manifest.answers)
    said = [*words.opening(manifest), _against(manifest), words.weakest(manifest, proof)]
    said += [failure(words, one) for one in sorted(failing(proof), key=lambda one: one.p_value)[:2]]
    if proof.worth:
        said += [_worth(proof)]
    said.append(_cost(manifest, proof))
    return said


def advice(manifest: Manifest, proof: Proof, card: Mapping[str, Any]) -> list[str]:
    """What would make the next version better, the most telling first."""
    words = wording_of(manifest.answers)
    return [
        *(f"Label more {manifest.input}s like these: {where(one)}. {failure(words, one)}" for one in failing(proof)),
        *(f"In training: {finding['advice']}." for finding in manifest.training["findings"]),
        *_on_baselines(manifest),
        *_on_labels(manifest, proof, card),
        *_on_robustness(manifest, proof),
        *([said] if (said := words.confidence(proof)) else []),
        *_on_test_rows(manifest),
        *([said] if (said := on_stages(manifest, proof)) else []),
        *_on_scratch(manifest, proof),
        _transfer(sum(manifest.training["rows"].values())),
    ]


def failing(proof: Proof) -> list[Slice]:
    return [one for one in proof.slices if one.fails]


def best_baseline(manifest: Manifest) -> tuple[str, dict[str, Metric]]:
    figure = manifest.answers.figures[0]
    return max(simpler(manifest).items(), key=lambda one: in_order(figure, one[1][figure]))


def simpler(manifest: Manifest) -> dict[str, dict[str, Metric]]:
    """The baselines that cost less than fine-tuning does. Older versions say more after a name."""
    return {name: one for name, one in manifest.baselines.items() if not name.startswith((AT_ONCE, FROM_SCRATCH))}


def money(amount: float, currency: str) -> str:
    digits = 0 if abs(amount) >= 100 else 2
    return f"{amount:,.{digits}f} {currency}".strip()


def _against(manifest: Manifest) -> str:
    words, figure = wording_of(manifest.answers), manifest.answers.figures[0]
    name, metrics = best_baseline(manifest)
    gain, gets = metrics[f"gain/{figure}"], words.gets(metrics[figure])
    if gain.low > 0:
        gained = words.gained(gain, sign="")
        return f"The best of the simpler alternatives ({name}) {gets}, so that {gained} are gained."
    if gain.high < 0:
        return f"A simpler alternative ({name}) is better: it {gets}."
    return (
        f"That is not clearly better than a simpler alternative ({name}), which {gets}:"
        f" the difference is {words.gained(gain)}."
    )


def _worth(proof: Proof) -> str:
    assert proof.worth is not None
    worth = proof.worth
    name, saving = min(worth.savings.items(), key=lambda one: one[1].value)
    ends = (saving.low, saving.high) if saving.value >= 0 else (-saving.high, -saving.low)
    low, high = (money(amount, worth.currency) for amount in ends)
    return (
        f"At {worth.volume:,} predictions a month its errors cost {money(worth.cost.value, worth.currency)};"
        f" {name} would cost {money(abs(saving.value), worth.currency)} {'more' if saving.value >= 0 else 'less'}"
        f" ({low} to {high})."
    )


def _cost(manifest: Manifest, proof: Proof) -> str:
    seconds, serves = sum(steps(manifest).values()), manifest.serve_cpu
    footprint, size = proof.footprints[serves], manifest.artifacts[serves].measured["bytes"]
    gpu = "no GPU is needed" if footprint.p50_ms < SLOW_MS else "a GPU may be worth its price"
    return (
        f"It was made in {duration(seconds)} on {machinery(manifest)}, weighs {size / 1e6:.0f} MB and answers in"
        f" {footprint.p50_ms:.1f} ms on one thread: {gpu}."
    )


def machinery(manifest: Manifest) -> str:
    """What a version was made on. Older manifests know of threads alone."""
    training = manifest.training
    threads = f"{training['threads']} processor threads"
    one = threads if training.get("device", "cpu") == "cpu" else f"a GPU and {threads}"
    return one if (count := training.get("processes", 1)) == 1 else f"{count} processes, each with {one}"


def steps(manifest: Manifest) -> dict[str, float]:
    """Seconds of each step that it takes to make a version."""
    return {name: seconds for name, seconds in manifest.training["seconds"].items() if name not in BESIDES}


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
    soonest = next((point["seconds"] for point in proof.curve if reached_by(point) >= best.reached), None)
    return Saved(None if soonest is None else first + soonest, best.seconds)


def reached_by(point: Mapping[str, Any]) -> float:
    """What a validation was judged by; more is better. Older proofs say it of labels alone, by its name."""
    return float(point["reached"] if "reached" in point else point["validation_macro_f1"])


def on_stages(manifest: Manifest, proof: Proof) -> str | None:
    """Whether it helped to freeze layers and go by stages; None where that was not tried."""
    if proof.at_once is None:
        return None
    words, figure = wording_of(manifest.answers), manifest.answers.figures[0]
    metrics = next(one for name, one in manifest.baselines.items() if name.startswith(AT_ONCE))
    gain, theirs, moments = metrics[f"gain/{figure}"], words.gets(metrics[figure]), proof.at_once.moments
    time = f"for its usual {len(moments)} epochs" if proof.at_once.in_time else "for the same time"
    other = f"with all layers learning at once, {time} ({duration(moments[-1].seconds)}), the network {theirs}"
    if gain.low > 0:
        return f"Stages helped on this data: {other}; they gain {words.gained(gain, '')}."
    if gain.high < 0:
        return (
            f"Stages did harm on this data: {other}; the difference is {words.gained(gain)}. Let more layers learn:"
            " lower training.frozen."
        )
    return f"Whether stages help on this data cannot be told: {other}; the difference is {words.gained(gain)}."


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
    figure = manifest.answers.figures[0]
    for name, metrics in simpler(manifest).items():
        if metrics[f"gain/{figure}"].low <= 0:
            yield f"It is not clearly better than {name}, which costs far less: ask whether fine-tuning pays here."


def _on_labels(manifest: Manifest, proof: Proof, card: Mapping[str, Any]) -> Iterator[str]:
    if not manifest.labels:
        return
    counts = card["parts"]["train"]["labels"]
    rarest = _least({label: counts.get(label, 0) for label in manifest.labels})
    weakest = _least({label: manifest.test[f"recall/{label}"].value for label in tested(manifest.labels, proof)})
    if weakest is not None and weakest == rarest:
        rows = counts.get(weakest, 0)
        equal = manifest.training["settings"].get("label_weights") == "equal"
        weigh = equal and max(counts.values()) >= RARE * rows
        more = "; training.label_weights: root finds more of them, and costs some accuracy" if weigh else ""
        yield f"{weakest} is found least and has the fewest rows, {rows}: more of them help most{more}."


def _least(values: Mapping[str, float]) -> str | None:
    """None where several have the least value."""
    least = [name for name, value in values.items() if value == min(values.values())]
    return least[0] if len(least) == 1 else None


def _on_robustness(manifest: Manifest, proof: Proof) -> Iterator[str]:
    words, figure = wording_of(manifest.answers), manifest.answers.figures[0]
    for curve in proof.robustness:
        clean = curve.points[0].figures[figure]
        for point in curve.points[1:]:
            if words.fragile(point.gain, clean):
                yield (
                    f"Under {curve.change} ({point.severity}) its {FIGURES[figure]} goes from {words.figure(clean)} to"
                    f" {words.figure(point.figures[figure])}: train on such inputs too if they are to be expected."
                )
                break


def _on_test_rows(manifest: Manifest) -> Iterator[str]:
    figure, rows = manifest.answers.figures[0], manifest.training["rows"]["test"]
    if wording_of(manifest.answers).unsure(manifest.test[figure]):
        yield f"{rows} test rows leave the {FIGURES[figure]} uncertain; four times as many would halve the interval."


def _transfer(labels: int) -> str:
    if labels < TRANSFER_BELOW:
        return (
            f"With {labels:,} labelled rows a pre-trained network is the right start; training from scratch is worth"
            f" a trial above some {SCRATCH_ABOVE:,}."
        )
    if labels <= SCRATCH_ABOVE:
        return f"With {labels:,} labelled rows a pre-trained network is still the cheaper start."
    return f"With {labels:,} labelled rows, train the same network from scratch as well and compare."

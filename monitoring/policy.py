"""When a candidate is trained without anybody asking for a particular one. Pure: state in, decision out.

a reason to train (worse than validated, drift, the schedule) -> nothing in the way -> one request
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from monitoring.loop import LoopState
from monitoring.quality import Estimate
from regraft.answers import FIGURES, LESS_IS_BETTER
from regraft.sections import Retraining


class ReasonCode(StrEnum):
    """What may set off retraining; also the label of a metric, hence few."""

    FLOOR = "quality_floor"
    DROP = "quality_drop"
    DRIFT = "drift"
    SCHEDULE = "schedule"
    FORCED = "forced"


@dataclass(frozen=True)
class Reason:
    code: ReasonCode
    sentence: str


@dataclass(frozen=True)
class Decision:
    """`reasons` to train; `quiet` says of each other trigger why it is none; `waiting_for` is empty when `request`."""

    request: bool
    reasons: tuple[Reason, ...] = ()
    quiet: tuple[str, ...] = ()
    waiting_for: str = ""


@dataclass(frozen=True)
class PolicyState:
    """What the decision rests on. `live` is the audited `figure` (accuracy, or the mean error) of the production
    version since its release, `validation` what it was when the version was made."""

    loop: LoopState
    live: Estimate | None
    validation: float | None
    new_labels: int
    figure: str = "accuracy"


def due(state: PolicyState, rules: Retraining, now: datetime) -> Decision:
    """Whether to ask for a candidate now, and why or why not.

    Accuracy counts as fallen when at least `minimum_audits` are reviewed, the estimate is below what the task allows,
    and the whole interval is below the validation accuracy: the first alone would fire on the noise of few reviews,
    the last alone on falls too small to matter. Looked at again and again, it will train in vain more often than the
    interval's 95% says; that costs a training run and no quality, for a candidate has to prove itself.
    """
    if state.loop.release.production is None:
        return Decision(False, waiting_for="a version in production")
    found = (_quality(state, rules), _drift(state, rules), _schedule(state, rules, now))
    fired = tuple(one for one in found if isinstance(one, Reason))
    silent = tuple(one for one in found if isinstance(one, str))
    waiting = _in_the_way(state, rules, now) if fired else ["a reason to train again"]
    return Decision(not waiting, fired, silent, "; ".join(waiting))


def _quality(state: PolicyState, rules: Retraining) -> Reason | str:
    validated, live, name = state.validation, state.live, FIGURES[state.figure]
    if validated is None or live is None:
        return f"there is no {name} to compare"
    if live.reviewed < rules.minimum_audits:
        return f"{live.reviewed} of the {rules.minimum_audits} reviewed audits that make the {name} known"
    error = state.figure in LESS_IS_BETTER
    said = "{:.3g}" if error else "{:.1%}"
    value, low, high, before = (said.format(one) for one in (live.value, live.low, live.high, validated))
    figures = f"audited {name} {value} ({low} to {high}, {live.reviewed} reviews) against {before} in validation"
    # Of an accuracy, what is left of the validated one; of an error, the validated one as a share of it.
    left, whole = (validated, live.value) if error else (live.value, validated)
    sure = live.low > validated if error else live.high < validated
    under_floor = left < rules.floor * whole
    if not sure or not (under_floor or left <= (1 - rules.drop) * whole):
        return f"{figures}: no {_drop_in_words(rules.drop, error=error)} that is sure to be one"
    if under_floor:
        beyond = f"over {1 / rules.floor:.0%} of it" if error else f"under {rules.floor:.0%} of it"
        return Reason(ReasonCode.FLOOR, f"{figures}: {beyond}")
    if not error:
        return Reason(ReasonCode.DROP, f"{figures}: a fall of {1 - live.value / validated:.1%}")
    rise = f"a rise of {live.value / validated - 1:.1%}" if validated else "a rise from none"
    return Reason(ReasonCode.DROP, f"{figures}: {rise}")


def _drop_in_words(drop: float, *, error: bool) -> str:
    """A rise is of the validated error, of which `drop` is no share: it is one of the live error."""
    if not error:
        return f"fall of {drop:.0%}"
    return f"rise of {1 / (1 - drop) - 1:.1%}" if drop < 1 else "rise without end"


def _drift(state: PolicyState, rules: Retraining) -> Reason | str:
    check, request = state.loop.newest_check, state.loop.last_request
    if not rules.on_drift:
        return "drift sets off no retraining in this task"
    if check is None:
        return "drift of the production version was not checked yet"
    if request and check.at <= request.at:
        return "drift was not checked since the last retraining request"
    if not check.drifted:
        return f"no drift in the {check.rows} newest predictions checked (p = {check.p_value:.3g})"
    columns = ", ".join(sorted(name for name, column in check.columns.items() if column.drifted))
    return Reason(ReasonCode.DRIFT, f"drift in {columns} over {check.rows} predictions (p = {check.p_value:.3g})")


def _schedule(state: PolicyState, rules: Retraining, now: datetime) -> Reason | str:
    request = state.loop.last_request
    since = request.at if request else state.loop.production_since
    if rules.every is None or since is None:
        return "there is no schedule"
    age = now - since
    if age < rules.every:
        return f"the schedule is due in {_in_words(rules.every - age)}"
    return Reason(
        ReasonCode.SCHEDULE,
        f"the last {'request' if request else 'release'} is {_in_words(age)} old; due every {_in_words(rules.every)}",
    )


def in_the_way(loop: LoopState) -> list[str]:
    """What even a person's wish has to wait for: there is one job and one experiment at a time."""
    waiting = []
    if loop.under_way and loop.last_request:
        waiting.append(f"the candidate asked for at {loop.last_request.at:%Y-%m-%d %H:%M} UTC")
    if loop.release.candidate:
        waiting.append(f"the end of the experiment with {loop.release.candidate}")
    return waiting


def _in_the_way(state: PolicyState, rules: Retraining, now: datetime) -> list[str]:
    waiting = in_the_way(state.loop)
    request = state.loop.last_request
    if request and now - request.at < rules.cool_down:
        waiting.append(f"the end of the cool-down in {_in_words(rules.cool_down - (now - request.at))}")
    if state.new_labels < rules.new_labels:
        waiting.append(
            f"{rules.new_labels - state.new_labels} more new labels ({state.new_labels} of {rules.new_labels})"
        )
    return waiting


def _in_words(span: timedelta) -> str:
    seconds = span.total_seconds()
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"

"""Ends the running A/B test when the evidence says so.

release, history -> reviewed disagreements, and subjects on each arm -> verdict -> VerdictReached -> ReleaseChanged
"""

import logging
from dataclasses import asdict
from typing import Any

from regraft import releases
from regraft.answers import Labels
from regraft.errors import Conflict
from regraft.eventlog import EventLog, replay
from regraft.events import NAMED_VERSION, VerdictReached
from regraft.history import History
from regraft.ids import derived_id
from regraft.releases import Release
from regraft.sections import Experiment
from training import verdict
from training.verdict import Outcome

MISMATCH = 1e-3

# Shares may change during an experiment, so that only predictions under the present one say whether it is kept.
# A caller who named the version was on no arm by lot.
_SUBJECTS = """
SELECT count(DISTINCT subject) FILTER (arm = 'production'), count(DISTINCT subject) FILTER (arm = 'candidate')
FROM records WHERE kind = 'prediction_made' AND generation = $generation AND metadata[$named] IS NULL
"""

_log = logging.getLogger(__name__)


def judge(
    log: EventLog, history: History, release: Release, settings: Experiment, error: str = Labels.error
) -> VerdictReached | None:
    """Look once; `error` is that of the task's answers. A verdict is
    1. appended under an id of the release's, so that it is reached once, and
    2. carried out; a verdict that was reached but, the process being killed, not carried out is carried out now.
    """
    if release.production is None or release.candidate is None or not settings.automatic:
        return None
    verdict_id = derived_id(release.change_id, "verdict")
    reached = find(log, verdict_id)
    if reached is None:
        reached = look(history, release, settings, verdict_id, error)
        if reached is None:
            return None
        log.append([reached])  # 1
    promoted = reached.outcome == "promote"
    after = releases.promote(release, release.candidate) if promoted else releases.end_experiment(release)
    try:
        releases.change(log, release, after, who="worker", why=f"{reached.outcome}: {reached.reason}")  # 2
    except Conflict as conflict:
        _log.warning("the verdict came too late: %s", conflict)
        return None
    _log.info("%s %s: %s", reached.outcome, reached.candidate, reached.reason)
    return reached


def look(
    history: History, release: Release, settings: Experiment, verdict_id: str, error: str
) -> VerdictReached | None:
    """The verdict on what is in the history now, or None when it is to wait for more."""
    assert release.production is not None
    assert release.candidate is not None
    assert release.experiment_since is not None
    counts = history.disagreements(release.production, release.candidate, release.experiment_since, error)
    found = verdict.decide(
        **counts._asdict(),
        alpha=settings.alpha,
        cap=settings.cap,
        minimum=min(settings.minimum, settings.cap),
        blocked=_mismatch(history, release),
    )
    _log.debug("experiment of %s: %s %s", release.candidate, found.outcome, found.reason)
    if found.outcome is Outcome.WAIT:
        return None
    evidence: dict[str, Any] = {
        **{name: value for name, value in asdict(found).items() if name not in {"outcome", "reason"}},
        "alpha": settings.alpha,
        "cap": settings.cap,
        "since": release.experiment_since.isoformat(),
        "generation": release.generation,
    }
    return VerdictReached(
        id=verdict_id,
        production=release.production,
        candidate=release.candidate,
        outcome=found.outcome.value,
        reason=found.reason,
        evidence=evidence,
    )


def find(log: EventLog, verdict_id: str) -> VerdictReached | None:
    return next((verdict for verdict in replay(log, VerdictReached) if verdict.id == verdict_id), None)


def _mismatch(history: History, release: Release) -> str | None:
    values = {"generation": release.generation, "named": NAMED_VERSION}
    connection = history.connect()
    try:
        ((production, candidate),) = connection.execute(_SUBJECTS, values).fetchall()
    finally:
        connection.close()
    p_value = verdict.sample_ratio_mismatch(production=production, candidate=candidate, share=release.share)
    if p_value < MISMATCH:  # not so while there are no subjects: then it is nan
        return f"sample-ratio mismatch: {candidate} of {production + candidate} subjects, {release.share:.0%} promised"
    return None

"""One look at everything: how good the versions are, what waits for review, how the experiment stands, what is due."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from monitoring import live, policy
from monitoring.live import VersionQuality
from monitoring.loop import LoopFollower, LoopState
from monitoring.review import ReviewDesk
from regraft.errors import NotFound, VersionRefused
from regraft.eventlog import EventLog
from regraft.events import Arm
from regraft.history import Disagreements, History
from regraft.task import Task
from regraft.versions import VersionStore

LOGGER = logging.getLogger(__name__)

# Reviewed audits that the live accuracy looks back on, in units of what the task needs to call it known.
LOOK_BACK = 4


@dataclass(frozen=True)
class Standing:
    """What a look found; production comes first in `quality`. `disagreements` while there is an experiment."""

    at: datetime | None = None
    loop: LoopState = field(default_factory=LoopState)
    quality: tuple[VersionQuality, ...] = ()
    new_labels: int = 0
    disagreements: Disagreements | None = None
    oldest_unreviewed: datetime | None = None
    decision: policy.Decision = field(default_factory=lambda: policy.Decision(False, waiting_for="a first look"))


class Judge:
    """Belongs to one thread."""

    def __init__(self, log: EventLog, history: History, store: VersionStore, desk: ReviewDesk, task: Task) -> None:
        self._follower = LoopFollower(log)
        self._history = history
        self._store = store
        self._desk = desk
        self._task = task
        self._validation: dict[str, float | None] = {}

    def look(self, now: datetime) -> Standing:
        state = self._follower.refresh()
        with self._history.connect() as connection:
            quality = tuple(
                live.measure(
                    connection,
                    version=version,
                    arm=arm,
                    released=released,
                    now=now,
                    answers=self._task.answers,
                    validation=self._validated(version),
                    newest_reviews=LOOK_BACK * self._task.retraining.minimum_audits,
                )
                for version, arm, released in _on_release(state)
            )
            new_labels = live.new_labels(connection, state.last_request.at if state.last_request else None)
            queue = self._desk.refresh(connection, state.release, now)
        production = quality[0] if quality else None
        known = policy.PolicyState(
            loop=state,
            figure=self._task.answers.figures[0],
            live=production.live if production else None,
            validation=production.validation if production else None,
            new_labels=new_labels,
        )
        decision = policy.due(known, self._task.retraining, now)
        return Standing(now, state, quality, new_labels, self._disagreements(state), queue.oldest, decision)

    def _disagreements(self, state: LoopState) -> Disagreements | None:
        release = state.release
        if release.production is None or release.candidate is None or release.experiment_since is None:
            return None
        error = self._task.answers.error
        return self._history.disagreements(release.production, release.candidate, release.experiment_since, error)

    def _validated(self, version: str) -> float | None:
        """The figure that is watched, as it was on the validation part."""
        figure = self._task.answers.figures[0]
        if version not in self._validation:
            try:
                metric = self._store.manifest(version).validation.get(figure)
            except (NotFound, VersionRefused) as error:
                LOGGER.warning("version %s has no %s of its validation: %s", version, figure, error.message)
                metric = None
            self._validation[version] = metric.value if metric else None  # a version never changes
        return self._validation[version]


def _on_release(state: LoopState) -> Iterator[tuple[str, Arm, datetime]]:
    release = state.release
    if release.production and state.production_since:
        yield release.production, Arm.PRODUCTION, state.production_since
    if release.candidate and release.experiment_since:
        yield release.candidate, Arm.CANDIDATE, release.experiment_since

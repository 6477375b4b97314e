"""How far the circle is: who serves, what was asked for, what came of it; folded from events that are kept for good."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from regraft.eventlog import EventLog
from regraft.events import (
    CandidateRefused,
    CandidateRegistered,
    DriftMeasured,
    Event,
    ReleaseChanged,
    RetrainingRequested,
    VerdictReached,
)
from regraft.ids import derived_id
from regraft.releases import Release

KINDS = (DriftMeasured, RetrainingRequested, CandidateRegistered, CandidateRefused, VerdictReached, ReleaseChanged)
MOST_CHECKS = 500


@dataclass(frozen=True)
class LoopState:
    """`checks` are the newest drift checks, oldest first. `outcome` answers `last_request`, if anything did yet."""

    release: Release = field(default_factory=Release)
    first_change: str | None = None
    production_since: datetime | None = None
    checks: tuple[DriftMeasured, ...] = ()
    last_request: RetrainingRequested | None = None
    outcome: CandidateRegistered | CandidateRefused | None = None
    verdict: VerdictReached | None = None

    def after(self, event: Event) -> "LoopState":
        match event:
            case ReleaseChanged():
                return self._released(self.release.after(event))
            case DriftMeasured():
                return replace(self, checks=(*self.checks[1 - MOST_CHECKS :], event))
            case RetrainingRequested():
                return replace(self, last_request=event, outcome=None)
            case CandidateRegistered() | CandidateRefused() if self.last_request:
                return replace(self, outcome=event) if event.request_id == self.last_request.id else self
            case VerdictReached():
                return replace(self, verdict=event)
        return self

    def _released(self, release: Release) -> "LoopState":
        promoted = release.production != self.release.production
        return replace(
            self,
            release=release,
            first_change=self.first_change or release.change_id or None,
            production_since=release.since if promoted else self.production_since,
        )

    @property
    def under_way(self) -> bool:
        """Whether a candidate was asked for and is neither there nor refused."""
        return self.last_request is not None and self.outcome is None

    @property
    def newest_check(self) -> DriftMeasured | None:
        """The newest drift check of the production version since it was released."""
        for check in reversed(self.checks):
            if check.version == self.release.production and self.production_since:
                return check if check.at >= self.production_since else None
        return None

    def next_request_id(self) -> str:
        """The id of the request after this state: each follows from the one before, so that two monitors that see the
        same state, or one that was restarted, ask for the same job and the log keeps one."""
        parent = self.last_request.id if self.last_request else self.first_change
        if parent is None:
            raise LookupError("nothing was ever released, so there is nothing to train again")
        return derived_id(parent, "retraining")


class LoopFollower:
    """The state as of the last `refresh`; each refresh reads only what is new. Belongs to one thread."""

    def __init__(self, log: EventLog) -> None:
        self._consumer = log.consumer(kinds=KINDS)
        self.state = LoopState()

    def refresh(self) -> LoopState:
        while records := self._consumer.poll():
            for record in records:
                self.state = self.state.after(record.event)
        return self.state

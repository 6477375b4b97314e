"""Which version stands on which arm with what share: folded from ReleaseChanged events, so that every process agrees.

Each change names the generation it replaces. Of two that replace the same one the log's order decides: the first
counts, the second changes nothing. So there is no lock and no other place where the state is kept.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from regraft.errors import Conflict, InvalidInput, NotReady
from regraft.eventlog import EventLog, replay
from regraft.events import ReleaseChanged


@dataclass(frozen=True)
class Release:
    """`generation` counts changes from 0 (nothing released). `previous` is what a rollback would bring back."""

    generation: int = 0
    production: str | None = None
    candidate: str | None = None
    share: float = 0.0
    previous: str | None = None
    since: datetime | None = None
    experiment_since: datetime | None = None
    who: str = ""
    why: str = ""
    change_id: str = ""

    def after(self, change: ReleaseChanged) -> "Release":
        """The release once `change` is taken in; unchanged when the change replaces another generation."""
        if change.replaces != self.generation:
            return self
        promoted = change.production != self.production
        return Release(
            generation=self.generation + 1,
            production=change.production,
            candidate=change.candidate,
            share=change.share if change.candidate else 0.0,
            previous=self.production if promoted else self.previous,
            since=change.at,
            experiment_since=self._experiment_start(change),
            who=change.who,
            why=change.why,
            change_id=change.id,
        )

    def _experiment_start(self, change: ReleaseChanged) -> datetime | None:
        if change.candidate is None:
            return None
        same = (change.production, change.candidate) == (self.production, self.candidate)
        return self.experiment_since if same else change.at

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(version for version in (self.production, self.candidate) if version)


class ReleaseFollower:
    """The release as of the last `refresh`; each refresh reads only what is new."""

    def __init__(self, log: EventLog) -> None:
        self._consumer = log.consumer(kinds=[ReleaseChanged])
        self.release = Release()

    def refresh(self) -> Release:
        while records := self._consumer.poll():
            for record in records:
                if isinstance(record.event, ReleaseChanged):
                    self.release = self.release.after(record.event)
        return self.release


def current(log: EventLog) -> Release:
    return (history(log) or [Release()])[-1]


def history(log: EventLog) -> list[Release]:
    """Every release there was, oldest first: for any past minute, which version served and why."""
    releases = [Release()]
    for change in replay(log, ReleaseChanged):
        after = releases[-1].after(change)
        if after is not releases[-1]:
            releases.append(after)
    return releases[1:]


def start_experiment(release: Release, candidate: str, share: float) -> Release:
    """`candidate` beside production with `share` of the traffic. Also how a share is raised or lowered."""
    production = _production(release)
    if candidate == production:
        raise InvalidInput(f"version {candidate} is already in production")
    if not 0 < share < 1:
        raise InvalidInput("a candidate's share lies between 0 and 1; to give it everything, promote it")
    return replace(release, candidate=candidate, share=share)


def promote(release: Release, version: str) -> Release:
    if version == release.production and release.candidate is None:
        raise InvalidInput(f"version {version} is already in production")
    return replace(release, production=version, candidate=None, share=0.0)


def end_experiment(release: Release) -> Release:
    if release.candidate is None:
        raise InvalidInput("there is no candidate to withdraw")
    return replace(release, candidate=None, share=0.0)


def roll_back(release: Release) -> Release:
    """Without the candidate if there is one, otherwise the production version before this one."""
    if release.candidate is not None:
        return end_experiment(release)
    if release.previous is None:
        raise InvalidInput("there is no earlier version to go back to")
    return replace(release, production=release.previous)


def change(log: EventLog, before: Release, after: Release, *, who: str, why: str) -> Release:
    """Make `after` the release in place of `before`. Raises Conflict when somebody else changed it in between."""
    event = ReleaseChanged(
        replaces=before.generation,
        production=_production(after),
        candidate=after.candidate,
        share=after.share,
        who=who,
        why=why,
    )
    log.append([event])
    releases = history(log)
    if not any(release.change_id == event.id for release in releases):
        generation = releases[-1].generation
        raise Conflict(f"the release changed in between; it is now generation {generation}", generation=generation)
    return releases[-1]


def _production(release: Release) -> str:
    if release.production is None:
        raise NotReady("no version is in production yet; train one, then promote it")
    return release.production

"""Keeps the service on the current release: new versions are loaded beside the running ones, then swapped in at once.

log -> release -> versions loaded, checked, warmed (in a thread) -> one new `Serving` in place of the old. A request
holds the `Serving` it began with until its end, so none can tell that a swap happened. A server that starts while the
log cannot be read begins with the release that this machine served last, says so, and goes on trying.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from regraft.errors import LogUnavailable, NotFound, NotReady, VersionRefused
from regraft.eventlog import EventLog
from regraft.events import Arm
from regraft.releases import Release, ReleaseFollower
from service.memory import Memory
from service.metrics import Metrics
from service.models import Model
from service.router import assign

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0  # before what could not be fetched is tried again


@dataclass(frozen=True)
class Serving:
    """What answers now. Never changed, only replaced."""

    release: Release
    production: Model
    candidate: Model | None

    def arm_for(self, subject: str) -> Arm:
        if self.candidate is None:
            return Arm.PRODUCTION
        return assign(subject, experiment=self.candidate.version, share=self.release.share)

    @property
    def versions(self) -> list[str]:
        """Production first."""
        return [model.version for model in (self.production, self.candidate) if model]

    def arm_of(self, version: str) -> Arm:
        """Raises NotFound for a version that stands on neither arm."""
        if version not in self.versions:
            raise NotFound(f"no version of this name answers now; there is {' and '.join(self.versions)}")
        return Arm.PRODUCTION if version == self.production.version else Arm.CANDIDATE

    def model(self, arm: Arm) -> Model:
        return self.candidate if arm is Arm.CANDIDATE and self.candidate else self.production

    def other(self, arm: Arm) -> Model | None:
        """The model that did not answer, while there are two."""
        return self.candidate if arm is Arm.PRODUCTION else self.production


class Following:
    def __init__(
        self, log: EventLog, load: Callable[[str], Model], metrics: Metrics, memory: Memory, *, poll_seconds: float
    ) -> None:
        self._follower = ReleaseFollower(log)
        self._load = load
        self._metrics = metrics
        self._memory = memory
        self._poll_seconds = poll_seconds
        self._serving: Serving | None = None
        self._models: dict[str, Model] = {}
        self._refused: dict[str, str] = {}
        self._stale: str | None = None
        self._settled = Release()
        self._failed: Release | None = None
        self._retry_at = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="releases")
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self._serving is not None

    @property
    def serving(self) -> Serving:
        """Raises NotReady until a production version is loaded."""
        if self._serving is None:
            refused = "; ".join(self._refused.values())
            raise NotReady(refused or self._stale or "no version is in production yet, or it is still loading")
        return self._serving

    @property
    def release(self) -> Release:
        """The newest release that the log knows of, served already or not."""
        return self._follower.release

    @property
    def stale(self) -> str | None:
        """Why what is served may not be the newest release; None: it is, but for versions that were refused."""
        return self._stale

    @property
    def refused(self) -> dict[str, str]:
        """Versions of the current release that must not serve, and why."""
        return dict(self._refused)

    @property
    def loaded(self) -> list[str]:
        return sorted(self._models)

    async def start(self) -> None:
        """Looks once before it returns, so that a worker takes no requests before it has loaded what there is."""
        await self.refresh()
        self._task = asyncio.create_task(self._poll())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    async def refresh(self) -> None:
        """Takes over the newest release, if it is new and its versions may serve."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._step)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            await self.refresh()

    def _step(self) -> None:
        try:
            release = self._follower.refresh()
        except LogUnavailable as error:
            self._mark(f"the release cannot be read: {error.message}")
            if self._serving is None and (remembered := self._memory.recall()):
                self._try(remembered)
        else:
            self._mark(self._try(release))

    def _mark(self, stale: str | None) -> None:
        if stale and not self._stale:
            logger.warning("what is served may not be the newest release: %s", stale)
        self._stale = stale
        self._metrics.stale.set(stale is not None)

    def _try(self, release: Release) -> str | None:
        """Takes `release` over if it is new; why that could not be done yet."""
        if release.production is None or release == self._settled:
            return None
        if release == self._failed and time.monotonic() < self._retry_at:
            return self._stale
        try:
            self._take_over(release, release.production)
        except Exception as error:
            logger.exception("generation %d cannot be loaded yet", release.generation)
            self._metrics.swaps.labels("failed").inc()
            self._failed, self._retry_at = release, time.monotonic() + RETRY_SECONDS
            return f"generation {release.generation} cannot be loaded yet: {error}"
        return None

    def _take_over(self, release: Release, production: str) -> None:
        self._refused = {}
        new = {version: self._model(version) for version in release.versions}
        self._settled = release
        if self._refused:
            self._metrics.swaps.labels("refused").inc()
        model = new[production]
        if model is None:
            return
        candidate = new.get(release.candidate) if release.candidate else None
        self._serving = Serving(release, model, candidate)
        kept = {release.production, release.candidate, release.previous}  # the way back must not cost a load
        self._models = {version: one for version, one in self._models.items() if version in kept}
        self._metrics.swaps.labels("taken").inc()
        self._metrics.generation.set(release.generation)
        self._metrics.candidate_share.set(release.share if candidate else 0.0)
        self._memory.keep(release)
        logger.info("serving generation %d: %s", release.generation, release)

    def _model(self, version: str) -> Model | None:
        if version not in self._models:
            try:
                self._models[version] = self._load(version)
            except VersionRefused as error:
                logger.error("refused: %s", error.message)  # noqa: TRY400
                self._refused[version] = error.message
                return None
        return self._models[version]

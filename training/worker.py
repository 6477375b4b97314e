"""The retraining worker: trains a candidate for each request, gives it its A/B test, and ends the test by its evidence.

One process, one thread, one thing at a time. Killed anywhere it goes on where it was: data and training from the run's
folder, everything that others see under ids that are derived from the request, so that doing it again changes nothing.
"""

import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from regraft import releases
from regraft.errors import Conflict, DataError, LogUnavailable, RegraftError
from regraft.eventlog import Consumer, EventLog, open_log, replay
from regraft.events import CandidateRefused, CandidateRegistered, RetrainingRequested
from regraft.history import History
from regraft.ids import derived_id
from regraft.inputs import InputStore
from regraft.releases import ReleaseFollower
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import VersionStore
from training import experiment, processes, report, retraining
from training.checkup import remarks
from training.dataset import read_dataset
from training.train import fine_tune, version_folder

Outcome = CandidateRegistered | CandidateRefused

_log = logging.getLogger(__name__)


@dataclass
class Worker:
    task: Task
    settings: Settings
    log: EventLog
    store: VersionStore
    history: History
    requests: Consumer = field(init=False)
    release: ReleaseFollower = field(init=False)

    def __post_init__(self) -> None:
        self.requests = self.log.consumer("worker", kinds=[RetrainingRequested])
        self.release = ReleaseFollower(self.log)

    def work(self) -> bool:
        """Serve the next request, if there is one:
        1. read it,
        2. freeze its data in the run's folder and train, or go on training,
        3. publish the version,
        4. append what came of it: one event, registered or refused, under an id derived from the request's,
        5. give the candidate its share,
        6. commit, and only then forget the run's folder.
        """
        records = self.requests.poll(1)  # 1
        for record in records:
            request = record.event
            assert isinstance(request, RetrainingRequested)
            outcome = self.outcome_of(request) or self.answer(request)  # 2, 3, 4
            if isinstance(outcome, CandidateRegistered):
                self.start_experiment(outcome)  # 5
            self.requests.commit()  # 6
            shutil.rmtree(self.folder(request), ignore_errors=True)
        return bool(records)

    def judge(self) -> None:
        """Look at the running experiment once."""
        error = self.task.answers.error
        experiment.judge(self.log, self.history, self.release.refresh(), self.task.experiment, error)

    def answer(self, request: RetrainingRequested) -> Outcome:
        """Train, compare, publish and say so. Whatever goes wrong in it is a refusal with its reason."""
        _log.info("request %s: %s", request.id, "; ".join(request.reasons))
        try:
            outcome = self.train(request)
        except LogUnavailable:
            raise
        except RegraftError as error:
            _log.exception("request %s failed", request.id)
            outcome = self.refused(request, error.message, {"error": error.code})
        except Exception as error:  # noqa: BLE001 - the worker goes on with the next request
            _log.exception("request %s failed", request.id)
            outcome = self.refused(request, f"training failed: {type(error).__name__}: {error}", {})
        self.log.append([outcome])  # 4
        _log.info("request %s: %s %s", request.id, outcome.kind, getattr(outcome, "reason", ""))
        return self.outcome_of(request) or outcome

    def train(self, request: RetrainingRequested) -> Outcome:
        release, folder = self.release.refresh(), self.folder(request)
        version = derived_id(request.id, "version")[:12]
        if release.production is None:
            return self.refused(request, "nothing is in production that a candidate could be compared with", {})
        if release.candidate is not None and release.candidate != version:
            return self.refused(request, f"an experiment with {release.candidate} is still running", {})
        production = self.store.fetch(release.production), self.store.manifest(release.production)
        material = retraining.frozen(folder / "data.json", lambda: self.material(request, production[0]))
        candidate = fine_tune(
            self.task,
            material.dataset,
            folder,
            version=version,
            request_id=request.id,
            parent=release.production,
            warm=production[0],
            team=processes.join(),
        )
        evidence: dict[str, Any] = retraining.compare_versions(
            self.task, material, (version_folder(folder), candidate), production
        )
        evidence |= {"reviewed": material.dataset.card["reviewed"], "compared_with": release.production}
        report.write(version_folder(folder), candidate, evidence)
        if reason := retraining.objection(evidence, self.task.retraining.forgetting):
            return self.refused(request, reason, evidence)
        self.store.publish(version_folder(folder), candidate)  # 3
        return CandidateRegistered(id=_outcome_id(request), request_id=request.id, version=version, evidence=evidence)

    def material(self, request: RetrainingRequested, production: Path) -> retraining.Material:
        inputs = InputStore(self.settings.inputs) if self.task.input == "image" else None
        reviewed = retraining.reviewed_rows(self.history, request.at, self.task.answers, inputs)
        if not reviewed:
            raise DataError("there are no reviewed predictions to learn from")
        seen = retraining.trained_on(production)
        newest_share, alike = self.task.retraining.newest_share, self.task.data.near_duplicates
        material = retraining.assemble(read_dataset(self.task), reviewed, seen, newest_share, alike)
        said = remarks(self.task, material.dataset.parts, self.settings.history)
        material = material._replace(dataset=material.dataset.with_more(said))
        return retraining.aimed(material, request.target)

    def start_experiment(self, outcome: CandidateRegistered) -> None:
        """Once for each candidate, whoever ended its experiment since."""
        tried = {version for release in releases.history(self.log) for version in release.versions}
        release = self.release.refresh()
        if outcome.version in tried:
            return
        if release.candidate is not None:
            _log.warning("%s waits for a person: an experiment with %s is running", outcome.version, release.candidate)
            return
        after = releases.start_experiment(release, outcome.version, self.task.experiment.share)
        try:
            releases.change(self.log, release, after, who="worker", why=f"retraining {outcome.request_id}")
        except Conflict as conflict:
            _log.warning("%s gets no share: %s", outcome.version, conflict)

    def outcome_of(self, request: RetrainingRequested) -> Outcome | None:
        """What came of `request` before this process was started."""
        outcomes: Iterator[Outcome] = chain(replay(self.log, CandidateRegistered), replay(self.log, CandidateRefused))
        return next((outcome for outcome in outcomes if outcome.id == _outcome_id(request)), None)

    def refused(self, request: RetrainingRequested, reason: str, evidence: dict[str, Any]) -> CandidateRefused:
        return CandidateRefused(id=_outcome_id(request), request_id=request.id, reason=reason, evidence=evidence)

    def folder(self, request: RetrainingRequested) -> Path:
        return self.settings.runs / request.id


def open_worker(settings: Settings) -> Worker:
    task = Task.load(settings.task)
    return Worker(task, settings, open_log(settings.log), VersionStore(settings.versions), History(settings.history))


def run_worker(settings: Settings, stop: threading.Event | None = None) -> None:
    """Until `stop` is set, or a signal ends the process; a run under way is gone on with next time."""
    worker, stop, judged = open_worker(settings), stop or threading.Event(), 0.0
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C would otherwise end the training early and go on with its best so far, as `regraft train` does.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
    _log.info("worker of task %s waits for requests", worker.task.name)
    while not stop.is_set():
        if time.monotonic() - judged >= settings.judge_seconds:
            try:
                worker.judge()
            except Exception:  # noqa: BLE001 - looked at again soon; the requests must not wait for it
                _log.exception("the experiment could not be judged")
            judged = time.monotonic()
        if not worker.work():
            stop.wait(settings.poll_seconds)


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _outcome_id(request: RetrainingRequested) -> str:
    """The same whether the candidate is registered or refused, so that only one of the two can be in the log."""
    return derived_id(request.id, "outcome")

"""The monitor: one process that records, judges, looks for drift and answers reviewers.

log -> recorder -> history -> judge: quality, queue, policy -> metrics, RetrainingRequested
                           -> drift job, a process of its own -> DriftMeasured
reviewers and operators <-> app.py -> ReviewGiven, RetrainingRequested
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

from monitoring import drift_window, policy
from monitoring.drift_window import Reports
from monitoring.jobs import Job
from monitoring.judge import Judge, Standing
from monitoring.loop import LoopFollower, LoopState
from monitoring.metrics import Metrics
from monitoring.recorder import Recorder
from monitoring.review import ReviewDesk
from regraft.errors import Conflict, NotReady, RegraftError
from regraft.eventlog import open_log
from regraft.events import RetrainingRequested
from regraft.history import History
from regraft.inputs import InputStore
from regraft.settings import Settings
from regraft.task import Task
from regraft.versions import VersionStore

LOGGER = logging.getLogger(__name__)

# A drift check that failed is tried again after this long at the latest.
RETRY_SECONDS = 60.0
CHECK_SECONDS = 300.0
FLUSH_SECONDS = 20.0


class DriftCheckFailed(RegraftError):
    """The drift job ended without an answer; its own words are in the monitor's log."""

    code = "drift_check_failed"


class Monitor:
    """Everything but HTTP. Nothing is kept here that the log, the history and the version store do not know."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.task = Task.load(settings.task)
        self.history = History(settings.history)
        self.reports = Reports(settings.history)
        self.metrics = Metrics()
        self.standing = Standing()
        self._log = open_log(settings.log)
        self.desk = ReviewDesk(self._log, self.history, self.task)
        self._judge = Judge(self._log, self.history, VersionStore(settings.versions), self.desk, self.task)
        self.inputs = InputStore(settings.inputs)  # of an image task; empty otherwise
        self._recorder = Recorder(
            self._log,
            self.history,
            seconds=settings.record_seconds,
            pause=settings.poll_seconds,
            retain=timedelta(days=settings.retain_days),
            metrics=self.metrics,
        )
        self._follower = LoopFollower(self._log)  # of the drift job's thread
        self._one_check = threading.Lock()
        self._tried = -RETRY_SECONDS
        self._stop = threading.Event()
        self._jobs: list[Job] = []

    def start(self) -> None:
        judge_seconds = self.settings.judge_seconds
        jobs = (
            ("recorder", self.record, self.settings.poll_seconds, 0.0),
            ("judge", self.judge, judge_seconds, 3.0),
            ("drift", self.check_drift_when_due, min(judge_seconds, self.task.drift.every_seconds), 1.0),
        )
        for name, work, seconds, rest in jobs:
            self._jobs.append(Job(name, work, seconds=seconds, rest=rest, stop=self._stop, metrics=self.metrics))
            self._jobs[-1].start()

    def stop(self) -> None:
        """Let each job end what it is at; the recorder writes what the log still has."""
        self._stop.set()
        deadline = time.monotonic() + FLUSH_SECONDS
        for job in self._jobs:
            job.join(max(0.0, deadline - time.monotonic()))
        self._log.close()

    def record(self) -> None:
        self._recorder.run(self._stop)

    def lag(self) -> int:
        """Events that were in the log and not in the history when the recorder last wrote."""
        return self._recorder.lag

    def judge(self) -> None:
        """Look, show what was found, and ask for a candidate if one is due."""
        self.standing = self._judge.look(datetime.now(UTC))
        self.metrics.show(self.standing, self.desk.counts())
        if self.standing.decision.request:
            self._request(self.standing.loop, self.standing.decision.reasons, who="policy")

    def check_drift_when_due(self) -> None:
        """Check when the last check is `every_seconds` old and there are rows enough for the next."""
        now, rules, state = datetime.now(UTC), self.task.drift, self._follower.refresh()
        if state.production_since is None or time.monotonic() - self._tried < min(rules.every_seconds, RETRY_SECONDS):
            return
        last = state.newest_check.at if state.newest_check else state.production_since
        if (now - last).total_seconds() < rules.every_seconds:
            return
        with self.history.connect() as connection:
            fresh = drift_window.count_fresh(connection, state, now)
        if fresh >= rules.minimum:
            self._tried = time.monotonic()
            self.check_drift()

    def check_drift(self) -> str:
        """Run one check now; the id of its event. Raises Conflict while another runs or rows are too few."""
        if not self._one_check.acquire(blocking=False):
            raise Conflict("a drift check is under way")
        try:
            answer = json.loads(self._run_drift_job())
        finally:
            self._one_check.release()
        if "check" not in answer:
            raise Conflict(f"the check waits for {answer['waiting_for']}")
        return str(answer["check"])

    def force_retraining(self, *, who: str, why: str, target: dict[str, str] | None = None) -> RetrainingRequested:
        """Ask for a candidate without waiting for labels or for the cool-down to end; for the slice `target` if given.

        Raises NotReady before the first release, Conflict while a candidate is made or tested.
        """
        state = LoopFollower(self._log).refresh()
        if state.release.production is None:
            raise NotReady("no version is in production yet; train one, then promote it")
        if waiting := policy.in_the_way(state):
            raise Conflict(f"retraining has to wait for {' and '.join(waiting)}")
        reason = policy.Reason(policy.ReasonCode.FORCED, f"{who} asked for it: {why}")
        return self._request(state, (reason,), who=who, forced=True, target=target)

    def _request(
        self,
        state: LoopState,
        reasons: tuple[policy.Reason, ...],
        *,
        who: str,
        forced: bool = False,
        target: dict[str, str] | None = None,
    ) -> RetrainingRequested:
        request = RetrainingRequested(
            id=state.next_request_id(),
            reasons=tuple(reason.sentence for reason in reasons),
            new_labels=self.standing.new_labels,
            who=who,
            forced=forced,
            target=target or {},
        )
        self._log.append([request])
        for reason in reasons:
            self.metrics.requests.labels(reason.code).inc()
        LOGGER.info("%s requests retraining: %s", who, "; ".join(request.reasons))
        return request

    def _run_drift_job(self) -> str:
        """What the job printed. Ends the job when the monitor stops, or after CHECK_SECONDS."""
        command = [sys.executable, "-m", "monitoring.drift_job"]
        environment = os.environ | self.settings.as_environment() | {"DO_NOT_TRACK": "1"}
        job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + CHECK_SECONDS
        while not (ended := _communicate(job)):
            if self._stop.is_set() or time.monotonic() > deadline:
                job.kill()
        printed, complaint = ended
        if job.returncode != 0:
            LOGGER.error("the drift job ended with %s:\n%s", job.returncode, complaint)
            raise DriftCheckFailed("the drift check failed; the monitor's log says why")
        return printed


def _communicate(job: subprocess.Popen[str]) -> tuple[str, str] | None:
    """The job's output and complaints once it has ended; None while it has not."""
    try:
        return job.communicate(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None

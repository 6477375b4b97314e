"""The worker, from a request to a candidate and its share, with real training on tiny data."""

import random
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from regraft import releases
from regraft.eventlog import Record
from regraft.events import (
    Arm,
    CandidateRefused,
    CandidateRegistered,
    Event,
    PredictionMade,
    QueueReason,
    ReleaseChanged,
    RetrainingRequested,
    ReviewGiven,
)
from regraft.ids import derived_id
from regraft.settings import Settings
from tests.training.conftest import FILLER, LABELS, examples, write_task
from training import worker as worker_module
from training.data import same_text
from training.dataset import read_dataset
from training.proof import Proof
from training.train import fine_tune, version_folder
from training.worker import Worker, open_worker, run_worker

NEW_WORDS = {
    "negative": ["word1", "word2", "word3"],
    "neutral": ["word4", "word5"],
    "positive": ["word6", "word7"],
}


def events_of(worker: Worker, *kinds: type[Event]) -> list[Any]:
    return [record.event for record in worker.log.consumer(kinds=kinds).poll(10_000)]


def remember(worker: Worker, events: Sequence[Event]) -> None:
    """As the recorder would."""
    start = max(worker.history.positions().values(), default=0) + 1
    worker.history.write([Record("log", start + place, event) for place, event in enumerate(events)])


def reviewed(count: int, seed: int = 1) -> list[Event]:
    """Predictions of a language that production never saw, with their reviews."""
    generator, events = random.Random(seed), []
    for index in range(count):
        label = LABELS[index % 3]
        words = generator.choices(NEW_WORDS[label], k=2) + generator.choices(FILLER, k=generator.randint(2, 10))
        made = prediction(input=" ".join([*words, f"word{20 + index}"]))
        events += [made, ReviewGiven(prediction_id=made.id, label=label, reviewer="r", reason=QueueReason.AUDIT)]
    return events


def prediction(**values: Any) -> PredictionMade:
    defaults = {
        "version": "first",
        "arm": Arm.PRODUCTION,
        "generation": 1,
        "input": "a text",
        "label": "neutral",
        "confidence": 0.5,
        "probabilities": (0.2, 0.5, 0.3),
        "features": (0.0,) * 8,
        "latency_ms": 1.0,
    }
    return PredictionMade.model_validate(defaults | values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    """A home where version `first` is in production; each test gets a copy."""
    folder = tmp_path_factory.mktemp("home")
    file = write_task(folder, backbone, examples(240), export={"int8": False}, retraining={"forgetting": 0.3})
    settings = Settings(task=file, home=folder / "home")
    worker = open_worker(settings)
    manifest = fine_tune(worker.task, read_dataset(worker.task), folder / "run", version="first")
    worker.store.publish(version_folder(folder / "run"), manifest)
    worker.log.append([ReleaseChanged(replaces=0, production="first", who="test", why="the first")])
    worker.log.close()
    return folder


@pytest.fixture
def settings(trained: Path, tmp_path: Path) -> Settings:
    shutil.copytree(trained / "home", tmp_path / "home")
    return Settings(task=trained / "task.yaml", home=tmp_path / "home", judge_seconds=0.01, poll_seconds=0.01)


@pytest.fixture
def worker(settings: Settings) -> Worker:
    return open_worker(settings)


def request(worker: Worker, **values: Any) -> RetrainingRequested:
    asked = RetrainingRequested(reasons=("test",), new_labels=1, **values)
    worker.log.append([asked])
    return asked


def outcome(worker: Worker) -> Any:
    (only,) = events_of(worker, CandidateRegistered, CandidateRefused)
    return only


def test_a_request_ends_in_a_candidate_with_its_share(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.domain.PIECES", 0.5)
    remember(worker, reviewed(240))
    asked = request(worker)
    assert worker.work()
    registered = outcome(worker)
    assert isinstance(registered, CandidateRegistered)
    assert registered.version == derived_id(asked.id, "version")[:12]
    assert registered.evidence["newest"]["difference"]["accuracy"]["low"] > 0
    release = releases.current(worker.log)
    assert (release.production, release.candidate, release.share) == ("first", registered.version, 0.1)
    assert not worker.folder(asked).exists()
    assert "the backbone breaks each word into" in Proof.load(worker.store.fetch(registered.version)).findings[-1]
    assert not worker.work()


def test_one_id_leads_from_the_version_to_the_predictions_it_learned_from(worker: Worker) -> None:
    events = reviewed(240)
    remember(worker, events)
    asked = request(worker)
    worker.work()
    version = outcome(worker).version
    manifest, first = worker.store.manifest(version), worker.store.fetch("first")
    assert (manifest.request_id, manifest.parent) == (asked.id, "first")
    rows = pq.read_table(worker.store.fetch(version) / "rows.parquet").to_pylist()
    before = pq.read_table(first / "rows.parquet").to_pylist()
    made = {event.id: event for event in events if isinstance(event, PredictionMade)}
    learned = [row for row in rows if row["id"] in made]
    assert len(learned) == 192
    assert all(row["part"] == "train" and row["place"].startswith("review ") for row in learned)
    newest = {same_text(str(event.input)) for event in list(made.values())[192:]}
    assert not newest & {row["text"] for row in rows}
    assert [row for row in rows if row["part"] == "test"] == [row for row in before if row["part"] == "test"]


class Killed(BaseException):
    """What kill -9 is to a process, to a call: nothing after it happens."""


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        ("module", "fine_tune", "before"),
        ("module", "fine_tune", "after"),
        ("store", "publish", "after"),
        ("log", "append", "before"),
        ("log", "append", "after"),
        ("worker", "start_experiment", "after"),
        ("requests", "commit", "after"),
    ],
)
def test_killed_anywhere_it_goes_on_and_nothing_is_doubled(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, owner: str, name: str, when: str
) -> None:
    killed = open_worker(settings)
    remember(killed, reviewed(150))
    asked = request(killed)
    victim: Any = {"module": worker_module, "worker": killed}.get(owner) or getattr(killed, owner)
    call = getattr(victim, name)

    def dies(*arguments: Any, **options: Any) -> None:
        if when == "after":
            call(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(victim, name, dies)
        with pytest.raises(Killed):
            killed.work()

    worker = open_worker(settings)
    worker.work()
    registered = outcome(worker)
    assert isinstance(registered, CandidateRegistered)
    assert [manifest.version for manifest in worker.store.list()] == ["first", registered.version]
    assert len(events_of(worker, ReleaseChanged)) == 2
    assert releases.current(worker.log).candidate == registered.version
    assert registered.request_id == asked.id
    assert not open_worker(settings).work()


def test_a_candidate_whose_experiment_has_ended_gets_no_second_one(worker: Worker) -> None:
    registered = CandidateRegistered(request_id="x", version="second", evidence={})
    worker.start_experiment(registered)
    release = releases.current(worker.log)
    releases.change(worker.log, release, releases.end_experiment(release), who="test", why="enough")
    worker.start_experiment(registered)
    assert releases.current(worker.log).candidate is None


def test_a_candidate_waits_for_a_person_while_another_experiment_runs(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.start_experiment(CandidateRegistered(request_id="x", version="second", evidence={}))
    worker.start_experiment(CandidateRegistered(request_id="y", version="third", evidence={}))
    assert releases.current(worker.log).candidate == "second"
    assert "third waits for a person" in caplog.text


def test_a_release_that_changed_meanwhile_is_left_alone(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = releases.current(worker.log)
    releases.change(worker.log, stale, releases.promote(stale, "by-hand"), who="a person", why="by hand")
    monkeypatch.setattr(worker.release, "refresh", lambda: stale)
    worker.start_experiment(CandidateRegistered(request_id="x", version="second", evidence={}))
    assert releases.current(worker.log).production == "by-hand"


def test_without_reviews_there_is_nothing_to_learn_from(worker: Worker) -> None:
    request(worker)
    worker.work()
    assert outcome(worker).reason == "there are no reviewed predictions to learn from"


def test_while_an_experiment_runs_a_request_is_refused(worker: Worker) -> None:
    worker.start_experiment(CandidateRegistered(request_id="x", version="second", evidence={}))
    request(worker)
    worker.work()
    assert outcome(worker).reason == "an experiment with second is still running"


def test_with_nothing_in_production_a_request_is_refused(worker: Worker, tmp_path: Path) -> None:
    empty = open_worker(worker.settings.model_copy(update={"home": tmp_path / "empty"}))
    request(empty)
    empty.work()
    assert "nothing is in production" in outcome(empty).reason


def test_a_candidate_that_is_no_better_is_refused_and_not_published(worker: Worker) -> None:
    known = examples(60, seed=5)
    events: list[Event] = []
    for _, text, label in known:
        made = prediction(input=text)
        events += [made, ReviewGiven(prediction_id=made.id, label=label, reviewer="r", reason=QueueReason.AUDIT)]
    for event in events[-40:]:  # the newest labels are noise, on which nothing is better than anything
        if isinstance(event, ReviewGiven):
            events[events.index(event)] = event.model_copy(update={"label": "neutral"})
    remember(worker, events)
    strict = worker.task.retraining.model_copy(update={"forgetting": 0.0, "newest_share": 0.34})
    worker.task = worker.task.model_copy(
        update={
            "retraining": strict,
            "training": worker.task.training.model_copy(update={"learning_rate": 1e-9, "epochs": 1}),
        }
    )
    request(worker)
    worker.work()
    refused = outcome(worker)
    assert isinstance(refused, CandidateRefused)
    assert refused.reason.startswith(("the candidate forgets", "the candidate is no better"))
    assert refused.evidence["newest"]["rows"] == 20
    assert [manifest.version for manifest in worker.store.list()] == ["first"]
    assert releases.current(worker.log).candidate is None


def test_what_goes_wrong_is_a_refusal_and_the_next_request_is_served(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remember(worker, reviewed(60))
    first, second = request(worker), request(worker)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(worker_module, "fine_tune", fails)
    assert worker.work()
    assert worker.work()
    outcomes = events_of(worker, CandidateRegistered, CandidateRefused)
    assert [one.request_id for one in outcomes] == [first.id, second.id]
    assert outcomes[0].reason == "training failed: RuntimeError: out of memory"
    assert "Traceback" in caplog.text


def test_the_loop_serves_and_judges_until_it_is_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served, stop = threading.Event(), threading.Event()
    judged: list[int] = []

    def judge(_: Worker) -> None:
        judged.append(1)
        if len(judged) == 1:
            raise OSError("the history is being written")

    def work(_: Worker) -> bool:
        served.set()
        return False

    monkeypatch.setattr(Worker, "judge", judge)
    monkeypatch.setattr(Worker, "work", work)
    thread = threading.Thread(target=run_worker, args=(settings, stop))
    thread.start()
    assert served.wait(10)
    while len(judged) < 3 and thread.is_alive():
        stop.wait(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert "could not be judged" in caplog.text


def test_a_signal_ends_the_worker_without_ending_the_training_early(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(_: Worker) -> bool:
        signal.raise_signal(signal.SIGINT)
        return True

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(Worker, "work", work)
    try:
        with pytest.raises(SystemExit) as left:
            run_worker(settings)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert left.value.code == 128 + signal.SIGINT

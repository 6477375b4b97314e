import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from monitoring.app import create_app
from monitoring.monitor import Monitor
from monitoring.policy import ReasonCode
from regraft import releases
from regraft.events import CandidateRefused, ColumnDrift, DriftMeasured, RetrainingRequested, ReviewGiven
from tests.monitoring.stage import Stage, flag, now, prediction, review


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    sections = {"retraining": {"minimum_audits": 5, "new_labels": 5, "cool_down": 0}, "drift": {"every_seconds": 60}}
    with Stage(tmp_path, **sections) as stage:
        yield stage


@pytest.fixture
def monitor(stage: Stage) -> Iterator[Monitor]:
    monitor = Monitor(stage.settings)
    yield monitor
    monitor.stop()


@pytest.fixture
def client(monitor: Monitor) -> TestClient:
    """The threads do not run; `look` does their work."""
    return TestClient(create_app(monitor), raise_server_exceptions=False)


def look(stage: Stage, monitor: Monitor) -> None:
    stage.record()
    monitor.judge()


def drifted(version: str) -> DriftMeasured:
    column = ColumnDrift(statistic=0.4, threshold=0.1, drifted=True)
    return DriftMeasured(
        version=version,
        window_start=now(),
        window_end=now(),
        rows=300,
        reference_rows=600,
        alpha=0.01,
        p_value=0.0005,
        drifted=True,
        columns={"words": column},
        report="drift/x.html",
    )


def label(of: str, value: str = "neutral", reviewer: str = "ann") -> dict[str, str]:
    return {"prediction_id": of, "label": value, "reviewer": reviewer}


def test_before_anything_happened_it_is_up_and_says_what_it_waits_for(
    stage: Stage, monitor: Monitor, client: TestClient
) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/status").json()["decision"]["waiting_for"] == "a first look"
    look(stage, monitor)
    status = client.get("/status").json()
    assert status["decision"]["waiting_for"] == "a version in production"
    assert status["release"]["production"] is None
    assert client.get("/review/queue").json()["items"] == []
    assert client.get("/drift").json() == {"checks": []}


def test_status_shows_release_quality_drift_and_why_not(stage: Stage, monitor: Monitor, client: TestClient) -> None:
    stage.version("v1", accuracy=0.8)
    stage.released("v1", candidate="v2")
    audited = prediction(audit=0.5, shadow=("v2", "negative"))
    stage.append(audited, flag(audited), review(audited, "positive"), drifted("v1"))
    look(stage, monitor)
    status = client.get("/status").json()
    assert (status["release"]["production"], status["release"]["candidate"]) == ("v1", "v2")
    production, candidate = status["quality"]
    assert production["accuracy"]["value"] == pytest.approx(1)
    assert (production["validation_accuracy"], production["flag_rate"]["value"]) == (0.8, 1.0)
    assert candidate["accuracy"]["value"] is None
    assert status["experiment"] == {"wins": 0, "losses": 1, "ties": 0}
    assert status["drift"]["columns"]["words"]["drifted"]
    assert status["decision"]["reasons"][0]["sentence"] == "drift in words over 300 predictions (p = 0.0005)"
    assert status["decision"]["waiting_for"] == "the end of the experiment with v2; 4 more new labels (1 of 5)"
    assert status["lag"] == {"recorder": 0}


def test_metrics_carry_the_figures_and_forget_versions_that_left(
    stage: Stage, monitor: Monitor, client: TestClient
) -> None:
    stage.version("v1", accuracy=0.8)
    stage.released("v1", candidate="v2")
    made = prediction(audit=0.5, shadow=("v2", "negative"))
    stage.append(made, review(made, "negative"), prediction(audit=0.5), drifted("v1"))
    look(stage, monitor)
    lines = set(client.get("/metrics").text.splitlines())
    assert {
        'regraft_live_accuracy{version="v1"} 0.0',
        'regraft_validation_accuracy{version="v1"} 0.8',
        'regraft_reviewed_audits{version="v1"} 1.0',
        'regraft_mean_confidence{version="v1"} 0.9',
        'regraft_flag_rate{version="v1"} 0.0',
        'regraft_review_queue{reason="audit"} 1.0',
        'regraft_drift_detected{version="v1"} 1.0',
        'regraft_drift_p_value{version="v1"} 0.0005',
        'regraft_drift_statistic{column="words",version="v1"} 0.4',
        "regraft_new_labels 1.0",
        "regraft_experiment_wins 1.0",
        "regraft_experiment_losses 0.0",
    } <= lines
    release = releases.current(stage.log)
    releases.change(stage.log, release, releases.promote(release, "v2"), who="test", why="test")
    look(stage, monitor)
    text = client.get("/metrics").text
    assert 'version="v1"' not in text
    assert 'regraft_mean_confidence{version="v2"}' in text


def test_the_first_look_is_blind(stage: Stage, monitor: Monitor, client: TestClient) -> None:
    stage.released("v1")
    made = prediction(audit=0.5, label="negative", text="what a book")
    stage.append(made, flag(made))
    look(stage, monitor)
    answer = client.get("/review/queue").json()
    assert answer["labels"] == ["negative", "neutral", "positive"]
    assert answer["waiting"] == {"disagreement": 0, "audit": 1, "flag": 0, "low_confidence": 0}
    (blind,) = answer["items"]
    assert set(blind) == {"prediction_id", "at", "input"}
    (revealed,) = client.get("/review/queue?reveal=1&reason=audit&limit=5").json()["items"]
    assert (revealed["input"], revealed["label"], revealed["reason"]) == ("what a book", "negative", "audit")
    assert client.get("/review/queue?reason=flag").json()["items"] == []


def test_labels_are_taken_one_by_one_or_together(stage: Stage, monitor: Monitor, client: TestClient) -> None:
    stage.released("v1")
    one, two = prediction(audit=0.5), prediction()
    stage.append(one, two)
    look(stage, monitor)
    answer = client.post("/review/labels", json=label(one.id))
    assert answer.status_code == 200
    assert answer.json()["reviews"][0]["reason"] == "audit"
    again = client.post("/review/labels", json={"reviews": [label(one.id), label(two.id)]}).json()
    assert (again["accepted"], again["added"], again["reviews"][0]["reason"]) == (2, 1, "direct")
    assert client.get("/review/queue").json()["items"] == []
    events = [record.event for record in stage.log.consumer(kinds=[ReviewGiven]).poll()]
    assert len(events) == 2


def test_each_version_has_its_report_and_no_script_runs_in_it(stage: Stage, client: TestClient) -> None:
    stage.version("v1", files={"report.html": b"<h1>v1</h1>"})
    stage.version("v2")
    answer = client.get("/versions/v1/report")
    assert (answer.status_code, answer.text) == (200, "<h1>v1</h1>")
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert client.get("/versions/v2/report").json()["error"]["message"] == "version v2 has no report.html"
    assert client.get("/versions/none/report").status_code == 404
    assert client.get("/versions/..%2f..%2fetc/report").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ("{", 400, "malformed_request", "not JSON"),
        ("[]", 422, "invalid_input", ""),
        ("{}", 422, "invalid_input", "prediction_id"),
        (json.dumps(label("x") | {"extra": 1}), 422, "invalid_input", "extra"),
        (
            json.dumps(label("x", "great")),
            422,
            "invalid_input",
            "unknown label 'great'; the task has",
        ),
        (json.dumps(label("nobody")), 404, "not_found", "nobody"),
        (json.dumps(label("x", reviewer=" ")), 422, "invalid_input", "reviewer"),
        (json.dumps(label("x" * 201)), 422, "invalid_input", "prediction_id"),
        (json.dumps({"reviews": []}), 422, "invalid_input", "reviews"),
        (json.dumps({"reviews": [label("nobody")] * 1001}), 422, "invalid_input", "reviews"),
        (json.dumps({"reviews": [label("nobody")], "label": "x"}), 422, "invalid_input", "label"),
        (json.dumps({"reviews": [label("nobody")]}), 404, "not_found", "nobody"),
        (json.dumps({"reviews": "all"}), 422, "invalid_input", "reviews"),
        (json.dumps(label("x'; DROP TABLE events; --")), 404, "not_found", "DROP"),
    ],
)
def test_a_bad_label_is_refused_with_a_sentence(
    client: TestClient, body: str, status: int, code: str, words: str
) -> None:
    answer = client.post("/review/labels", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert words in error["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/review/queue?limit=0", 422),
        ("/review/queue?limit=x", 422),
        ("/review/queue?reason=curiosity", 422),
        ("/review/queue?revael=1", 422),
        ("/drift?limit=0", 422),
        ("/drift/0123456789abcdef0123456789abcdef", 404),
        ("/drift/..%2f..%2fetc%2fpasswd", 404),
        ("/drift/%2e%2e", 404),
        ("/nothing", 404),
        ("/retraining", 405),
    ],
)
def test_a_bad_question_is_answered_with_an_error_as_json(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_an_unknown_error_shows_an_id_and_nothing_else(
    stage: Stage,
    monitor: Monitor,
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(monitor.desk, "queue", _fail)
    answer = client.get("/review/queue")
    assert answer.status_code == 500
    message = answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert message.removeprefix("internal error ") in caplog.text


def _fail(*_: object) -> None:
    raise RuntimeError("a secret")


def test_reports_are_served_shut_off_from_everything(stage: Stage, monitor: Monitor, client: TestClient) -> None:
    check = drifted("v1")
    monitor.reports.save(check.id, "<title>a report</title>")
    stage.append(check)
    look(stage, monitor)
    (listed,) = client.get("/drift").json()["checks"]
    assert listed["report"] == f"/drift/{check.id}"
    answer = client.get(listed["report"])
    assert answer.text == "<title>a report</title>"
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_person_may_ask_for_retraining_but_not_twice(stage: Stage, monitor: Monitor, client: TestClient) -> None:
    wish = {"who": "ann", "why": "new slang", "target": {"source": "phone"}}
    assert client.post("/retraining", json=wish).json()["error"]["code"] == "not_ready"
    stage.released("v1")
    answer = client.post("/retraining", json=wish)
    assert answer.status_code == 202
    assert answer.json()["reasons"] == ["ann asked for it: new slang"]
    assert answer.json()["forced"]
    assert answer.json()["target"] == {"source": "phone"}
    refused = client.post("/retraining", json=wish)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert client.post("/retraining", json={"who": "ann"}).status_code == 422
    assert 'regraft_retraining_requests_total{reason="forced"} 1.0' in client.get("/metrics").text


def test_two_monitors_and_many_looks_ask_once(stage: Stage, monitor: Monitor) -> None:
    stage.version("v1", accuracy=0.9)
    stage.released("v1")
    audits = [prediction(audit=0.5) for _ in range(30)]
    stage.append(*audits, *(review(one, "negative") for one in audits), drifted("v1"))
    stage.record()
    other = Monitor(stage.settings)
    for _ in range(2):
        monitor.judge()
        other.judge()
    other.stop()
    requests = requested(stage)
    assert len(requests) == 1
    assert requests[0].new_labels == 30
    assert len(requests[0].reasons) == 2
    assert requests[0].reasons[0].startswith("audited accuracy 0.0%")
    assert [reason.code for reason in monitor.standing.decision.reasons] == [ReasonCode.FLOOR]
    exposed = (monitor.metrics.exposition() + other.metrics.exposition()).decode()
    assert 'regraft_retraining_requests_total{reason="quality_floor"} 1.0' in exposed


def test_after_a_refusal_it_waits_for_new_labels_and_asks_anew(stage: Stage, monitor: Monitor) -> None:
    stage.version("v1", accuracy=0.9)
    stage.released("v1")
    audits = [prediction(audit=0.5) for _ in range(30)]
    stage.append(*audits, *(review(one, "negative") for one in audits[:20]))
    look(stage, monitor)
    (first,) = requested(stage)
    stage.append(CandidateRefused(request_id=first.id, reason="no better"))
    look(stage, monitor)
    assert monitor.standing.decision.waiting_for == "5 more new labels (0 of 5)"
    stage.append(*(review(one, "negative") for one in audits[20:]))
    look(stage, monitor)
    assert len(requested(stage)) == 2


def requested(stage: Stage) -> list[RetrainingRequested]:
    events = [record.event for record in stage.log.consumer(kinds=[RetrainingRequested]).poll()]
    return [event for event in events if isinstance(event, RetrainingRequested)]


@pytest.mark.parametrize(
    ("printed", "status", "said"),
    [
        ('{"check": "abc"}', 200, "/drift/abc"),
        ('{"waiting_for": "predictions"}', 409, "waits for predictions"),
    ],
)
def test_a_check_on_request_answers_with_its_report_or_what_it_waits_for(
    monitor: Monitor, client: TestClient, monkeypatch: pytest.MonkeyPatch, printed: str, status: int, said: str
) -> None:
    monkeypatch.setattr(monitor, "_run_drift_job", lambda: printed)
    answer = client.post("/drift/check")
    assert answer.status_code == status
    assert said in answer.text


def test_a_check_that_fails_is_an_error_and_the_log_says_why(
    stage: Stage, monitor: Monitor, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    stage.settings.task.write_text("no task")
    answer = client.post("/drift/check")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "drift_check_failed"
    assert "ConfigError" in caplog.text


def test_drift_is_checked_when_due_and_rows_are_enough(
    stage: Stage, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(monitor, "check_drift", lambda: started.append("a check"))
    monitor.check_drift_when_due()
    stage.released("v1")
    stage.append(*(prediction() for _ in range(200)))
    stage.record()
    monitor.check_drift_when_due()
    assert started == []  # the release is younger than `every_seconds`
    monitor.task = monitor.task.model_copy(
        update={"drift": monitor.task.drift.model_copy(update={"every_seconds": 0.0, "minimum": 201})}
    )
    monitor.check_drift_when_due()
    assert started == []
    stage.append(prediction())
    stage.record()
    monitor.check_drift_when_due()
    assert started == ["a check"]

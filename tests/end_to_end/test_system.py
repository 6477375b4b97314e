"""The service, the monitor and the worker together, as `regraft up` runs them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import psutil

from regraft.history import History
from tests.end_to_end.conftest import System, sentence, wait_until
from tests.monitoring.queries import metrics_in_queries


def outcomes(system: System, columns: str, where: str = "true") -> list[tuple[object, ...]]:
    connection = History(system.settings.history).connect()
    try:
        rows: list[tuple[object, ...]] = connection.execute(
            f"SELECT {columns} FROM outcomes WHERE {where} ORDER BY id"
        ).fetchall()
        return rows
    finally:
        connection.close()


def test_one_id_leads_from_the_prediction_to_the_flag_and_the_review(system: System) -> None:
    answer = system.predict("a positive day", subject="anna", metadata={"page": "home"})
    prediction_id = answer["prediction_id"]
    flag = {"prediction_id": prediction_id, "correct": False, "comment": "it was irony"}
    system.service.post("/feedback", json=flag).raise_for_status()
    wait_until(lambda: system.monitor.get("/review/queue").json()["items"], what="the prediction is queued")
    review = {"prediction_id": prediction_id, "label": "negative", "reviewer": "rita"}
    system.monitor.post("/review/labels", json=review).raise_for_status()
    wait_until(lambda: outcomes(system, "id", "reviewed_label IS NOT NULL"), what="the review is recorded")
    columns = "id, input, subject, label, flagged, reviewed_label, reviewer, version"
    (row,) = outcomes(system, columns, f"id = '{prediction_id}'")
    assert row == (prediction_id, "a positive day", "anna", "positive", True, "negative", "rita", "v1")


def test_a_release_made_by_hand_is_served_and_rolled_back(system: System) -> None:
    def release(*arguments: str) -> None:
        command = [sys.executable, "-m", "regraft", "release", *arguments]
        subprocess.run(command, env=os.environ | system.settings.as_environment(), check=True)

    assert system.predict("positive")["label"] == "positive"
    release("promote", "v2")
    wait_until(lambda: system.predict("positive")["version"] == "v2")
    assert system.predict("positive")["label"] != "positive"
    release("rollback")
    wait_until(lambda: system.predict("positive")["version"] == "v1")


def test_every_process_may_be_killed_at_any_time_and_every_answer_is_in_the_history_once(system: System) -> None:
    generator = np.random.default_rng(1)
    answered: list[str] = []
    for victim in ("monitor", "service", "worker", "monitor", "service"):
        for _ in range(60):
            try:
                answered.append(system.predict(sentence(generator))["prediction_id"])
            except httpx.HTTPError:  # not answered: the caller would try again
                wait_until(lambda: system.predict("a day"), seconds=60)
        kill(system, victim)
    wait_until(lambda: system.predict("a day"), seconds=60)
    wait_until(lambda: {row[0] for row in outcomes(system, "id")} >= set(answered), seconds=60)
    recorded = [row[0] for row in outcomes(system, "id")]
    lost, doubled = set(answered) - set(recorded), len(recorded) - len(set(recorded))
    print(f"answered {len(answered)}, recorded {len(recorded)}, lost {len(lost)}, doubled {doubled}")
    assert not lost
    assert not doubled


def kill(system: System, part: str) -> None:
    """kill -9 every process of one part, as supervisor started it."""
    word = {"service": "serve"}.get(part, part)
    home = str(system.settings.home)
    for process in psutil.process_iter(["cmdline", "environ"]):
        command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        ours = environment.get("REGRAFT_HOME") == home and "supervisord" not in " ".join(command)
        serving = part == "service" and any("bentoml" in argument.lower() for argument in command)
        if ours and (word in command or serving):
            os.kill(process.pid, signal.SIGKILL)


def test_every_metric_that_a_rule_or_a_dashboard_asks_for_is_exposed(system: System, tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    assert system.service.post("/predict", json={"input": ""}).status_code == 422
    answers = [system.predict(sentence(generator)) for _ in range(120)]
    system.service.post("/feedback", json={"prediction_id": answers[0]["prediction_id"], "correct": True})
    wait_until(lambda: len(system.monitor.get("/review/queue").json()["items"]) > 5)
    items = system.monitor.get("/review/queue").json()["items"]
    reviews = [{"prediction_id": item["prediction_id"], "label": "neutral", "reviewer": "r"} for item in items]
    system.monitor.post("/review/labels", json={"reviews": reviews}).raise_for_status()
    missing = set(metrics_in_queries())
    wait_until(lambda: not (missing - exposed(system)), seconds=45, what=f"exposed: {missing - exposed(system)}")


def exposed(system: System) -> set[str]:
    texts = [client.get("/metrics").text for client in (system.service, system.monitor)]
    lines = (line.split() for text in texts for line in text.splitlines() if line.startswith("# TYPE"))
    return {name for _, _, name, _ in lines}

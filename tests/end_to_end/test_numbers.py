"""A regression served, corrected, reviewed and watched, by the service, the monitor and the worker together."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from regraft import releases
from regraft.answers import Numbers
from regraft.eventlog import open_log
from regraft.settings import Settings
from tests.end_to_end.conftest import System, running, settings_of, wait_until
from tests.fakes import tiny_version

RANGE = Numbers(minimum=-100, maximum=100)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    sections: dict[str, Any] = {
        "kind": "regression",
        "range": RANGE.model_dump(),
        "audit": {"rate": 1.0},
        "retraining": {"minimum_audits": 24, "new_labels": 24, "every": None, "on_drift": False},
    }
    return settings_of(tmp_path, **sections)


def test_answers_that_are_too_far_off_ask_for_a_candidate(settings: Settings) -> None:
    tiny_version(settings.versions, "v1", numbers=RANGE, accuracy=1.0)  # off by 1 in validation
    log = open_log(settings.log)
    releases.change(log, releases.current(log), releases.Release(production="v1"), who="test", why="start")
    log.close()
    with running(settings), closing(System(settings)) as system:
        answers = [system.predict(f"a day with {number}") for number in range(24)]
        truths = [answer["value"] + (3 if place % 2 else -5) for place, answer in enumerate(answers)]
        for answer, truth in zip(answers[:3], truths, strict=False):
            said = {"prediction_id": answer["prediction_id"], "correct": False, "value": truth}
            system.service.post("/feedback", json=said).raise_for_status()
        wait_until(lambda: rate_of_flags(system) == pytest.approx(3 / 24), what="the feedback is recorded")
        reviews = [
            {"prediction_id": answer["prediction_id"], "label": truth, "reviewer": "rita"}
            for answer, truth in zip(answers, truths, strict=True)
        ]
        system.monitor.post("/review/labels", json={"reviews": reviews}).raise_for_status()
        wait_until(lambda: status(system)["last_request"], what="a candidate is asked for")
        (quality,) = status(system)["quality"]
        assert quality["mae"]["value"] == pytest.approx(4)
        assert (quality["validation_mae"], quality["interval_coverage"]["value"]) == (1, 0)
        (reason,) = status(system)["last_request"]["reasons"]
        assert reason.startswith("audited mean absolute error 4 (")
        assert reason.endswith("against 1 in validation: over 111% of it")


def status(system: System) -> dict[str, Any]:
    found: dict[str, Any] = system.monitor.get("/status").raise_for_status().json()
    return found


def rate_of_flags(system: System) -> float | None:
    return next((quality["flag_rate"]["value"] for quality in status(system)["quality"]), None)

"""A task that answers with numbers: over every transport, with its interval, and corrected by numbers."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from regraft.answers import Numbers
from regraft.errors import VersionRefused
from regraft.events import FeedbackGiven
from regraft.task import Task
from regraft.versions import VersionStore
from service.models import load
from tests.fakes import tiny_task, tiny_version
from tests.service.conftest import Server, events_of, installation_in, serving, wait_until
from tests.service.grpc_caller import Give, channel_to, give, infer, request

RANGE = Numbers(minimum=-100, maximum=100)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("numbers")
    installation = installation_in(folder, kind="regression", range=RANGE.model_dump(), audit={"experiment_rate": 1.0})
    installation.publish("v1", "v2", numbers=RANGE)
    installation.release("v1", "v2", share=0.3)
    with serving(installation) as running:
        wait_until(running.ready)
        yield running


def test_an_answer_is_a_number_in_an_interval(server: Server) -> None:
    response = server.post("/predict", {"input": "so it goes", "subject": "ada"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert set(answer) == {
        "prediction_id", "value", "low", "high", "confidence", "version", "arm", "logged", "trace_id"
    }  # fmt: skip
    assert (answer["low"], answer["high"]) == pytest.approx((answer["value"] - 1, answer["value"] + 1), abs=1e-4)
    assert (answer["confidence"], answer["logged"]) == (0.25, True)


def test_it_is_in_the_log_as_text_with_its_interval_and_the_other_arms(server: Server) -> None:
    answers = server.post("/predict/batch", {"inputs": ["one", "two"]}).json()["predictions"]
    logged = {one.id: one for one in events_of(server.installation.log)}
    for answer in answers:
        event = logged[answer["prediction_id"]]
        assert float(event.label) == answer["value"]
        assert event.interval == pytest.approx((answer["low"], answer["high"]))
        assert (event.probabilities, len(event.features)) == ((), 8)
        assert event.shadow is not None
        assert float(event.shadow.label) != answer["value"]
        assert event.audit_probability == 1.0


@pytest.mark.parametrize(
    ("said", "label"), [({"value": 3}, "3"), ({"value": -2.50}, "-2.5"), ({"label": " 7.0 "}, "7")]
)
def test_feedback_says_which_number_would_have_been_right(server: Server, said: dict[str, Any], label: str) -> None:
    prediction = server.post("/predict", {"input": "hello"}).json()["prediction_id"]
    response = server.post("/feedback", {"prediction_id": prediction, "correct": False} | said)
    assert response.status_code == 202, response.text
    (given,) = [one for one in events_of(server.installation.log, FeedbackGiven) if one.key == prediction]
    assert (given.correct, given.label) == (False, label)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"value": 101}, "label: 101 is more than the maximum, 100"),
        ({"value": "3"}, "value: "),
        ({"label": "good"}, "label: 'good' is no number"),
        ({"value": 3, "label": "3"}, "value: there is a label already"),
    ],
)
def test_what_is_no_number_in_range_is_refused(server: Server, said: dict[str, Any], problem: str) -> None:
    prediction = server.post("/predict", {"input": "hello"}).json()["prediction_id"]
    response = server.post("/feedback", {"prediction_id": prediction, "correct": False} | said)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_input")
    assert response.json()["error"]["message"].startswith(problem)


def test_the_open_inference_protocol_has_columns_of_numbers(server: Server) -> None:
    shown = server.get("/v2/models/reviews").json()
    assert [one["name"] for one in shown["outputs"]] == ["value", "low", "high", "confidence", "prediction_id"]
    body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [2], "data": ["so it goes", "two"]}]}
    answer = server.post("/v2/models/reviews/infer", body | {"parameters": {"subject": "ada"}}).json()
    columns = {one["name"]: one for one in answer["outputs"]}
    alone = server.post("/predict", {"input": "so it goes", "subject": "ada"}).json()
    assert (columns["value"]["datatype"], columns["value"]["shape"]) == ("FP32", [2])
    assert columns["value"]["data"][0] == pytest.approx(alone["value"], abs=1e-4)
    assert columns["high"]["data"][0] == pytest.approx(alone["high"], abs=1e-4)
    assert "labels" not in answer["parameters"]
    refused = server.post("/v2/models/reviews/infer", body | {"outputs": [{"name": "label"}]})
    assert "there is no output 'label', only value, low, high, confidence, prediction_id" in refused.text


def test_grpc_has_the_same_columns_and_takes_a_number_as_feedback(server: Server) -> None:
    native = server.post("/predict", {"input": "so it goes", "subject": "ada"}).json()
    with channel_to(server.installation.settings.grpc_port) as channel:
        subject = {"subject": {"string_param": "ada"}}
        answer = infer(channel)(request(contents={"bytes_contents": [b"so it goes"]}, parameters=subject))
        assert [one.name for one in answer.outputs] == ["value", "low", "high", "confidence", "prediction_id"]
        found = [struct.unpack("<f", raw)[0] for raw in answer.raw_output_contents[:4]]
        assert found == pytest.approx([native[name] for name in ("value", "low", "high", "confidence")], abs=1e-4)
        prediction = native["prediction_id"]
        give(channel)(Give(prediction_id=prediction, correct=False, value=2.5))
    (given,) = [one for one in events_of(server.installation.log, FeedbackGiven) if one.key == prediction]
    assert given.label == "2.5"


def test_metrics_have_as_many_series_as_there_are_versions(server: Server) -> None:
    for number in range(20):
        server.post("/predict", {"input": f"text {number}"})
    counted = [name for name in server.samples() if name.startswith("regraft_predictions_total")]
    assert 0 < len(counted) <= 2
    assert all('label=""' in name for name in counted)
    assert any(name.startswith("regraft_prediction_confidence_bucket") for name in server.samples())


def test_a_version_of_another_range_or_of_labels_is_refused(tmp_path: Any) -> None:
    task = Task.load(tiny_task(tmp_path, kind="regression", range=RANGE.model_dump()))
    store = VersionStore(str(tmp_path / "versions"))
    tiny_version(tmp_path / "versions", "labels")
    tiny_version(tmp_path / "versions", "other", numbers=Numbers(minimum=0))
    for version, said in (
        (
            "labels",
            r"answers with labels \['negative', 'neutral', 'positive'\], the task has a number from -100 to 100",
        ),
        ("other", "answers with a number from 0, the task has a number from -100 to 100"),
    ):
        with pytest.raises(VersionRefused, match=said):
            load(store, version, task=task, provider="cpu", on_batch=lambda *_: None)

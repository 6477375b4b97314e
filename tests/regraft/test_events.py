"""Events are frozen, and what was ever written can still be read."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from regraft import ids
from regraft.events import KINDS, Arm, PredictionMade, decode, encode, kind_of
from regraft.ids import derived_id, new_id

SAMPLES = sorted((Path(__file__).parent / "events").glob("*.json"))


def prediction(**given: object) -> PredictionMade:
    values: dict[str, object] = {
        "version": "v1",
        "arm": Arm.PRODUCTION,
        "generation": 1,
        "input": "good",
        "label": "positive",
        "confidence": 0.9,
        "probabilities": (0.1, 0.9),
        "features": (0.5, -0.25),
        "latency_ms": 1.5,
    }
    return PredictionMade.model_validate(values | given)


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_a_stored_sample_of_every_version_is_still_read(file: Path) -> None:
    stored = json.loads(file.read_text())
    again = json.loads(encode(decode(file.read_text())))
    assert stored.items() <= again.items()


def test_every_kind_has_a_stored_sample() -> None:
    assert {file.stem.rpartition(".")[0] for file in SAMPLES} == set(KINDS)


def test_an_event_survives_its_json() -> None:
    event = prediction(metadata={"page": "1"}, subject="anna", audit_probability=0.1)
    assert decode(encode(event)) == event


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        prediction().label = "negative"  # type: ignore[misc]


def test_a_field_from_the_future_is_passed_over() -> None:
    body = json.loads(encode(prediction())) | {"new_field": 1}
    assert decode(json.dumps(body)).id == body["id"]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError):
        decode('{"kind": "coffee_made"}')


def test_kind_of_an_event_and_of_its_class_are_the_same() -> None:
    assert kind_of(prediction()) == kind_of(PredictionMade) == "prediction_made"


def test_ids_are_version_7_uuids() -> None:
    for _ in range(1_000):
        one = uuid.UUID(new_id())
        assert (one.version, one.variant) == (7, uuid.RFC_4122)
        assert abs((one.int >> 80) / 1000 - time.time()) < 60


def test_each_id_is_larger_than_the_one_before() -> None:
    made = [new_id() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_ids_rise_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert before < new_id() < new_id()


def test_threads_do_not_share_an_id() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [one for ids in pool.map(lambda _: [new_id() for _ in range(1_000)], range(8)) for one in ids]
    assert len(set(made)) == 8_000


def test_ids_that_run_out_of_random_bits_take_the_next_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time_ns() // 1_000_000 + 10_000
    monkeypatch.setattr(ids, "_last", (later, (1 << 74) - 1))
    one = uuid.UUID(new_id())
    assert (one.int >> 80, one.version, one.variant) == (later + 1, 7, uuid.RFC_4122)


def test_a_derived_id_repeats_for_its_purpose_alone() -> None:
    parent = new_id()
    assert derived_id(parent, "version") == derived_id(parent, "version")
    assert derived_id(parent, "version") != derived_id(parent, "refusal")

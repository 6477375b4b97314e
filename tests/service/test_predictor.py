"""The request path without a transport: what is answered is what is logged."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from regraft.errors import DeadlineExceeded, InvalidInput, LogUnavailable, NotFound, NotReady
from regraft.events import NAMED_VERSION, Arm, FeedbackGiven, PredictionMade
from regraft.ids import new_id
from service import predictor
from service.parts import Parts
from service.predictor import PredictRequest
from tests.service.conftest import Installation, events_of, installation_in

EXPERIMENT = {"audit": {"rate": 0.0, "experiment_rate": 1.0}}


async def ask(parts: Parts, *inputs: str, **options: Any) -> list[PredictionMade]:
    return list((await parts.predictor.predict(PredictRequest(inputs, **options))).predictions)


async def test_what_was_answered_is_in_the_log(installation: Installation, parts: Parts) -> None:
    answered = await ask(parts, "a positive thing", subject="ada", metadata={"source": "test"}, trace_id="t" * 32)
    assert events_of(installation.log) == answered
    (event,) = answered
    assert (event.label, event.version, event.arm, event.generation) == ("positive", "v1", Arm.PRODUCTION, 1)
    assert event.confidence == max(event.probabilities)
    assert len(event.features) == 8
    assert event.latency_ms > 0
    assert (event.subject, event.metadata, event.trace_id) == ("ada", {"source": "test"}, "t" * 32)


async def test_several_inputs_are_answered_in_their_order(parts: Parts) -> None:
    answered = await ask(parts, "negative", "positive", "neutral")
    assert [one.label for one in answered] == ["negative", "positive", "neutral"]
    assert [one.input for one in answered] == ["negative", "positive", "neutral"]


async def test_of_several_inputs_all_are_answered_or_none(installation: Installation, parts: Parts) -> None:
    with pytest.raises(InvalidInput, match=r"inputs\[1\]"):
        await ask(parts, "fine", "")
    assert events_of(installation.log) == []


@pytest.mark.parametrize("installation", [{"audit": {"rate": 0.5}}], indirect=True)
async def test_audits_are_drawn_at_the_tasks_rate_and_carry_it(parts: Parts) -> None:
    answered = await ask(parts, *(f"text {number}" for number in range(400)))
    drawn = [one.audit_probability for one in answered if one.audit_probability is not None]
    assert set(drawn) == {0.5}
    assert abs(len(drawn) - 200) < 40
    assert all(one.shadow is None for one in answered)


@pytest.mark.parametrize("installation", [EXPERIMENT], indirect=True)
async def test_while_a_candidate_runs_audited_requests_are_scored_by_both_arms(
    installation: Installation, parts: Parts
) -> None:
    installation.release("v1", "v2", 0.5)
    await parts.following.refresh()
    answered = [(await ask(parts, "hello world", subject=f"subject {number}"))[0] for number in range(60)]
    assert {one.arm for one in answered} == {Arm.PRODUCTION, Arm.CANDIDATE}
    by_version = {one.version: one.probabilities for one in answered}
    for one in answered:
        assert one.audit_probability == 1.0
        assert one.shadow
        assert one.shadow.version == ("v2" if one.version == "v1" else "v1")
        assert one.shadow.probabilities == by_version[one.shadow.version]


@pytest.mark.parametrize("installation", [EXPERIMENT], indirect=True)
async def test_a_subject_keeps_its_arm_and_no_subject_means_chance(installation: Installation, parts: Parts) -> None:
    installation.release("v1", "v2", 0.5)
    await parts.following.refresh()
    assert len({(await ask(parts, "x", subject="ada"))[0].arm for _ in range(20)}) == 1
    assert len({(await ask(parts, "x"))[0].arm for _ in range(60)}) == 2


async def test_a_request_without_a_subject_is_one_subject_whatever_it_holds(parts: Parts) -> None:
    answer = await parts.predictor.predict(PredictRequest(["hello", "world"]))
    assert [one.subject for one in answer.predictions] == [answer.predictions[0].id] * 2


async def test_a_version_that_is_named_answers_and_the_log_knows_that_it_was_named(
    installation: Installation, parts: Parts
) -> None:
    installation.release("v1", "v2", 0.5)
    await parts.following.refresh()
    for version, arm in (("v1", Arm.PRODUCTION), ("v2", Arm.CANDIDATE)):
        answered = [(await ask(parts, "x", subject=f"subject {number}", version=version))[0] for number in range(10)]
        assert {(one.version, one.arm) for one in answered} == {(version, arm)}
        assert all(one.metadata == {NAMED_VERSION: version} for one in answered)
    with pytest.raises(NotFound, match="there is v1 and v2"):
        await ask(parts, "x", version="v3")


@pytest.mark.parametrize("installation", [EXPERIMENT], indirect=True)
async def test_a_shadow_that_fails_costs_the_caller_nothing(installation: Installation, parts: Parts) -> None:
    installation.publish("failing", behaviour="failing")
    installation.release("v1", "failing", 0.0001)
    await parts.following.refresh()
    (one,) = await ask(parts, "explode", subject="ada")
    assert (one.version, one.audit_probability, one.shadow) == ("v1", 1.0, None)
    assert parts.metrics.shadows_dropped.labels("failed")._value.get() == 1


@pytest.mark.parametrize("installation", [EXPERIMENT], indirect=True)
async def test_a_slow_shadow_is_not_waited_for(
    installation: Installation, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "SHADOW_PATIENCE_SECONDS", 0.001)
    installation.publish("slow", behaviour="slow")
    installation.release("v1", "slow", 0.0001)
    await parts.following.refresh()
    (one,) = await ask(parts, "hello", subject="ada")
    assert (one.version, one.shadow) == ("v1", None)
    assert parts.metrics.shadows_dropped.labels("slow")._value.get() == 1


@pytest.mark.parametrize("installation", [{"serving": {"timeout_seconds": 0.01}}], indirect=True)
async def test_what_takes_too_long_is_given_up(installation: Installation, parts: Parts) -> None:
    installation.publish("slow", behaviour="slow")
    installation.release("slow")
    await parts.following.refresh()
    with pytest.raises(DeadlineExceeded):
        await ask(parts, "hello")
    assert events_of(installation.log) == []


async def test_a_neighbour_that_makes_the_network_fail_fails_alone(installation: Installation, parts: Parts) -> None:
    installation.publish("failing", behaviour="failing")
    installation.release("failing")
    await parts.following.refresh()
    texts = ["positive", "explode", *["negative"] * 20]
    answers = await asyncio.gather(*(ask(parts, text) for text in texts), return_exceptions=True)
    failed = [text for text, answer in zip(texts, answers, strict=True) if isinstance(answer, BaseException)]
    assert failed == ["explode"]


async def test_requests_in_flight_finish_on_the_release_they_began_with(
    installation: Installation, parts: Parts
) -> None:
    installation.publish("slow", behaviour="slow")
    installation.release("slow")
    await parts.following.refresh()
    early = asyncio.create_task(ask(parts, "hello"))
    await asyncio.sleep(0)
    installation.release("v2")
    await parts.following.refresh()
    installation.release("v1")
    await parts.following.refresh()  # by now nothing keeps `slow` but the request
    (late,) = await ask(parts, "hello")
    assert (late.version, late.generation) == ("v1", 4)
    ((one),) = await early
    assert (one.version, one.generation) == ("slow", 2)


async def test_a_log_that_takes_nothing_does_not_keep_an_answer_back(
    parts: Parts, installation: Installation, refusing_log: Callable[[], None]
) -> None:
    refusing_log()
    answer = await parts.predictor.predict(PredictRequest(["hello", "world"]))
    assert not answer.logged
    assert parts.metrics.unlogged._value.get() == 2
    assert events_of(installation.log) == []


async def test_while_the_disk_hangs_answers_come_after_a_while_and_say_that_they_are_not_logged(
    parts: Parts, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "PATIENCE_SECONDS", 0.1)
    append, go_on = parts.log.append, threading.Event()
    monkeypatch.setattr(parts.log, "append", lambda events: go_on.wait(10) and append(events))
    requests = [PredictRequest([f"text {number}"]) for number in range(20)]
    answers = await asyncio.gather(*(parts.predictor.predict(one) for one in requests))
    assert {answer.logged for answer in answers} == {False}
    assert parts.metrics.unlogged._value.get() == 20
    go_on.set()
    assert (await parts.predictor.predict(requests[0])).logged


async def test_with_relaxed_durability_answers_do_not_wait_for_the_log(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts.assemble(installation.settings.model_copy(update={"durability": "relaxed"}))
    await parts.start()
    kept = await parts.predictor.predict(PredictRequest(["hello"]))
    assert kept.logged is None
    wait = asyncio.create_task(parts.journal.append([]))  # behind what waits already
    assert await wait
    assert events_of(installation.log) == kept.predictions
    monkeypatch.setattr(parts.log, "append", _refuse)
    assert (await parts.predictor.predict(PredictRequest(["hello", "world"]))).logged is None
    await parts.close()
    assert parts.metrics.unlogged._value.get() == 2


async def test_with_durability_off_predictions_are_answered_and_forgotten(installation: Installation) -> None:
    parts = Parts.assemble(installation.settings.model_copy(update={"durability": "off"}))
    await parts.start()
    assert (await parts.predictor.predict(PredictRequest(["hello"]))).logged is False
    await parts.feedback.give(FeedbackGiven(prediction_id=new_id(), correct=True))
    await parts.close()
    assert (events_of(installation.log), len(events_of(installation.log, FeedbackGiven))) == ([], 1)
    assert parts.metrics.unlogged._value.get() == 0


async def test_feedback_that_cannot_be_logged_is_refused(parts: Parts, refusing_log: Callable[[], None]) -> None:
    refusing_log()
    with pytest.raises(LogUnavailable):
        await parts.feedback.give(FeedbackGiven(prediction_id=new_id(), correct=True))


async def test_before_a_version_is_loaded_there_are_no_answers(tmp_path_factory: pytest.TempPathFactory) -> None:
    parts = Parts.assemble(installation_in(tmp_path_factory.mktemp("empty")).settings)
    with pytest.raises(NotReady):
        await ask(parts, "hello")
    await parts.close()


@pytest.fixture
def refusing_log(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(parts.log, "append", _refuse)


def _refuse(events: object) -> None:
    raise LogUnavailable("the disk is full")

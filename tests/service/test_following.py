"""The service takes over a release only when it may, and never drops what works."""

from collections.abc import Callable

import pytest

from regraft import releases
from regraft.errors import LogUnavailable, NotReady, VersionRefused
from service import following
from service.following import Following
from service.memory import Memory
from service.metrics import Metrics
from service.models import Model
from service.parts import Parts
from tests.service.conftest import Installation, installation_in


def swaps(parts: Parts, outcome: str) -> float:
    return float(parts.metrics.swaps.labels(outcome)._value.get())


async def test_nothing_is_ready_before_there_is_a_release(tmp_path_factory: pytest.TempPathFactory) -> None:
    installation = installation_in(tmp_path_factory.mktemp("empty"))
    parts = Parts.assemble(installation.settings)
    await parts.start()
    assert not parts.following.ready
    with pytest.raises(NotReady):
        _ = parts.following.serving
    await parts.close()


async def test_a_new_release_is_taken_over_without_being_asked_for(installation: Installation, parts: Parts) -> None:
    installation.release("v2")
    await parts.following.refresh()
    assert parts.following.serving.production.version == "v2"
    assert parts.following.serving.release.generation == 2
    assert parts.metrics.generation._value.get() == 2


async def test_the_way_back_is_kept_in_memory(installation: Installation, parts: Parts) -> None:
    first = parts.following.serving.production
    installation.release("v2")
    await parts.following.refresh()
    now = releases.current(installation.log)
    releases.change(installation.log, now, releases.roll_back(now), who="test", why="test")
    await parts.following.refresh()
    assert parts.following.serving.production is first


async def test_versions_that_nothing_leads_back_to_are_let_go(installation: Installation, parts: Parts) -> None:
    installation.publish("v3", "v4")
    for version in ("v2", "v3", "v4"):
        installation.release(version)
        await parts.following.refresh()
    assert parts.following.loaded == ["v3", "v4"]


async def test_a_refused_production_version_leaves_the_old_one_serving(
    installation: Installation, parts: Parts
) -> None:
    installation.publish("bad", behaviour="wrong_golden")
    installation.release("bad")
    await parts.following.refresh()
    assert parts.following.serving.production.version == "v1"
    assert parts.following.release.production == "bad"
    assert "golden example" in parts.following.refused["bad"]
    assert swaps(parts, "refused") == 1
    await parts.following.refresh()
    assert swaps(parts, "refused") == 1


async def test_after_a_refusal_the_next_release_is_taken(installation: Installation, parts: Parts) -> None:
    installation.publish("bad", behaviour="corrupted")
    for version in ("bad", "v2"):
        installation.release(version)
        await parts.following.refresh()
    assert parts.following.serving.production.version == "v2"
    assert parts.following.refused == {}


async def test_a_refused_candidate_does_not_stop_a_change_of_production(
    installation: Installation, parts: Parts
) -> None:
    installation.publish("bad", behaviour="wrong_golden")
    installation.release("v2", "bad", 0.5)
    await parts.following.refresh()
    serving = parts.following.serving
    assert (serving.production.version, serving.candidate) == ("v2", None)
    assert {serving.arm_for(str(number)).value for number in range(100)} == {"production"}
    assert list(parts.following.refused) == ["bad"]


async def test_what_cannot_be_fetched_yet_is_tried_again(
    installation: Installation, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.release("v2")
    load = _failing_first(parts.following._load, OSError("the store is away"))
    monkeypatch.setattr(parts.following, "_load", load)
    await parts.following.refresh()
    assert parts.following.serving.production.version == "v1"
    await parts.following.refresh()
    assert parts.following.serving.production.version == "v1"  # not at once
    assert parts.following.stale == "generation 2 cannot be loaded yet: the store is away"
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    parts.following._retry_at = 0.0
    await parts.following.refresh()
    assert parts.following.serving.production.version == "v2"
    assert parts.following.stale is None
    assert swaps(parts, "failed") == 1


async def test_a_log_that_cannot_be_read_changes_nothing(
    installation: Installation, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.following._follower, "refresh", _refuse)
    await parts.following.refresh()
    assert parts.following.serving.production.version == "v1"
    assert parts.following.stale == "the release cannot be read: away"
    assert parts.metrics.stale._value.get() == 1
    monkeypatch.undo()
    await parts.following.refresh()
    assert parts.following.stale is None
    assert parts.metrics.stale._value.get() == 0


async def test_a_server_that_starts_while_the_log_is_away_serves_what_it_served_last(
    installation: Installation, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.release("v1", "v2", 0.4)
    await parts.following.refresh()
    again = Parts.assemble(installation.settings)
    monkeypatch.setattr(again.following._follower, "refresh", _refuse)
    await again.start()
    assert again.following.serving.release == parts.following.serving.release
    assert again.following.serving.candidate is not None
    assert again.following.stale == "the release cannot be read: away"
    before = again.following.serving
    monkeypatch.undo()
    await again.following.refresh()
    assert again.following.stale is None
    assert again.following.serving is before  # it is the newest: nothing is loaded again
    installation.release("v2")
    await again.following.refresh()
    assert again.following.serving.production.version == "v2"
    await again.close()


@pytest.mark.parametrize("content", [None, b"", b'{"generation": 1, "production"', b'{"share": "much"}'])
async def test_without_log_and_memory_a_server_is_alive_and_says_why_it_is_not_ready(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (installation.settings.home / "release.json").write_bytes(content)
    parts = Parts.assemble(installation.settings)
    monkeypatch.setattr(parts.following._follower, "refresh", _refuse)
    await parts.start()
    assert not parts.following.ready
    with pytest.raises(NotReady, match="the release cannot be read: away"):
        _ = parts.following.serving
    monkeypatch.undo()
    await parts.following.refresh()
    assert parts.following.serving.production.version == "v1"
    await parts.close()


async def test_a_memory_that_cannot_be_kept_costs_only_the_memory(installation: Installation) -> None:
    (installation.settings.home / "release.json").mkdir(parents=True)
    parts = Parts.assemble(installation.settings)
    await parts.start()
    assert parts.following.ready
    assert [path.name for path in installation.settings.home.iterdir() if path.name.startswith(".")] == []
    await parts.close()


async def test_without_any_version_that_may_serve_the_service_is_not_ready(installation: Installation) -> None:
    def refuse(version: str) -> Model:
        raise VersionRefused(f"version {version} is no good")

    memory = Memory(installation.settings.home / "release.json")
    one = Following(installation.log, refuse, Metrics(installation.log), memory, poll_seconds=1)
    await one.start()
    assert not one.ready
    assert one.refused == {"v1": "version v1 is no good"}
    await one.close()


def _refuse() -> releases.Release:
    raise LogUnavailable("away")


def _failing_first(load: Callable[[str], Model], error: Exception) -> Callable[[str], Model]:
    errors = [error]

    def wrapped(version: str) -> Model:
        if errors:
            raise errors.pop()
        return load(version)

    return wrapped

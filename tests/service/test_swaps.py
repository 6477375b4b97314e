"""No request fails because a release changed."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from regraft.events import PredictionMade, ReleaseChanged
from tests.service.callers import calling
from tests.service.conftest import Server, events_of, installation_in, serving, wait_until

SWAPS = 1_000
# production, candidate, share: shares raised and lowered, promotions, rollbacks, candidates withdrawn and replaced.
CYCLE: list[tuple[str, str | None, float]] = [
    ("v1", "v2", 0.1),
    ("v1", "v2", 0.5),
    ("v2", None, 0.0),
    ("v1", None, 0.0),
    ("v1", "v2", 0.2),
    ("v1", "v3", 0.3),
    ("v3", None, 0.0),
    ("v1", None, 0.0),
    ("v1", "v3", 0.9),
    ("v1", None, 0.0),
]


@pytest.mark.slow
def test_a_thousand_releases_are_swapped_under_load_without_a_failed_request(tmp_path: Path) -> None:
    installation = installation_in(tmp_path, poll_seconds=0.002)
    installation.publish("v1", "v2", "v3")
    installation.release("v1")
    with serving(installation) as server:
        wait_until(server.ready)
        with calling(server, threads=2) as callers:
            for number in range(SWAPS):
                production, candidate, share = CYCLE[number % len(CYCLE)]
                change = ReleaseChanged(
                    replaces=number + 1, production=production, candidate=candidate, share=share, who="test", why="test"
                )
                installation.log.append([change])
                wait_until(partial(_serves, server, number + 2), every=0.001)
        swaps = server.samples()['regraft_swaps_total{outcome="taken"}']
    predictions: list[PredictionMade] = events_of(installation.log)
    generations = Counter(one.generation for one in predictions)
    print(f"{swaps:.0f} swaps, {len(callers.answers)} answers under {len(generations)} of the generations, 0 failed")
    assert callers.failures == []
    assert swaps == SWAPS + 1
    assert len(generations) > SWAPS / 4
    for one in predictions:
        production, candidate, _ = CYCLE[(one.generation - 2) % len(CYCLE)] if one.generation > 1 else ("v1", None, 0)
        assert one.version == (production if one.arm == "production" else candidate)


def _serves(server: Server, generation: int) -> bool:
    return bool(server.get("/release").json()["serving"]["generation"] == generation)

"""Two worker processes behind one port: ready together, counted together, unharmed by a full disk."""

import re
import resource
from collections.abc import Iterator

import psutil
import pytest

from regraft.ids import new_id
from tests.service.conftest import Server, events_of, installation_in, serving, wait_until


@pytest.fixture(scope="module")
def unready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    installation = installation_in(tmp_path_factory.mktemp("workers"), workers=2)
    installation.publish("v1")
    with serving(installation) as server:
        wait_until(lambda: len(server.workers()) == 2)
        yield server


@pytest.fixture
def pair(unready: Server) -> Server:
    if not unready.ready():
        unready.installation.release("v1")
    # Each of them counts, also one that was slow to start and so is not in the lowest generation yet.
    wait_until(lambda: unready.samples().get('regraft_swaps_total{outcome="taken"}') == 2)
    return unready


def test_a_server_is_alive_but_not_ready_until_a_version_is_released(unready: Server) -> None:
    assert unready.get("/livez").status_code == 200
    assert unready.get("/readyz").status_code == 503
    response = unready.post("/predict", {"input": "hello"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
    unready.installation.release("v1")
    wait_until(unready.ready)
    wait_until(lambda: unready.samples().get("regraft_release_generation") == 1)
    assert unready.post("/predict", {"input": "hello"}).status_code == 200


def test_the_metrics_are_those_of_both_workers_together(pair: Server) -> None:
    before = pair.samples()
    for number in range(60):
        assert pair.post("/predict", {"input": f"positive {number}"}).status_code == 200
    pair.post("/predict/batch", {"inputs": ["negative"] * 20})
    pair.post("/feedback", {"prediction_id": new_id(), "correct": True})
    for _ in range(20):
        assert pair.post("/predict", {"input": ""}).status_code == 422
    after = pair.samples()

    def grown(prefix: str) -> float:
        return sum(value - before.get(name, 0) for name, value in after.items() if name.startswith(prefix))

    here = 'arm="production",version="v1"'
    assert grown('regraft_predictions_total{arm="production",label="positive",version="v1"}') == 60
    assert grown('regraft_predictions_total{arm="production",label="negative",version="v1"}') == 20
    assert grown(f"regraft_prediction_confidence_count{{{here}}}") == 80
    assert grown(f"regraft_queue_seconds_count{{{here}}}") == 80
    assert grown(f"regraft_request_seconds_count{{{here}}}") == 61
    assert grown('regraft_batch_size_sum{version="v1"}') == 80
    assert grown('regraft_inference_seconds_count{version="v1"}') == grown('regraft_batch_size_count{version="v1"}')
    assert grown('regraft_feedback_total{correct="true"}') == 1
    assert grown('regraft_errors_total{code="invalid_input"}') == 20
    assert after['regraft_swaps_total{outcome="taken"}'] == 2
    assert after["regraft_candidate_share"] == 0


def test_nothing_that_callers_say_becomes_a_label(pair: Server) -> None:
    """Or else whoever asks for enough paths, versions or subjects would fill Prometheus."""
    pair.post("/predict", {"input": "odd-text", "subject": "odd-subject", "metadata": {"odd-name": "odd-value"}})
    pair.post("/feedback", {"prediction_id": new_id(), "correct": False, "label": "odd-label"})
    for path in ("/odd-path", "/v2/models/odd-model/infer", "/v2/models/reviews/versions/odd-version/infer"):
        assert pair.post(path, {}).status_code == 404
    assert pair.client.request("PROPFIND", "/predict").status_code == 405
    page = pair.get("/metrics").text.lower()
    assert not re.search("odd|propfind", page)
    labels: dict[str, set[str]] = {}
    for name, value in re.findall(r'[{,](\w+)="([^"]*)"', page):
        labels.setdefault(name, set()).add(value)
    known = {"version", "arm", "label", "code", "correct", "outcome", "reason", "le"}
    assert labels.keys() <= known, f"{labels.keys() - known}: is it bounded?"
    assert labels["version"] == {"v1"}
    assert labels["arm"] == {"production"}


def test_all_workers_listen_on_the_port_for_grpc(pair: Server) -> None:
    port = pair.installation.settings.grpc_port
    listening = [
        worker.pid
        for worker in pair.workers()
        for one in worker.net_connections()
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    ]
    assert len(listening) == len(set(listening)) == 2


def test_with_a_full_disk_answers_go_on_and_say_that_they_are_not_logged(pair: Server) -> None:
    """The disk is "full" where no file of the workers may grow beyond a few hundred kilobytes more than the log has."""
    log = pair.installation.settings.home / "log.sqlite"
    fill = {"inputs": ["x" * 1_900] * 100}
    limit = log.stat().st_size + 200_000
    for worker in pair.workers():
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    logged = [pair.post("/predict/batch", fill).json()["predictions"][0]["logged"] for _ in range(40)]
    assert not logged[-1]
    response = pair.post("/predict", {"input": "a positive thing"})
    assert (response.status_code, response.json()["label"], response.json()["logged"]) == (200, "positive", False)
    refused = pair.post("/feedback", {"prediction_id": new_id(), "correct": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_unavailable")
    assert pair.samples()["regraft_unlogged_predictions_total"] >= 101
    assert pair.ready()

    for worker in pair.workers():
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(lambda: pair.post("/predict", {"input": "there is room again"}).json()["logged"])
    answer = pair.post("/predict", {"input": "and all is well"}).json()
    assert answer["prediction_id"] in {event.id for event in events_of(pair.installation.log)}

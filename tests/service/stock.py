"""Runs the stock client in its own process, and says what every kind of it must have got."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import Server, events_of
from tests.service.stock_client import TEXTS

SCRIPT = Path(__file__).with_name("stock_client.py")
COLUMNS = {"label", "confidence", "probabilities", "prediction_id"}


def ask(client: str, port: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, SCRIPT, client, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_what_a_stock_client_got(server: Server, client: str, found: dict[str, Any]) -> None:
    assert [found[name] for name in ("live", "ready", "model_ready", "version_ready")] == [True] * 4
    assert (found["server"]["name"], found["server"]["extensions"]) == ("regraft", ["binary_tensor_data"])
    assert (found["model"]["name"], found["model"]["versions"]) == ("reviews", ["v1"])
    assert found["model"]["inputs"][0]["name"] == "input"
    assert {output["name"] for output in found["model"]["outputs"]} == COLUMNS

    native = server.post("/predict/batch", {"inputs": TEXTS}).json()["predictions"]
    plain, named = found["plain"], found["named"]
    assert plain["label"] == named["label"] == [one["label"] for one in native]
    assert plain["confidence"] == pytest.approx([one["confidence"] for one in native], abs=1e-6)
    for row, one in zip(plain["probabilities"], native, strict=True):
        assert row == pytest.approx(list(one["probabilities"].values()), abs=1e-6)
    assert set(named) == {"label", "prediction_id", "version", "id"}
    assert (named["version"], named["id"]) == ("v1", "request 7")

    events = {event.id: event for event in events_of(server.installation.log)}
    assert [events[one].input for one in plain["prediction_id"]] == TEXTS
    for one in named["prediction_id"]:
        assert events[one].subject == f"subject of {client}"
        assert events[one].metadata["source"] == "stock"
        assert events[one].trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert found["error"][1] == "there is no model 'nothing'; this server has 'reviews'"

"""`regraft serve` becomes the server, with everything it needs in the environment."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from regraft.cli import main
from tests.fakes import tiny_task


def test_serve_hands_over_to_bentoml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(os, "execvpe", lambda *call: called.extend(call))
    monkeypatch.setenv("REGRAFT_WORKERS", "3")
    monkeypatch.setenv("REGRAFT_PORT", "3999")
    monkeypatch.setenv("REGRAFT_GRPC_PORT", "0")
    task = tiny_task(tmp_path)
    result = CliRunner().invoke(main, ["--task", str(task), "--home", str(tmp_path / "home"), "serve"])
    assert result.exit_code == 0, result.output
    _, command, environment = called
    assert command[1:5] == ["-m", "bentoml", "serve", "service.app:Service"]
    assert command[command.index("--port") + 1] == "3999"
    assert environment["REGRAFT_TASK"] == str(task)
    assert environment["BENTOML_HOME"] == str(tmp_path / "home" / "bentoml")
    assert json.loads(environment["BENTOML_CONFIG_OVERRIDES"])["services"]["regraft"]["workers"] == 3


def test_serve_does_not_start_with_a_bad_file_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("it was started"))
    monkeypatch.setenv("REGRAFT_KEYS_FILE", str(tmp_path / "none.yaml"))
    result = CliRunner().invoke(main, ["--task", str(tiny_task(tmp_path)), "serve"])
    assert result.exit_code == 1
    assert "none.yaml: cannot be read" in result.output


def test_serve_shares_no_port_with_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("it was started"))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("REGRAFT_GRPC_PORT", str(other.getsockname()[1]))
        result = CliRunner().invoke(main, ["--task", str(tiny_task(tmp_path)), "serve"])
    assert result.exit_code == 1
    assert "REGRAFT_GRPC_PORT" in result.output
    assert "in use" in result.output

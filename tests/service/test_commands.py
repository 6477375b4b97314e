"""`regraft serve` becomes the server, with everything it needs in the environment."""

import json
import os
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
    task = tiny_task(tmp_path)
    result = CliRunner().invoke(main, ["--task", str(task), "--home", str(tmp_path / "home"), "serve"])
    assert result.exit_code == 0, result.output
    _, command, environment = called
    assert command[1:5] == ["-m", "bentoml", "serve", "service.app:Service"]
    assert command[command.index("--port") + 1] == "3999"
    assert environment["REGRAFT_TASK"] == str(task)
    assert environment["BENTOML_HOME"] == str(tmp_path / "home" / "bentoml")
    assert json.loads(environment["BENTOML_CONFIG_OVERRIDES"])["services"]["regraft"]["workers"] == 3

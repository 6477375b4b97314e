"""The command line: versions, releases, and the commands that the parts add."""

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from regraft import cli
from regraft.cli import main
from regraft.versions import VersionStore
from tests.regraft.test_versions import manifest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"network")
    for minute, version in enumerate(("v1", "v2")):
        VersionStore(str(tmp_path / "versions")).publish(folder, manifest(version, minute))
    return tmp_path


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *arguments])


def test_versions_are_listed_with_their_arm(home: Path) -> None:
    run(home, "release", "promote", "v1")
    lines = run(home, "versions", "list").output.splitlines()
    assert lines[0].startswith("v1")
    assert lines[0].endswith("production")
    assert "test accuracy 0.800 (0.750 to 0.850)" in lines[1]


def test_a_version_is_shown_and_exported(home: Path) -> None:
    assert json.loads(run(home, "versions", "show", "v1").output)["version"] == "v1"
    assert run(home, "versions", "export", "v1", str(home / "out")).exit_code == 0
    assert (home / "out" / "model.onnx").read_bytes() == b"network"


def test_a_release_goes_its_way(home: Path) -> None:
    assert "production v1" in run(home, "release", "promote", "v1").output
    assert "candidate v2 with 20%" in run(home, "release", "share", "v2", "0.2").output
    assert "production v2" in run(home, "release", "promote", "v2", "--who", "rita", "--why", "better").output
    shown = json.loads(run(home, "release", "show").output)
    assert (shown["generation"], shown["production"], shown["who"], shown["why"]) == (3, "v2", "rita", "better")
    assert "production v1" in run(home, "release", "rollback").output
    assert len(run(home, "release", "show", "--history").output.splitlines()) == 4


def test_the_release_of_a_past_moment_is_shown(home: Path) -> None:
    run(home, "release", "promote", "v1")
    assert json.loads(run(home, "release", "show", "--at", "2020-01-01").output)["production"] is None
    assert json.loads(run(home, "release", "show", "--at", "2100-01-01").output)["production"] == "v1"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("release", "promote", "v9"), "no version 'v9'"),
        (("release", "share", "v1", "0.5"), "no version is in production"),
        (("release", "share", "v1", "half"), "not a valid float"),
        (("release", "rollback"), "no earlier version"),
        (("versions", "show", "v9"), "no version 'v9'"),
        (("nonsense",), "No such command"),
    ],
)
def test_a_mistake_is_a_sentence_and_a_status(home: Path, arguments: tuple[str, ...], problem: str) -> None:
    result = run(home, *arguments)
    assert result.exit_code != 0
    assert problem in result.output
    assert "Traceback" not in result.output


def test_the_parts_add_their_commands(home: Path) -> None:
    output = run(home, "--help").output
    for name in ("check", "train", "worker", "serve", "monitor", "up", "release", "versions"):
        assert f"\n  {name} " in output


def test_a_part_that_is_not_installed_says_how_to_get_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("paint", "no_such_library.commands:paint", cli.COMMANDS)
    monkeypatch.setattr(cli, "entry_points", lambda **given: EntryPoints([point]).select(**given))
    result = run(home, "paint", "--colour", "red")
    assert result.exit_code == 1
    assert "pip install 'regraft[no_such_library]'" in result.output

"""docs/api.md says what is so: its errors, its limits, and the files that it tells clients to take."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from regraft import errors
from regraft.sections import Serving
from service import guards, routes
from service.grpc_calls import STATUSES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
# Bases of others, what the command line says, what other services answer, and what HTTP alone knows.
NOT_ANSWERED = {"bad_request", "unavailable", "config", "data", "conflict", "version_refused"}
HTTP_ALONE = {"request_timeout", "unsupported_media_type", "method_not_allowed"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below this heading, without its head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def kinds_of(kind: type[errors.RegraftError]) -> list[type[errors.RegraftError]]:
    """Without those that other parts of the system have to themselves, imported by other tests."""
    ours = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(one for child in ours for one in kinds_of(child))]


def test_the_errors_are_those_that_there_are() -> None:
    said = {code: (status, grpc, retriable) for status, code, grpc, retriable, _ in rows("Errors")}
    answered = {kind.code: kind for kind in kinds_of(errors.RegraftError) if kind.code not in NOT_ANSWERED}
    assert said.keys() == answered.keys() | {"method_not_allowed"}
    for code, kind in answered.items():
        grpc = "" if code in HTTP_ALONE else STATUSES[kind.status].name
        assert said[code] == (str(kind.status), grpc, "yes" if kind.retriable else "no"), code


def test_the_limits_are_the_settings_defaults() -> None:
    said = {setting: default for _, setting, default, _ in rows("Limits") if setting in Serving.model_fields}
    assert len(said) == 7
    for setting, default in said.items():
        assert float(default.replace(",", "")) == Serving.model_fields[setting].default, setting


def test_no_endpoint_is_left_out() -> None:
    for route in routes.build().routes:
        if isinstance(route, APIRoute):
            shown = re.sub(r"^/v2.*", "/v2/", route.path)
            assert shown in PAGE, route.path
            assert all(f"| {scope} |" in PAGE for scope in guards.of_path(route.path))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_protocol_for_clients(wheel: Path) -> None:
    for file in ("open_inference.proto", "regraft.proto"):
        with zipfile.ZipFile(wheel) as archive:
            assert archive.read(f"service/proto/{file}") == (ROOT / "service" / "proto" / file).read_bytes()

"""The image's content: it holds what serves and nothing else, and it answers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.service.conftest import installation_in, serving, wait_until

ROOT = Path(__file__).parents[2]
IMPORT = """
import sys
sys.path = [sys.argv[1]] + [entry for entry in sys.path if entry not in ("", sys.argv[2])]
import regraft, service.app
print(service.app.__file__, regraft.__file__)
print([name for name in ("torch", "transformers", "evidently", "duckdb", "training") if name in sys.modules])
"""


@pytest.fixture(scope="module", autouse=True)
def uncounted() -> Iterator[None]:
    """The copies in the Bento are not what coverage is about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML home with the Bento in it."""
    home = tmp_path_factory.mktemp("bentoml")
    environment = os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
    built = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "."], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return home


def bento_in(home: Path) -> Path:
    return home / "bentos" / "regraft" / (home / "bentos" / "regraft" / "latest").read_text()


def test_the_bento_holds_the_ground_floor_and_the_service_alone(home: Path) -> None:
    source = bento_in(home) / "src"
    assert {path.relative_to(source).parts[0] for path in source.rglob("*.py")} == {"regraft", "service"}
    assert {path.name for path in source.rglob("*.proto")} == {"open_inference.proto", "regraft.proto"}
    requirements = (bento_in(home) / "env" / "python" / "requirements.txt").read_text()
    names = {line.partition("==")[0] for line in requirements.splitlines() if "==" in line and line[0].isalpha()}
    assert {"bentoml", "fastapi", "onnxruntime", "tokenizers", "opentelemetry-exporter-otlp-proto-http"} <= names
    assert not names & {"torch", "torchvision", "transformers", "evidently", "duckdb", "pandas", "pyarrow"}


def test_the_bento_for_gpus_differs_in_its_libraries_alone() -> None:
    plain, with_cuda = (yaml.safe_load((ROOT / name).read_text()) for name in ("bentofile.yaml", "bentofile.gpu.yaml"))
    assert with_cuda["python"].pop("requirements_txt") == "locks/gpu.txt"
    assert plain["python"].pop("requirements_txt") == "locks/serve.txt"
    assert with_cuda | {"description": plain["description"]} == plain


def test_the_bento_needs_nothing_outside_it(home: Path) -> None:
    source = bento_in(home) / "src"
    imported = subprocess.run(
        [sys.executable, "-c", IMPORT, str(source), str(ROOT)], capture_output=True, text=True, cwd=home
    )
    assert imported.returncode == 0, imported.stderr
    files, heavy = imported.stdout.splitlines()
    assert all(file.startswith(str(source)) for file in files.split())
    assert heavy == "[]"


def test_the_bento_answers(home: Path, tmp_path: Path) -> None:
    installation = installation_in(tmp_path)
    installation.publish("v1")
    installation.release("v1")
    command = [sys.executable, "-m", "bentoml", "serve", "regraft:latest"]
    command += ["--host", "127.0.0.1", "--port", str(installation.settings.port)]
    with serving(installation, command, BENTOML_HOME=str(home), BENTOML_DO_NOT_TRACK="true") as server:
        wait_until(server.ready)
        answer = server.post("/predict", {"input": "a positive thing"})
    assert (answer.status_code, answer.json()["label"]) == (200, "positive")

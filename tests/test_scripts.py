import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))


def requirements(lock: Path) -> list[str]:
    """The requirements of a lock, each with the hashes that follow it."""
    text = re.sub(r"\\\n", " ", lock.read_text())
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def names(lock: Path) -> set[str]:
    return {line.partition("==")[0] for line in requirements(lock)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run_and_stops_at_the_first_error(script: Path) -> None:
    assert os.access(script, os.X_OK)
    shebang = script.read_text().splitlines()[0]
    if "bash" in shebang:
        subprocess.run(["bash", "-n", script], check=True)
        assert "\nset -euo pipefail\n" in script.read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_requirement_has_one_version_and_its_hashes(lock: Path) -> None:
    for requirement in requirements(lock):
        assert re.match(r"[a-z0-9][a-z0-9.-]*==\S+( ; .*?)? +--hash=sha256:[0-9a-f]{64}", requirement), requirement


def test_the_serving_image_gets_nothing_that_trains_or_analyses() -> None:
    locked = names(ROOT / "locks" / "serve.txt")
    assert "bentoml" in locked
    assert not locked & {
        "torch",
        "torchvision",
        "transformers",
        "timm",
        "scikit-learn",
        "evidently",
        "duckdb",
        "pandas",
    }


def test_the_image_for_gpus_gets_cuda_and_nothing_else_besides() -> None:
    plain, with_cuda = (names(ROOT / "locks" / name) for name in ("serve.txt", "gpu.txt"))
    assert plain < with_cuda
    assert {name.partition("-")[0] for name in with_cuda - plain} == {"nvidia"}


@pytest.mark.parametrize("lock", ["serve.txt", "gpu.txt"])
def test_what_serves_is_what_was_tested(lock: str) -> None:
    tested = set(requirements(ROOT / "locks" / "all.txt"))
    pins = {re.split(r"[ ;]", line)[0] for line in tested}
    assert {re.split(r"[ ;]", line)[0] for line in requirements(ROOT / "locks" / lock)} <= pins


def test_no_file_says_where_this_machine_gets_its_packages() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    address = re.compile(r"https?://[^\s\"']*(pypi|pythonhosted|/simple\b)|--(extra-)?index-url|--find-links")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path != Path(__file__) and path.is_file():
            assert address.findall(path.read_text(errors="ignore")) == [], name


def test_setup_names_the_python_it_wants_when_there_is_none() -> None:
    assert "there is no no-such-python here: install Python 3.11" in failing_setup("no-such-python")


def test_setup_refuses_an_old_python_in_a_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\ncase "$2" in *print*) echo 3.9.2 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    assert "is Python 3.9.2, and Regraft needs 3.11, 3.12 or 3.13" in failing_setup(str(old))


def failing_setup(python: str) -> str:
    environment = os.environ | {"PYTHON": python}
    done = subprocess.run([ROOT / "scripts" / "setup"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    return done.stderr

"""The store of inputs: once each, whole or not at all, found by reference and by nothing else."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regraft.errors import ConfigError, NotFound
from regraft.inputs import InputStore, reference_of

A, B = b"a picture", b"another"


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> InputStore:
    return InputStore(str(tmp_path / "inputs") if request.param == "local" else f"memory://{tmp_path}")


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def test_what_is_kept_is_found_by_its_reference(store: InputStore) -> None:
    assert store.keep(A) == reference_of(A) != store.keep(B)
    assert store.read(reference_of(A)) == A


@pytest.mark.parametrize(
    "reference", [reference_of(b"never kept"), "sha256:../../etc/passwd", "", "sha256:" + "A" * 64]
)
def test_what_was_never_kept_is_not_found(store: InputStore, reference: str) -> None:
    with pytest.raises(NotFound):
        store.read(reference)


def test_the_same_content_is_kept_once_by_however_many(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(InputStore(str(tmp_path)).keep, [A] * 200))) == 1
    (file,) = files(tmp_path)
    assert file.read_bytes() == A


def test_what_came_out_short_is_written_again_and_what_was_changed_is_not_given_out(tmp_path: Path) -> None:
    store = InputStore(str(tmp_path))
    reference = store.keep(A)
    (file,) = files(tmp_path)
    file.write_bytes(A[::-1])
    with pytest.raises(NotFound, match="damaged"):
        store.read(reference)
    file.write_bytes(b"")
    assert store.read(store.keep(A)) == A


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="No space left"):
            InputStore(str(tmp_path)).keep(A)
    assert files(tmp_path) == []


def test_old_ones_are_forgotten_but_for_those_that_are_spared_or_came_again(store: InputStore) -> None:
    spared, old = store.keep(A), store.keep(B)
    assert store.forget(datetime.now(UTC) - timedelta(minutes=1), spared={spared}) == 0
    assert store.forget(datetime.now(UTC) + timedelta(minutes=1), spared={spared}) == 1
    assert store.read(spared) == A
    with pytest.raises(NotFound):
        store.read(old)


def test_one_that_comes_again_is_young_again(tmp_path: Path) -> None:
    store = InputStore(str(tmp_path))
    store.keep(A)
    (file,) = files(tmp_path)
    os.utime(file, (0, 0))
    store.keep(A)
    assert store.forget(datetime.now(UTC) - timedelta(minutes=1), spared=()) == 0


def test_one_input_can_be_removed_for_good(store: InputStore) -> None:
    reference = store.keep(A)
    assert store.remove(reference)
    assert not store.remove(reference)
    with pytest.raises(NotFound):
        store.read(reference)


def test_an_address_that_nothing_understands_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        InputStore("nonsense://somewhere")

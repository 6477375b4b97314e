"""Inputs that are too large for the event log: kept in files, each named by the hash of what it holds.

content -> sha256 -> ROOT/ab/abcd... under a temporary name -> renamed -> `sha256:abcd...`, which the event carries

The same content is kept once, however often it comes and from however many processes. The root is a path or any
fsspec URL. Like a prediction's commit, a file survives a kill but may be lost with the power in its first moments.
"""

import hashlib
import os
import re
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from regraft.errors import ConfigError, NotFound

_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")


def reference_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class InputStore:
    """Safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"the store of inputs {url!r} cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def keep(self, content: bytes) -> str:
        """Its reference, once it is there. What is there already only becomes young again, so that `forget` leaves it.
        Raises whatever the file system raises, OSError mostly."""
        reference = reference_of(content)
        if self._local:
            _keep_locally(Path(self._path(reference)), content)
        else:
            self._fs.pipe_file(self._path(reference), content)  # appears whole, or not at all
        return reference

    def read(self, reference: str) -> bytes:
        """Raises NotFound for what is not there, or is not what was kept."""
        try:
            content = bytes(self._fs.cat_file(self._path(reference)))
        except FileNotFoundError as error:
            raise NotFound(f"there is no input {reference!r} any more") from error
        if reference_of(content) != reference:
            raise NotFound(f"the input {reference!r} is damaged")
        return content

    def has(self, reference: str) -> bool:
        return bool(self._fs.exists(self._path(reference)))

    def address(self, reference: str) -> str:
        """Where it is kept: a path, or an fsspec URL."""
        path = self._path(reference)
        return path if self._local else str(self._fs.unstrip_protocol(path))

    def remove(self, reference: str) -> bool:
        """Whether it was there."""
        try:
            self._fs.rm_file(self._path(reference))
        except FileNotFoundError:
            return False
        return True

    def forget(self, before: datetime, spared: Collection[str]) -> int:
        """Remove what was last kept before that moment and is not among the `spared` references; says how many."""
        found = self._fs.find(self._root, detail=True) if self._fs.exists(self._root) else {}
        old = [path for path in found if _aware(self._fs.modified(path)) < before]
        gone = [path for path in old if f"sha256:{path.rsplit('/', 1)[-1]}" not in spared]
        return sum(self._remove(path) for path in gone)

    def _remove(self, path: str) -> bool:
        try:
            self._fs.rm_file(path)
        except FileNotFoundError:  # somebody else forgets as well
            return False
        return True

    def _path(self, reference: str) -> str:
        """Raises NotFound for what is no reference, so that none leads out of the root."""
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise NotFound(f"{reference[:100]!r} is no reference to an input")
        return f"{self._root}/{match[1][:2]}/{match[1]}"


def _keep_locally(file: Path, content: bytes) -> None:
    try:
        if file.stat().st_size == len(content):
            os.utime(file)
            return
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        part.write_bytes(content)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

"""The version store: immutable folders, each a trained model with all that it needs, complete or absent.

publish: files -> (hashed into the manifest) -> copied under the version's id -> manifest.json last. A version exists
when its manifest does; on a local file system the whole folder also appears by one rename. The root is a path or any
fsspec URL.
"""

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, ValidationError

from regraft.answers import Answers, Kind, Numbers, answers_of, written
from regraft.errors import ConfigError, NotFound, VersionRefused

MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int


class Artifact(BaseModel):
    """One ONNX file of a version, and what was measured before it was kept or dropped (`kept`).

    `tolerance` is there where golden examples need not be met as closely as the manifest's says.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    kept: bool
    reason: str
    accuracy: float | None = None
    mae: float | None = None
    largest_difference: float | None = None
    tolerance: float | None = None
    measured: dict[str, Any] = {}


class Metric(BaseModel):
    """A figure with its 95% interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float

    def written(self, figure: str, sign: str = "") -> str:
        value, low, high = (written(one, figure, sign) for one in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


class Manifest(BaseModel):
    """What a version is. `artifacts` are by precision (fp32, int8, fp16); `serve_cpu` and `serve_gpu` name the best."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    version: str
    task: str
    created_at: datetime
    kind: Kind = "classification"
    labels: tuple[str, ...] = ()
    range: Numbers | None = None
    unit: float = 1.0  # of numbers: the deviation of the training part, which differences are counted in
    input: Literal["text", "image"] = "text"
    preprocessing_sha256: str
    features: int
    backbone: dict[str, Any]
    artifacts: dict[str, Artifact]
    serve_cpu: str = "fp32"
    serve_gpu: str = "fp32"
    tolerance: float = 1e-3
    temperature: float = 1.0
    validation: dict[str, Metric]
    test: dict[str, Metric]
    baselines: dict[str, dict[str, Metric]] = {}
    request_id: str | None = None
    parent: str | None = None
    training: dict[str, Any] = {}
    files: dict[str, FileEntry] = {}

    @property
    def answers(self) -> Answers:
        return answers_of(self.kind, self.labels, self.range)


class VersionStore:
    """Safe to use from several processes: publishing the same version twice leaves the first."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        """`cache` is where versions of a remote store are kept locally; a local store is used in place."""
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"the version store {url!r} cannot be opened: {error}") from error
        self._local = isinstance(self._fs, LocalFileSystem)
        self._cache = cache or Path(tempfile.gettempdir()) / "regraft-versions"

    def publish(self, folder: Path, manifest: Manifest) -> Manifest:
        """Put the files of `folder`, subfolders too, into the store as `manifest.version`; returns what is there."""
        if self.exists(manifest.version):
            return self.manifest(manifest.version)
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        entries = {name: _entry(folder / name) for name in names if name != MANIFEST}
        manifest = manifest.model_copy(update={"files": entries})
        body = manifest.model_dump_json(indent=2).encode() + b"\n"
        if self._local:
            self._publish_by_rename(folder, manifest.version, entries, body)
        else:
            for name in entries:
                self._fs.put_file(str(folder / name), self._path(manifest.version, name))
            self._fs.pipe_file(self._path(manifest.version, MANIFEST), body)
        return self.manifest(manifest.version)

    def exists(self, version: str) -> bool:
        return bool(self._fs.exists(self._path(version, MANIFEST)))

    def manifest(self, version: str) -> Manifest:
        """Raises NotFound for a version that is not there, VersionRefused for a manifest that cannot be read."""
        _check_name(version)
        try:
            body = self._fs.cat_file(self._path(version, MANIFEST))
        except FileNotFoundError as error:
            raise NotFound(f"there is no version {version!r}") from error
        try:
            return Manifest.model_validate_json(body)
        except ValidationError as error:
            raise VersionRefused(f"the manifest of version {version} is damaged") from error

    def list(self) -> list[Manifest]:
        """Every complete version, oldest first."""
        return sorted((self.manifest(version) for version in self._names()), key=lambda m: (m.created_at, m.version))

    def fetch(self, version: str) -> Path:
        """A local folder with the version's files, each held against its hash. Raises NotFound or VersionRefused."""
        manifest = self.manifest(version)
        folder = Path(self._path(version)) if self._local else self._download(manifest)
        for name, entry in manifest.files.items():
            if not (folder / name).is_file() or _entry(folder / name) != entry:
                raise VersionRefused(f"file {name} of version {version} is missing or damaged", version=version)
        return folder

    def read(self, version: str, name: str) -> bytes:
        """One file of a version, held against its hash. Raises NotFound or VersionRefused."""
        entry = self.manifest(version).files.get(name)
        if entry is None:
            raise NotFound(f"version {version} has no {name}")
        try:
            body: bytes = self._fs.cat_file(self._path(version, name))
        except FileNotFoundError:
            body = b""
        if hashlib.sha256(body).hexdigest() != entry.sha256:
            raise VersionRefused(f"file {name} of version {version} is missing or damaged", version=version)
        return body

    def _names(self) -> Iterator[str]:
        if not self._fs.exists(self._root):
            return
        for path in self._fs.ls(self._root, detail=False, refresh=True):
            name = path.rstrip("/").rsplit("/", 1)[-1]
            if not name.startswith(".") and self.exists(name):
                yield name

    def _publish_by_rename(self, folder: Path, version: str, entries: dict[str, FileEntry], body: bytes) -> None:
        root = Path(self._root)
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=root))
        try:
            for name in entries:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, staging / name)
                _sync(staging / name)
            (staging / MANIFEST).write_bytes(body)
            _sync(staging / MANIFEST)
            staging.chmod(0o755)
            try:
                staging.rename(root / version)
            except OSError:
                if not self.exists(version):  # otherwise another process published it first
                    raise
            _sync(root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _download(self, manifest: Manifest) -> Path:
        target = self._cache / hashlib.sha256(str(self._root).encode()).hexdigest()[:16] / manifest.version
        for name, entry in manifest.files.items():
            file = target / name
            if not file.is_file() or _entry(file) != entry:
                file.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
                    part.close()
                    self._fs.get_file(self._path(manifest.version, name), part.name)
                    Path(part.name).replace(file)
        (target / MANIFEST).write_text(manifest.model_dump_json(indent=2))
        return target

    def _path(self, *parts: str) -> str:
        return "/".join((self._root.rstrip("/"), *parts))


def read_golden(folder: Path) -> list[dict[str, Any]]:
    """The golden examples of a version's folder: each `input`, its `tensors` and the answers expected, `by_precision`.

    Older versions have `probabilities` instead, of the artifact that served. Images stand in the file as `image`, in
    base64, and large tensors by their fingerprints."""
    examples: list[dict[str, Any]] = json.loads((folder / "golden.json").read_text())["examples"]
    for example in examples:
        if "image" in example:
            example["input"] = base64.b64decode(example["image"])
    return examples


def _check_name(version: str) -> None:
    if not version or version.startswith(".") or "/" in version or "\\" in version:
        raise NotFound(f"there is no version {version!r}")


def _entry(file: Path) -> FileEntry:
    with file.open("rb") as stream:
        return FileEntry(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), bytes=file.stat().st_size)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

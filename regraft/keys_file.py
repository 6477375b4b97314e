"""The file of API keys: a list in YAML (or JSON, which is YAML) of names, hashes, scopes and rates.

text -> plain values -> entries -> keys, and again when it changes. What does not fit names the entry, and never shows
a value: somebody may have put the secret itself where its hash belongs.
"""

import logging
import os
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from regraft.errors import ConfigError
from regraft.ids import new_id
from regraft.keys import Guard, Key, Scope

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 1.0  # since its last change, before a file is read again: somebody may be writing it in place


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    scopes: Annotated[list[Scope], Field(min_length=1)]
    rate: float | None = Field(None, ge=0.001, allow_inf_nan=False, strict=True)


_ENTRIES = TypeAdapter(list[Entry])


def guard(keys_file: str) -> Guard:
    """For the setting of this name; open where it is empty. Raises ConfigError."""
    if not keys_file:
        return Guard(None)
    watched = Watched(Path(keys_file))
    return Guard(read(watched.path), news=watched.news)


class Watched:
    """A file of keys that may change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _stamp(path)

    def news(self) -> list[Key] | None:
        """The keys of a file that has changed. None when it has not, or is being written; or does not hold keys, which
        is said once: those of before stay, since a slip must not lock everybody out."""
        stamp = _stamp(self.path)
        if stamp == self._known or (stamp and 0 <= time.time() - stamp.changed_at < SETTLED_SECONDS):
            return None
        self._known = stamp
        try:
            keys = read(self.path)
        except ConfigError as error:
            logger.error("%s; the keys of before stay", error.message)  # noqa: TRY400
            return None
        logger.warning("%s: has changed; the keys are now %s", self.path, ", ".join(key.name for key in keys))
        return keys


def read(path: Path) -> list[Key]:
    """Raises ConfigError, also for a file without a key: nobody could ever come in."""
    keys = _parse(_text(path), path)
    if not keys:
        raise ConfigError(f"{path}: holds no key")
    return keys


def add(path: Path, key: Key) -> None:
    """Appends an entry, so that what people wrote around the others stays; the file is its owner's alone.

    Raises ConfigError and leaves the file as it was."""
    before = _text(path) if path.exists() else ""
    known = _parse(before, path)
    if any(one.name == key.name for one in known):
        raise ConfigError(f"{path}: there is a key {key.name!r} already")
    after = (before if before.endswith("\n") or not before else before + "\n") + entry(key)
    try:
        fits = _parse(after, path) == [*known, key]
    except ConfigError:
        fits = False
    if not fits:
        raise ConfigError(f"{path}: an entry can only be added to a YAML list with one '- ' for each key")
    _replace(path, after)


def entry(key: Key) -> str:
    """As it stands in the file. Raises ConfigError for what may not stand there."""
    values = {"name": key.name, "sha256": key.sha256, "scopes": sorted(map(str, key.scopes))}
    text: str = yaml.safe_dump([values | ({} if key.rate is None else {"rate": key.rate})], sort_keys=False)
    _parse(text, "the new key")
    return text


class _Stamp(NamedTuple):
    """What tells one content of a file from another; Kubernetes puts another file in its place."""

    changed_at: float
    size: int
    inode: int


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _Stamp(found.st_mtime, found.st_size, found.st_ino)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8") from None


def _parse(text: str, where: object) -> list[Key]:
    # `from None`: the cause quotes the file, and a traceback ends up in a log.
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{where}: {f'line {mark.line + 1}: ' if mark else ''}is not YAML") from None
    if values is None:
        return []
    try:
        entries = _ENTRIES.validate_python(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error, values)}") from None
    for field in ("name", "sha256"):
        seen: dict[str, int] = {}
        for number, one in enumerate(entries, 1):
            first = seen.setdefault(getattr(one, field), number)
            if first != number:
                raise ConfigError(f"{where}: entry {number} ({one.name}): has the {field} of entry {first}")
    return [Key(one.name, one.sha256, frozenset(one.scopes), one.rate) for one in entries]


def _explain(error: ValidationError, values: Any) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    if not problem["loc"]:
        return "should be a list of keys"
    number, *place = problem["loc"]
    value = values[number]
    name = value.get("name") if isinstance(value, dict) and place != ["name"] else None
    shown = f"entry {int(number) + 1}" + (f" ({name})" if isinstance(name, str) else "")
    if not place:
        return f"{shown}: should be a mapping with name, sha256, scopes and maybe rate"
    if problem["type"] == "extra_forbidden":
        return f"{shown}: has a field that there is not; there are name, sha256, scopes and rate"
    sentence = "is missing" if problem["type"] == "missing" else problem["msg"]
    return f"{shown}: {'.'.join(map(str, place))}: {sentence}"


def _replace(path: Path, text: str) -> None:
    """All or nothing: a server that starts meanwhile reads the old file or the new one."""
    beside = path.with_name(f".{path.name}.{new_id()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error

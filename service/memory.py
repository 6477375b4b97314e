"""The release last served, in a small file on this machine: what a server starts with while the log cannot be read."""

import logging
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from regraft.releases import Release

logger = logging.getLogger(__name__)

_RELEASE = TypeAdapter(Release)


class Memory:
    """For several processes at once: the file is there whole or not at all, and all of them write the same."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, release: Release) -> None:
        """A disk that takes no file is told, and costs nothing but the memory."""
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                file.write(_RELEASE.dump_json(release))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            logger.warning("the release cannot be kept in %s: %s", self._path, error)
            part.unlink(missing_ok=True)

    def recall(self) -> Release | None:
        """None where there is none, or none that can be read."""
        try:
            return _RELEASE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            logger.warning("%s holds no release: %s", self._path, error)
            return None

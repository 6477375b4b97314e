"""How long each step of an experiment takes."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)


@dataclass
class Clock:
    """Seconds by step; what a step inside another takes counts for the inner one alone."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started, before = time.monotonic(), sum(self.seconds.values())
        _log.info("%s ...", name)
        yield
        inner = sum(self.seconds.values()) - before
        taken = time.monotonic() - started - inner
        self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 2)

"""How many requests one worker has under way at a time. Who comes when it is full is told so at once: a request that
waits at the door costs memory, and its caller gives up before its turn comes."""

from contextlib import nullcontext
from types import TracebackType

from regraft.errors import Overloaded

ALWAYS_OPEN = nullcontext()  # for what must answer when the worker is full: health and metrics


class Gate:
    """For one event loop; `with` it, a request is under way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.inside = 0

    def __enter__(self) -> None:
        """Raises Overloaded."""
        if self.inside >= self._most:
            raise Overloaded(f"{self._most} requests are under way already; try again in a moment", limit=self._most)
        self.inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.inside -= 1

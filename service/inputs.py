"""What callers send, by the task's kind of input: texts as they are, images as the bytes of their files.

JSON string, BYTES element, raw pixels -> input (str or bytes) -> the request path; for images also -> the store, whose
reference stands in the event log instead.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from regraft.errors import InvalidInput
from regraft.inputs import InputStore
from regraft.preprocessing.image import png
from regraft.task import Task

Input = str | bytes  # a text, or an encoded image
Inputs = Sequence[Input]

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
QUIET_SECONDS = 10.0  # between two lines in the log that say the same

logger = logging.getLogger(__name__)


def from_json(task: Task, strings: Sequence[str]) -> Inputs:
    """Texts, or the images that are base64 here. Raises InvalidInput that names the one at fault."""
    if task.input == "text":
        return strings
    return [_image(string, index, len(strings)) for index, string in enumerate(strings)]


def from_bytes(task: Task, elements: Sequence[bytes]) -> Inputs:
    """Texts in UTF-8, or encoded images. Raises InvalidInput that names the text at fault."""
    if task.input == "image":
        return elements
    texts = []
    for index, element in enumerate(elements):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(f"input[{index}]: is not UTF-8", index=index) from error
    return texts


async def from_pixels(pixels: NDArray[np.uint8]) -> Inputs:
    """Images (images, height, width, channels), each as a file without loss: from here on it is like any other."""
    return await asyncio.gather(*(asyncio.to_thread(png, one) for one in pixels))


class Keeper:
    """Puts images into the store beside the event loop. A store that is full or away costs an answer its place in the
    log, and nothing else."""

    def __init__(self, store: InputStore, *, patience_seconds: float = 2.0, max_waiting: int = 256) -> None:
        """`patience_seconds`: how long an answer waits; `max_waiting`: requests that may wait for a slow store."""
        self._store = store
        self._patience = patience_seconds
        self._max_waiting = max_waiting
        self._waiting = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="inputs")
        self._complained = -QUIET_SECONDS

    async def keep(self, images: Inputs) -> list[str] | None:
        """A reference for each; None where they are not known to be kept."""
        if self._waiting >= self._max_waiting:
            return None
        self._waiting += 1
        keeping = asyncio.get_running_loop().run_in_executor(self._threads, self._keep, images)
        keeping.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(keeping)
        except TimeoutError:
            return None

    def close(self) -> None:
        """What is being written is finished first."""
        self._threads.shutdown()

    def _keep(self, images: Inputs) -> list[str] | None:
        try:
            return [self._store.keep(one) for one in images if isinstance(one, bytes)]
        except Exception:
            if time.monotonic() - self._complained > QUIET_SECONDS:
                logger.exception("the store takes no inputs; predictions are answered without being logged")
                self._complained = time.monotonic()
            return None

    def _done(self, _: object) -> None:
        self._waiting -= 1


def _image(string: str, index: int, count: int) -> bytes:
    encoded = string.partition(",")[2] if string.startswith("data:") else string  # a data URL says first what it holds
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        name = "input" if count == 1 else f"inputs[{index}]"
        raise InvalidInput(f"{name}: should be an image in base64: {error}", index=index) from error

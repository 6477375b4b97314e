"""Identifiers that sort by the time they were made, so that indexes and files stay in order of arrival."""

import os
import threading
import time
import uuid

_RANDOM_BITS = 74
_STEP_BITS = 32

_lock = threading.Lock()
_last = (0, 0)  # Unix milliseconds and random bits of the newest id


def new_id() -> str:
    """A fresh UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, 74 random bits; 32 hexadecimal digits.

    Larger than every one that this process made before, also within a millisecond and when the clock is set back: then
    the random bits go on from the last by a random step (section 6.2, method 2).
    """
    global _last  # noqa: PLW0603
    fresh = time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big") >> 6
    with _lock:
        milliseconds, random = fresh
        if milliseconds <= _last[0]:
            milliseconds, random = _last[0], _last[1] + 1 + (random & ((1 << _STEP_BITS) - 1))
            if random >> _RANDOM_BITS:
                milliseconds, random = milliseconds + 1, fresh[1]
        _last = milliseconds, random
    number = (milliseconds << 80) | (0x7 << 76) | ((random >> 62) << 64) | (0b10 << 62) | (random & ((1 << 62) - 1))
    return f"{number:032x}"


def derived_id(parent: str, purpose: str) -> str:
    """The one id that `purpose` has under `parent`: the same at every call, so that a retry repeats itself."""
    return uuid.uuid5(uuid.UUID(parent), purpose).hex

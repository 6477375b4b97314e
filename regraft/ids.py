"""Identifiers that sort by the time they were made, so that indexes and files stay in order of arrival."""

import os
import time
import uuid


def new_id() -> str:
    """A fresh UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, 74 random bits; 32 hexadecimal digits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    number = (milliseconds << 80) | (0x7 << 76) | ((random >> 68) << 64) | (0b10 << 62) | (random & ((1 << 62) - 1))
    return f"{number:032x}"


def derived_id(parent: str, purpose: str) -> str:
    """The one id that `purpose` has under `parent`: the same at every call, so that a retry repeats itself."""
    return uuid.uuid5(uuid.UUID(parent), purpose).hex

"""API keys: who may ask for what, and how often. It knows no file and no transport.

authorization -> secret -> sha256 -> key (401) -> scope (403) -> token bucket (429) -> the caller's name

A plain hash is enough to keep, since a secret is 256 random bits: nobody can try them all, whatever one try costs. Slow
hashes and salts are for passwords, which people choose; here they would cost every request what they are meant to cost
a thief.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from regraft.errors import Forbidden, TooManyRequests, Unauthorized

LOOK_SECONDS = 1.0  # between two looks for other keys
MARK = "regraft_"  # by which people, and those who scan for leaked secrets, know one


class Scope(StrEnum):
    PREDICT = "predict"
    FEEDBACK = "feedback"
    REVIEW = "review"
    ADMIN = "admin"


@dataclass(frozen=True)
class Key:
    """`rate` is in requests a second; None for no limit. No scope includes another."""

    name: str
    sha256: str = field(repr=False)
    scopes: frozenset[Scope]
    rate: float | None = None


def new_secret() -> str:
    return MARK + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Bucket:
    """Tokens flow in at `rate` a second, up to one second's worth and at least one; it starts full."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._most = max(1.0, rate)
        self._tokens = self._most
        self._at = now

    def take(self, now: float) -> float:
        """0 when a token was taken, else the seconds until there is one."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0


class Guard:
    """Stands at the door of one process. Its buckets are its own: with several workers a key may come up to so many
    times as often."""

    def __init__(
        self,
        keys: Sequence[Key] | None,
        *,
        news: Callable[[], Sequence[Key] | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys`: None for a door that is open to all. `news`: what they are from now on, or None for no change."""
        self._clock = clock
        self._news = news
        self._look_at = clock() + LOOK_SECONDS
        self._buckets: dict[str, Bucket] = {}
        self._keys = keys
        self._take(keys or ())

    def admit(self, authorization: str | None, any_of: Sequence[Scope]) -> str | None:
        """The name of the caller's key; None where none is needed: the door is open, or no scope is asked for.

        Raises Unauthorized, Forbidden, TooManyRequests."""
        if self._keys is None or not any_of:
            return None
        if self._news is not None:
            self._look(self._news)
        key = self._find(_secret(authorization))
        if key.scopes.isdisjoint(any_of):
            raise Forbidden(f"the key {key.name!r} has no scope {' or '.join(any_of)}", scopes=list(any_of))
        bucket = self._buckets.get(key.name)
        wait = bucket.take(self._clock()) if bucket else 0
        if wait:
            seconds = math.ceil(wait)
            raise TooManyRequests(
                f"the key {key.name!r} is good for {key.rate:g} requests a second; try again in {seconds} s",
                retry_after_seconds=seconds,
            )
        return key.name

    def _look(self, news: Callable[[], Sequence[Key] | None]) -> None:
        """When somebody comes, and not by a timer: so nobody gets in by a key that went while it was quiet."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        keys = news()
        if keys is not None:
            self._keys = keys
            self._take(keys)

    def _take(self, keys: Sequence[Key]) -> None:
        """A key whose rate stays keeps what it has used of it."""
        before, now = self._buckets, self._clock()
        self._buckets = {
            key.name: before[key.name]
            if key.name in before and before[key.name].rate == key.rate
            else Bucket(key.rate, now)
            for key in keys
            if key.rate is not None
        }

    def _find(self, secret: str) -> Key:
        """Every key is compared, and each in constant time: how long it takes says nothing of how near a guess was."""
        given, found = digest(secret), None
        for key in self._keys or ():
            if hmac.compare_digest(key.sha256, given):
                found = key
        if found is None:
            raise Unauthorized("the key is not known here")
        return found


def _secret(authorization: str | None) -> str:
    words = (authorization or "").split()
    if not words:
        raise Unauthorized("a key is needed: Authorization: Bearer <key>")
    if len(words) != 2 or words[0].lower() != "bearer":
        raise Unauthorized("authorization should read: Bearer <key>")
    return words[1]

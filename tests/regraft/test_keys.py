"""Keys: who is let in, for what and how often, with the clock in the test's hand."""

import hashlib
import hmac
import logging

import pytest

from regraft.errors import Forbidden, RegraftError, TooManyRequests, Unauthorized
from regraft.keys import LOOK_SECONDS, Guard, Key, Scope, digest, new_secret
from tests.fakes import Clock

SECRET = "regraft_the-secret-of-the-shop"
SHOP = Key("shop", digest(SECRET), frozenset({Scope.PREDICT, Scope.FEEDBACK}))
DESK = Key("desk", digest("regraft_desk"), frozenset({Scope.REVIEW}))
PREDICT = (Scope.PREDICT,)


def limited(rate: float) -> tuple[Guard, Clock]:
    clock = Clock()
    return Guard([Key("shop", SHOP.sha256, SHOP.scopes, rate)], clock=clock), clock


def admitted(guard: Guard, times: int) -> int:
    """How many of so many tries at once are let in."""
    count = 0
    for _ in range(times):
        try:
            guard.admit(f"Bearer {SECRET}", PREDICT)
            count += 1
        except TooManyRequests:
            pass
    return count


@pytest.mark.parametrize(
    ("authorization", "scopes", "error"),
    [
        (None, PREDICT, Unauthorized),
        ("", PREDICT, Unauthorized),
        (" ", PREDICT, Unauthorized),
        ("Bearer", PREDICT, Unauthorized),
        ("Bearer ", PREDICT, Unauthorized),
        (SECRET, PREDICT, Unauthorized),
        (f"Basic {SECRET}", PREDICT, Unauthorized),
        (f"Bearer {SECRET} x", PREDICT, Unauthorized),
        (f"Bearer {SECRET}x", PREDICT, Unauthorized),
        (f"Bearer {SECRET.upper()}", PREDICT, Unauthorized),
        (f"Bearer {SHOP.sha256}", PREDICT, Unauthorized),
        ("Bearer \xff\xfe", PREDICT, Unauthorized),
        (f"Bearer {SECRET}", (Scope.REVIEW,), Forbidden),
        (f"Bearer {SECRET}", (Scope.REVIEW, Scope.ADMIN), Forbidden),
        ("Bearer regraft_desk", PREDICT, Forbidden),
    ],
)
def test_whoever_may_not_is_kept_out(authorization: str | None, scopes: tuple[Scope, ...], error: type) -> None:
    with pytest.raises(RegraftError) as caught:
        Guard([SHOP, DESK]).admit(authorization, scopes)
    assert type(caught.value) is error
    assert SECRET not in str(caught.value.as_json())
    assert ("WWW-Authenticate" in caught.value.headers) == (error is Unauthorized)


@pytest.mark.parametrize("authorization", [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER  {SECRET} "])
@pytest.mark.parametrize("scopes", [PREDICT, (Scope.FEEDBACK,), (Scope.ADMIN, Scope.FEEDBACK)])
def test_the_right_key_is_let_in_by_name(authorization: str, scopes: tuple[Scope, ...]) -> None:
    assert Guard([DESK, SHOP]).admit(authorization, scopes) == "shop"


@pytest.mark.parametrize(("keys", "scopes"), [(None, PREDICT), ([SHOP], ())])
def test_no_key_is_asked_for_where_none_is_needed(keys: list[Key] | None, scopes: tuple[Scope, ...]) -> None:
    assert Guard(keys).admit(None, scopes) is None
    assert Guard(keys).admit("nonsense", scopes) is None


def test_a_guard_without_a_key_lets_nobody_in() -> None:
    with pytest.raises(Unauthorized):
        Guard([]).admit(f"Bearer {SECRET}", PREDICT)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    compare = hmac.compare_digest

    def remember(one: str, other: str) -> bool:
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", remember)
    Guard([SHOP, DESK]).admit(f"Bearer {SECRET}", PREDICT)
    assert compared == [SHOP.sha256, DESK.sha256]


def test_too_many_at_once_are_told_when_to_come_back() -> None:
    guard, clock = limited(0.25)
    assert admitted(guard, 3) == 1
    with pytest.raises(TooManyRequests) as caught:
        guard.admit(f"Bearer {SECRET}", PREDICT)
    assert caught.value.headers == {"Retry-After": "4"}
    clock.now += 4
    assert admitted(guard, 2) == 1


@pytest.mark.parametrize(
    ("rate", "seconds", "again"), [(5, 0, 0), (5, 0.2, 1), (5, 0.5, 2), (5, 1, 5), (5, 3600, 5), (0.5, 3600, 1)]
)
def test_a_key_recovers_at_its_rate_up_to_its_burst(rate: float, seconds: float, again: int) -> None:
    guard, clock = limited(rate)
    assert admitted(guard, 20) == max(1, rate)
    clock.now += seconds
    assert admitted(guard, 20) == again


def test_a_refusal_costs_no_token_and_others_have_their_own() -> None:
    clock = Clock()
    keys = [Key("a", digest("a"), SHOP.scopes, 1), Key("b", digest("b"), SHOP.scopes, 1)]
    guard = Guard(keys, clock=clock)
    for _ in range(3):
        with pytest.raises(Forbidden):
            guard.admit("Bearer a", (Scope.ADMIN,))
    assert guard.admit("Bearer a", PREDICT) == "a"
    with pytest.raises(TooManyRequests):
        guard.admit("Bearer a", PREDICT)
    assert guard.admit("Bearer b", PREDICT) == "b"


def test_a_secret_is_random_and_kept_as_its_hash() -> None:
    secret = new_secret()
    assert len(secret.removeprefix("regraft_")) == 43  # 256 bits, six a character
    assert secret != new_secret()
    assert digest(secret) == hashlib.sha256(secret.encode()).hexdigest()


def test_nothing_secret_is_shown_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    guard = Guard([SHOP])
    guard.admit(f"Bearer {SECRET}", PREDICT)
    with pytest.raises(Forbidden) as caught:
        guard.admit(f"Bearer {SECRET}", (Scope.ADMIN,))
    for text in (repr(SHOP), repr(guard), str(vars(guard)), repr(caught.value), caplog.text):
        assert SECRET not in text
        assert SHOP.sha256 not in text


def test_keys_change_without_a_restart_and_used_up_rates_stay_used() -> None:
    clock = Clock()
    shop = Key("shop", SHOP.sha256, SHOP.scopes, 1)
    others: list[list[Key] | None] = [[shop, DESK], None, [DESK]]
    guard = Guard([shop], news=lambda: others.pop(0), clock=clock)
    assert guard.admit(f"Bearer {SECRET}", PREDICT) == "shop"
    with pytest.raises(Unauthorized):
        guard.admit("Bearer regraft_desk", (Scope.REVIEW,))
    assert len(others) == 3, "it was just looked at"
    clock.now += LOOK_SECONDS
    assert guard.admit("Bearer regraft_desk", (Scope.REVIEW,)) == "desk"
    assert guard.admit(f"Bearer {SECRET}", PREDICT) == "shop"
    with pytest.raises(TooManyRequests):
        guard.admit(f"Bearer {SECRET}", PREDICT)
    clock.now += LOOK_SECONDS / 2
    with pytest.raises(TooManyRequests):
        guard.admit(f"Bearer {SECRET}", PREDICT)
    clock.now += LOOK_SECONDS / 2
    assert guard.admit("Bearer regraft_desk", (Scope.REVIEW,)) == "desk", "no news are good news"
    clock.now += LOOK_SECONDS
    with pytest.raises(Unauthorized):
        guard.admit(f"Bearer {SECRET}", PREDICT)


def test_a_key_with_another_rate_has_it_at_once() -> None:
    clock = Clock()
    guard = Guard([SHOP], news=lambda: [Key("shop", SHOP.sha256, SHOP.scopes, 2)], clock=clock)
    assert admitted(guard, 9) == 9
    clock.now += LOOK_SECONDS
    assert admitted(guard, 9) == 2

"""The traceparent header, as its standard has it."""

import pytest

from service.trace import trace_id

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "header",
    [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f" 00-{TRACE}-{PARENT}-01 ", f"cc-{TRACE}-{PARENT}-01-more"],
)
def test_the_trace_id_is_read(header: str) -> None:
    assert trace_id(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}x-{PARENT}-01",
    ],
)
def test_what_does_not_follow_the_standard_is_no_trace(header: str | None) -> None:
    assert trace_id(header) is None

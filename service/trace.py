"""The caller's trace, from the W3C `traceparent` header (https://www.w3.org/TR/trace-context/)."""

import re

# version, trace id, parent id, flags; versions after 00 may append more.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def trace_id(traceparent: str | None) -> str | None:
    """The trace id of a `traceparent` header; None where there is none, or it does not follow the standard.

    >>> trace_id("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    '0af7651916cd43dd8448eb211c80319c'
    """
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if match is None or (match[1] == "00" and match[3]):
        return None
    return match[2]

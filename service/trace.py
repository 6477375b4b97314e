"""The caller's trace, from the W3C `traceparent` header (https://www.w3.org/TR/trace-context/), and whether spans of
ours go anywhere: only where a standard OTEL_* variable names an exporter is OpenTelemetry's SDK imported.
"""

import os
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from regraft.errors import ConfigError

if TYPE_CHECKING:
    from service.spans import Spans

# version, trace id, parent id, flags; versions after 00 may append more.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def trace_id(traceparent: str | None) -> str | None:
    """The trace id of a `traceparent` header; None where there is none, or it does not follow the standard.

    >>> trace_id("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    '0af7651916cd43dd8448eb211c80319c'
    """
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if match is None or (match[1] == "00" and match[3]):
        return None
    return match[2]


def open_spans() -> "Spans | None":
    """None where nobody wants any. Raises ConfigError."""
    points = exporters(os.environ)
    if not points:
        return None
    from service.spans import Spans

    return Spans([point.load()() for point in points])


def exporters(environment: Mapping[str, str]) -> list[EntryPoint]:
    """What the variables ask for; an endpoint alone asks for OTLP. Raises ConfigError for what is not installed.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/"""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    endpoint = any(environment.get(name) for name in _ENDPOINTS)
    wanted = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    names = [name.strip() for name in wanted.split(",")]
    return [_exporter(name, environment) for name in names if name not in ("none", "")]


def _exporter(name: str, environment: Mapping[str, str]) -> EntryPoint:
    wanted = name
    if name == "otlp":
        protocol = next((environment[one] for one in _PROTOCOLS if environment.get(one)), "http/protobuf")
        wanted = _OTLP.get(protocol, protocol)
    for point in entry_points(group="opentelemetry_traces_exporter", name=wanted):
        return point
    advice = "; install it with: pip install 'regraft[tracing]'" if wanted == _OTLP["http/protobuf"] else ""
    raise ConfigError(f"OTEL_TRACES_EXPORTER: {name}: there is no exporter {wanted!r} here{advice}")

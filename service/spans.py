"""Spans of OpenTelemetry, sent in batches by a thread of their own. Imported only where they are wanted (see trace.py).

request -> span of the server, child of the caller's -> its children: queue, inference (one for each batch), log

The children are made when all is over, of times that the request path takes anyway. Names and attributes are those of
the semantic conventions where there are some (https://opentelemetry.io/docs/specs/semconv/); the rest begins with
`regraft.`.
"""

import threading
import time
from collections.abc import Mapping, Sequence

from opentelemetry import context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from regraft import __version__
from service import NAME
from service.batching import Score

STOP_SECONDS = 3.0  # that a stop waits for a collector which is away

_CALLER = TraceContextTextMapPropagator()


class Spans:
    """Which requests are sampled is said by OTEL_TRACES_SAMPLER; without it by the caller, and else all are."""

    def __init__(self, exporters: Sequence[SpanExporter]) -> None:
        self._exporters = exporters
        about = {"service.name": NAME, "service.version": __version__} | dict(
            OTELResourceDetector().detect().attributes
        )
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(NAME, __version__)

    def http(self, method: str, route: str, path: str, headers: Mapping[str, str]) -> "Served":
        attributes = {"http.request.method": method, "http.route": route, "url.path": path, "url.scheme": "http"}
        return self._serve(f"{method} {route}", headers, attributes)

    def grpc(self, method: str, metadata: Mapping[str, str]) -> "Served":
        return self._serve(method, metadata, {"rpc.system.name": "grpc", "rpc.method": method})

    def trace_id(self) -> str:
        """That of the request being served, sampled or not."""
        return format_trace_id(get_current_span().get_span_context().trace_id)

    def predicted(self, scores: Sequence[Score], *, version: str, arm: str, logging_since: float) -> None:
        """The children of the request being served; `logging_since` by time.perf_counter, until now."""
        parent = get_current_span()
        if not parent.is_recording():
            return
        about = {"regraft.version": version, "regraft.arm": arm}
        parent.set_attributes(about | {"regraft.inputs": len(scores)})
        runs = list(dict.fromkeys(score.run for score in scores))
        queued = min(score.run.started - score.queue_seconds for score in scores)
        self._child("queue", queued, max(run.started for run in runs), about)
        for run in runs:
            sized = about | {"regraft.batch_size": run.size}
            self._child("inference", run.started, run.started + run.seconds, sized)
        self._child("log", logging_since, time.perf_counter(), about)

    def close(self) -> None:
        """What waits is sent first, if the collector takes it in time. Blocks."""
        threads = [threading.Timer(STOP_SECONDS, exporter.shutdown) for exporter in self._exporters]
        for thread in threads:
            thread.start()
        self._provider.shutdown()
        for thread in threads:
            thread.cancel()

    def _serve(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, str]) -> "Served":
        return Served(self._tracer.start_span(name, _CALLER.extract(headers), SpanKind.SERVER, attributes))

    def _child(self, name: str, start: float, end: float, attributes: Mapping[str, str | int]) -> None:
        span = self._tracer.start_span(name, attributes=attributes, start_time=_epoch(start))
        span.end(_epoch(end))


class Served:
    """The span of one request, current from its begin to its end, which are in one task."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._before = context.attach(set_span_in_context(span))

    def end(self, attribute: str, status: int | str, *, failed: bool = False) -> None:
        """`failed`: by our fault; a caller's is none of the server's errors."""
        self._span.set_attribute(attribute, status)
        if failed:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
        context.detach(self._before)
        self._span.end()


def _epoch(moment: float) -> int:
    """Nanoseconds since 1970 of a moment by time.perf_counter."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)

"""An OTLP receiver: an HTTP server that reads the protobuf which OpenTelemetry's exporter sends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.harness import wait_for


@dataclass
class Span:
    """A span as it arrived. Ids are hex; `parent` is empty for a root."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    failed: bool
    events: list[str]
    seconds: float
    schema: str
    scope: str


@dataclass
class Receiver:
    """The spans that arrived, and where to send them."""

    url: str
    spans: list[Span] = field(default_factory=list)

    def wait(self, count: int) -> list[Span]:
        """Wait until so many spans have arrived; return them by name."""
        wait_for(lambda: len(self.spans) >= count, f"{count} spans, of which there are {[s.name for s in self.spans]}")
        return sorted(self.spans, key=lambda span: span.name)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver beside the test."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.spans += _read(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes},
                    span.status.code == 2,
                    [event.name for event in span.events],
                    (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    scope.schema_url,
                    scope.scope.name,
                )

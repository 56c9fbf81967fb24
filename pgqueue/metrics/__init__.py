"""Metrics for Prometheus: `pgqueue metrics`, or mounted into your own app. Needs the extra `prometheus`.

`app.mount("/metrics", pgqueue.metrics.asgi(queue))` serves the gauges of the database: in one process, for each would
export the same numbers. What a worker does, it serves itself: `pgqueue work --metrics-port 9188`.
"""

from pgqueue.errors import MissingExtra

try:
    from prometheus_client import CollectorRegistry, make_asgi_app, make_wsgi_app, start_http_server
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"pgqueue.metrics needs prometheus-client ({error}): pip install 'pgqueue-jobs[prometheus]'", name=error.name
    ) from None

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIServer

from pgqueue.app import App
from pgqueue.metrics.exporter import DatabaseMetrics
from pgqueue.metrics.names import METRICS, Metric
from pgqueue.metrics.process import MetricsServer
from pgqueue.metrics.schemas import SchemasMetrics
from pgqueue.process.health import CANNOT_LISTEN, cannot_listen
from pgqueue.revisions import newest

__all__ = ["METRICS", "Metric", "MetricsServer", "asgi", "registry_of", "serve", "serve_each", "wsgi"]

Asgi: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


def registry_of(app: App) -> CollectorRegistry:
    """Return a registry with the gauges of an app's database, to be exported with other metrics of yours."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DatabaseMetrics(app, newest()))
    return registry


def asgi(app: App) -> Asgi:
    """Return an ASGI app that answers scrapes with the gauges of an app's database, under whatever path.

    It reads the database in a thread, at most every ten seconds. It asks nobody who they are: names of queues, tasks
    and schedules are all that it tells.
    """
    metrics = DatabaseMetrics(app, newest())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    answer = make_asgi_app(registry)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(metrics.refresh)
        await answer(scope, receive, send)

    return serve


def serve_each(apps: Callable[[], Sequence[App]], host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Answer scrapes as `serve` does, with the gauges of each schema that `apps` returns, and a label `schema`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SchemasMetrics(apps, newest()))
    return _serve(registry, host, port)


def serve(app: App, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Answer scrapes on a port, in threads; return the server and its thread. Raises ConfigError."""
    return _serve(registry_of(app), host, port)


def _serve(registry: CollectorRegistry, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    try:
        return start_http_server(port, host, registry)
    except CANNOT_LISTEN as error:
        raise cannot_listen("metrics", host, port, error) from None


def wsgi(app: App) -> Any:
    """Return a WSGI app that answers as that of `asgi` does."""
    return make_wsgi_app(registry_of(app))

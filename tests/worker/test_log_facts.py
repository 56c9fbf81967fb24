"""The facts of a job in the logs that apps set up themselves: structlog, loguru, handlers of the standard library."""

import asyncio
import logging
from typing import Any

import structlog
from loguru import logger as loguru_logger
from structlog.testing import LogCapture

from pgqueue import App, logs
from tests.conftest import scalar, work
from tests.harness import Conn


def test_structlog_loguru_and_handlers_name_the_job_that_runs(app: App, conn: Conn) -> None:
    captured, records, lines = LogCapture(), list[dict[str, Any]](), list[logging.LogRecord]()
    structlog.configure(processors=[logs.add_facts, captured])
    loguru_logger.configure(patcher=logs.patch, handlers=[{"sink": lambda line: records.append(line.record["extra"])}])
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    handler.addFilter(logs.JobFilter())
    shop = logging.getLogger("shop")
    shop.addHandler(handler)

    @app.task(name="t")
    def t() -> None:
        structlog.get_logger().info("inside", attempt="mine")
        loguru_logger.bind(queue="mine").info("inside")
        shop.warning("inside")

    try:
        job = t.enqueue()
        structlog.get_logger().info("outside")
        asyncio.run(work(app, lambda: scalar(conn, "select count(*) from pgqueue.job_finished") == 1))
    finally:
        shop.removeHandler(handler)
        structlog.reset_defaults()
        loguru_logger.configure(patcher=None, handlers=[])
    outside, inside = captured.entries
    assert outside == {"event": "outside", "log_level": "info"}
    facts = {"job_id": job.id, "task": "t", "queue": "default"}
    assert inside == {"event": "inside", "log_level": "info", **facts, "attempt": "mine"}
    assert records == [facts | {"queue": "mine", "attempt": 1}]
    assert [(line.job_id, line.task, line.attempt) for line in lines] == [(job.id, "t", 1)]  # type: ignore[attr-defined]

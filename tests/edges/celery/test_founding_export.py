"""The export of the founding texts runs as it is written: a job is its own record, so nothing else is stored."""

import asyncio
import warnings
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import httpx
from pydantic import BaseModel

from pgqueue import App
from tests.conftest import drain
from tests.edges.celery.founding_export import EXPORT, STATUS
from tests.harness import Conn


class ExportRequest(BaseModel):
    """What a client asks for."""

    year: int


class JobResponse(BaseModel):
    """The answer to it."""

    job_id: str
    status: str
    poll_url: str


class JobStatusResponse(BaseModel):
    """How the job is."""

    job_id: str
    status: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    result: dict[str, Any] | None
    error: str | None
    is_terminal: bool


def test_an_export_is_answered_at_once_and_its_status_is_that_of_its_job(app: App, conn: Conn) -> None:
    @app.task(name="export_data", max_attempts=1)
    def export_data(job_id: str, params: ExportRequest) -> dict[str, int]:
        return {"rows": 10 // (params.year - 2026)}

    async def enqueue(task: str, **args: Any) -> None:
        await app.using(idempotency_key=args["job_id"]).aenqueue(task, args)

    async def create(record: Any) -> None:
        assert record.status.value == "pending"

    async def get(key: str) -> Any:
        found = conn.execute("select id from pgqueue.job where headers->>'idempotency_key' = %s", (key,)).fetchone()
        if found is None:
            return None
        job = await app.aget(found[0])
        status, error = names["JobStatus"](str(job.state)), job.errors[-1].message if job.errors else None
        return names["Job"](key, status, job.created_at, job.claimed_at, job.finished_at, job.result, error)

    names: dict[str, Any] = {
        "ExportRequest": ExportRequest, "JobResponse": JobResponse, "JobStatusResponse": JobStatusResponse,
        "jobs_repo": SimpleNamespace(create=create, get=get), "task_queue": SimpleNamespace(enqueue=enqueue),
    }  # fmt: skip
    exec(compile(EXPORT, "export.py", "exec", dont_inherit=True), names)
    exec(compile(STATUS, "status.py", "exec", dont_inherit=True), names)

    async def client(*paths: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(names["app"]), base_url="http://t") as http:
            return [await http.get(path) for path in paths]

    async def ask(*years: int) -> list[JobResponse]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # datetime.utcnow, since Python 3.12
            return [await names["start_export"](ExportRequest(year=year)) for year in years]

    good, bad = asyncio.run(ask(2027, 2026))
    assert good.poll_url == f"/jobs/{good.job_id}"
    (waiting,) = asyncio.run(client(good.poll_url))
    assert (waiting.json()["status"], waiting.json()["is_terminal"]) == ("pending", False)
    asyncio.run(app.aclose())
    drain(app, conn)
    done, failed, nothing = asyncio.run(client(good.poll_url, bad.poll_url, "/jobs/no-such"))
    assert (done.json()["status"], done.json()["result"], done.json()["error"]) == ("succeeded", {"rows": 10}, None)
    assert done.json()["started_at"] < done.json()["completed_at"]
    assert (failed.json()["status"], failed.json()["result"], failed.json()["is_terminal"]) == ("failed", None, True)
    assert "division" in failed.json()["error"]
    assert nothing.status_code == 404

"""Reading jobs: one, or a list."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import Attempt, Job, JobState, Note
from pgqueue.queries.base import Query, Row, Statements, fill
from pgqueue.tasks.sealing import open_job
from pgqueue.tasks.stand_in import inputs_of
from pgqueue.tasks.versions import BY, NOTES, OWN

# The columns of a job as `read_job` reads them; `j` is the view of jobs.
JOB: LiteralString = """j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at,
    j.created_at, j.attempt, j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id,
    j.reason, j.result::text, j.error::text, j.progress::text, j.cancel_requested_at,
    j.headers::text, j.workflow_id"""

_JOB_FIELDS = (
    "id", "task", "queue", "priority", "state", "phase", "args", "tags", "run_at", "created_at", "attempt",
    "max_attempts", "crash_count", "waits_for", "claimed_at", "finished_at", "worker_id", "reason", "result", "error",
    "progress", "cancel_requested_at", "headers", "workflow_id", "attempts",
)  # fmt: skip

# Read one job with its attempts, in one snapshot. The view finds the job in whichever table holds it, by primary key;
# the attempts come from the log, by transition_job.
GET: LiteralString = fill(
    """
select {job},
    (select json_agg(json_build_array(a.attempt, a.started_at, a.ended_at, a.to_state, a.reason, a.error, a.worker_id)
                     order by a.lease)::text
     from {s}.attempt a where a.job_id = j.id)
from {s}.job j where j.id = %(id)s""",
    job=JOB,
)


def read_error(value: dict[str, Any] | None) -> ErrorInfo | None:
    """Read an error as it is stored."""
    if value is None:
        return None
    return ErrorInfo(value.get("type", ""), value.get("message", ""), value.get("traceback"))


def _attempt(value: Sequence[Any]) -> Attempt:
    number, started, ended, state, reason, error, worker = value
    return Attempt(
        number,
        datetime.fromisoformat(started),
        ended and datetime.fromisoformat(ended),
        state and JobState(state),
        reason,
        read_error(error),
        worker and UUID(worker),
    )


def _value(text: str | None) -> Any:
    """Read JSON. What Python cannot read (nested thousands deep, numbers of thousands of digits) comes back as text."""
    try:
        return None if text is None else json.loads(text)
    except (RecursionError, ValueError):
        return text


def _headers(text: str | None) -> dict[str, Any]:
    """Read all headers; none where SQL has stored what Python cannot read."""
    headers = _value(text)
    return headers if isinstance(headers, dict) else {}


def _notes(stored: Any) -> tuple[Note, ...]:
    """Read the notes on a dead letter, without what SQL may have stored in their place."""
    found = []
    for note in stored if isinstance(stored, list) else []:
        with suppress(KeyError, TypeError, ValueError):  # no object, a field that is not there, or no time
            found.append(Note(datetime.fromisoformat(note["at"]), str(note["by"]), str(note["text"])))
    return tuple(found)


def read_job(row: Row) -> Job:
    """Read a row that holds the columns of JOB and the attempts."""
    values = dict(zip(_JOB_FIELDS, row, strict=True))
    values["state"] = JobState(values["state"])
    values["args"] = _value(values["args"])
    values["tags"] = tuple(values["tags"])
    values["result"] = _value(values["result"])
    values["progress"] = _value(values["progress"])
    headers = _headers(values["headers"])
    values["headers"] = {name: value for name, value in headers.items() if name not in OWN}
    values["notes"] = _notes(headers.get(NOTES))
    values["flow"] = Flow.of_headers(headers)
    values["inputs"] = inputs_of(headers)
    values["enqueued_by"] = by if type(by := headers.get(BY)) is int and 0 < by < 2**63 else None
    values["error"] = read_error(values["error"] and json.loads(values["error"]))
    values["attempts"] = tuple(_attempt(value) for value in json.loads(values["attempts"] or "[]"))
    return Job(**values)


class JobReadQueries(Statements):
    """Reading jobs, for the API and for operators."""

    def _job(self, row: Row) -> Job:
        """Read a job of any statement that selects JOB, decrypted as far as the codec can."""
        return read_job(row) if self.codec is None else open_job(self.codec, read_job(row))

    def get(self, job_id: int) -> Query[Job | None]:
        """Read one job with its attempts."""
        return Query(self._sql(GET), lambda rows: self._job(rows[0]) if rows else None, {"id": job_id})

"""Statements for tests of users' apps: those of production under a clock that travels, and a few of their own."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from psycopg.sql import Composable

from pgqueue.codecs import Codec
from pgqueue.jobs.job import ClaimedJob, Job
from pgqueue.queries import Queries
from pgqueue.queries.base import Query, Templates, fill, first_value, nothing
from pgqueue.queries.jobs.claim import MOVE_PICKED, claimed_jobs
from pgqueue.queries.jobs.read import JOB, JobReadQueries
from pgqueue.queries.schedules import ScheduleQueries
from pgqueue.queries.schedules.fire import CLOCK

_CLOCKS = re.compile(r"\b(now|statement_timestamp|clock_timestamp)\(\)")

# A row that was there before this transaction. Rows of this transaction and of its savepoints, also those from before
# the fixture was set up, carry a transaction id that is not older than the transaction's own.
_FOREIGN: LiteralString = "xmin::text::bigint < (pg_current_xact_id()::text::bigint & 4294967295)"

# What commit() and rollback() do on a connection whose transaction the test rolls back in the end.
BEGIN: LiteralString = "savepoint pgqueue_test"
COMMIT: LiteralString = "release savepoint pgqueue_test; savepoint pgqueue_test"
UNDO: LiteralString = "rollback to savepoint pgqueue_test"

# Find the newest foreign job. The statement walks each table backwards from its highest id.
NEWEST_FOREIGN: LiteralString = fill(
    """
select greatest(0, (select id from {s}.job_live where {foreign} order by id desc limit 1),
                (select id from {s}.job_finished where {foreign} order by id desc limit 1),
                (select id from {s}.dead_letter where {foreign} order by id desc limit 1))""",
    foreign=_FOREIGN,
)

# Count the foreign jobs that wait in these queues: a test that ran them would lock them, and do their work.
COUNT_FOREIGN: LiteralString = fill(
    """
select count(*) from {s}.job_live
where state in ('pending', 'blocked') and id <= %(newest)s and queue::text = any(%(queues)s::text[]) and {foreign}""",
    foreign=_FOREIGN,
)

LIST_QUEUES: LiteralString = "select distinct queue from {s}.job_live order by queue"

LIST_AFTER: LiteralString = fill("select {job}, null from {s}.job j where j.id > %(after)s order by j.id", job=JOB)

# Claim one job by its id, due or not: what a worker's CLAIM does, but for how it finds the row.
CLAIM_ONE: LiteralString = fill(
    """
with picked as materialized (
    select id, state from {s}.job_live where id = %(id)s and state = 'pending' for update
), {move_picked}""",
    move_picked=MOVE_PICKED,
)

# Set the times of one attempt by the test's clock, in columns that took them from the real clock or from the beginning
# of the transaction.
STAMP: LiteralString = """
with moved as (
    update {s}.transition set at = at + %(offset)s
    where %(offset)s <> interval '0' and job_id = %(id)s and lease = %(lease)s
), dead_lettered as (
    update {s}.dead_letter set failed_at = clock_timestamp() where id = %(id)s
)
update {s}.job_finished set finished_at = clock_timestamp() where id = %(id)s"""


class TravellingTemplates(Templates):
    """Templates whose clock is `offset` ahead of the database's, and goes on within a transaction.

    In production each statement of a worker is a transaction of its own. Here they share one, so `now()`, which is the
    beginning of the transaction, becomes the beginning of the statement. Nothing in production knows of this class.
    """

    def __init__(self, schema: str, offset: timedelta) -> None:
        super().__init__(schema)
        self._offset = offset

    def render(self, template: LiteralString, **parts: Composable) -> bytes:
        """Return a template with its names and the test's clock put in."""
        return super().render(self._travelled(template), **parts)

    def _travelled(self, template: LiteralString) -> LiteralString:
        ahead = f" + interval '{self._offset.total_seconds():.6f} seconds'" if self._offset else ""

        def clock(found: re.Match[str]) -> str:
            name = "statement_timestamp" if found[1] == "now" else found[1]
            return f"({name}(){ahead})"

        if self._offset:  # the view reads the real clock
            template = template.replace("j.phase", _PHASE)
        return _CLOCKS.sub(clock, template)


class TravellingQueries(Queries):
    """All statements under a clock that travels, and those that only tests need."""

    def __init__(self, schema: str, offset: timedelta = timedelta(0), codec: Codec | None = None) -> None:
        templates = TravellingTemplates(schema, offset)
        super().__init__(schema, codec, templates=templates)
        self.offset = offset
        self.schedules = TravellingSchedules(templates, codec)
        self.test = TestQueries(templates, codec, offset)


class TravellingSchedules(ScheduleQueries):
    """Statements about schedules, under the test's clock."""

    def clock(self) -> Query[datetime]:
        """Read the test's clock."""
        return Query(self._sql(CLOCK), first_value)


class TestQueries(JobReadQueries):
    """Statements that only tests need."""

    __test__ = False

    def __init__(self, templates: Templates, codec: Codec | None, offset: timedelta) -> None:
        super().__init__(templates, codec)
        self._offset = offset

    def savepoint(self, number: int) -> Query[None]:
        """Set a savepoint where a job begins. The transaction goes back there if the job has left it aborted."""
        return Query(b"savepoint pgqueue_job_%d" % number, nothing)

    def roll_back(self, number: int) -> Query[None]:
        """Go back to the savepoint of a job."""
        return Query(b"rollback to savepoint pgqueue_job_%d" % number, nothing)

    def release(self, number: int) -> Query[None]:
        """Release the savepoint of a job.

        This fails if the task has ended that savepoint. The second savepoint is for that case; otherwise both go.
        """
        return Query(b"savepoint pgqueue_guard; release savepoint pgqueue_job_%d" % number, nothing)

    def recover(self) -> Query[None]:
        """Go on after a `release` that failed."""
        return Query(b"rollback to savepoint pgqueue_guard; release savepoint pgqueue_guard", nothing)

    def newest_foreign(self) -> Query[int]:
        """Find the highest id of a job that was there before this transaction."""
        return Query(self._sql(NEWEST_FOREIGN), first_value)

    def count_foreign(self, newest: int, queues: Sequence[str]) -> Query[int]:
        """Count the jobs in these queues that were there before this transaction."""
        return Query(self._sql(COUNT_FOREIGN), first_value, {"newest": newest, "queues": list(queues)})

    def list_queues(self) -> Query[list[str]]:
        """List the queues that hold jobs."""
        return Query(self._sql(LIST_QUEUES), lambda rows: [row[0] for row in rows])

    def list_after(self, job_id: int) -> Query[list[Job]]:
        """List jobs with a higher id, oldest first, without their attempts."""
        return Query(self._sql(LIST_AFTER), lambda rows: [self._job(row) for row in rows], {"after": job_id})

    def claim_one(self, worker: UUID, job_id: int) -> Query[list[ClaimedJob]]:
        """Claim one job, if it is pending."""
        params = {"worker": worker, "id": job_id}
        return Query(self._sql(CLAIM_ONE), lambda rows: claimed_jobs(rows, worker), params)

    def stamp(self, job: ClaimedJob) -> Query[None]:
        """Set the times of an attempt by the test's clock."""
        return Query(self._sql(STAMP), nothing, {"id": job.id, "lease": job.lease, "offset": self._offset})


_PHASE = (
    "(case when j.state = 'pending' and j.attempt = 0"
    " then case when j.run_at > statement_timestamp() then 'scheduled' else 'pending' end else j.phase end)"
)

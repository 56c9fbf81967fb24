"""For tests of users' apps: the statements of production under a clock that travels, and a few beside them."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from pgqueue.codecs import Codec
from pgqueue.jobs.job import ClaimedJob, Job
from pgqueue.queries import Queries
from pgqueue.queries.base import Query, Templates, first_value, nothing
from pgqueue.queries.jobs.claim import _MOVE, _jobs
from pgqueue.queries.jobs.read import JOB, JobReadQueries
from pgqueue.queries.schedules import ScheduleQueries
from pgqueue.queries.schedules.fire import CLOCK

_CLOCKS = re.compile(r"\b(now|statement_timestamp|clock_timestamp)\(\)")
_STRANGE: LiteralString = "xmin::text::bigint < (pg_current_xact_id()::text::bigint & 4294967295)"

# What commit() and rollback() are for a connection whose transaction the test rolls back in the end.
BEGIN: LiteralString = "savepoint pgqueue_test"
COMMIT: LiteralString = "release savepoint pgqueue_test; savepoint pgqueue_test"
UNDO: LiteralString = "rollback to savepoint pgqueue_test"

# The newest job that was there before this transaction. Rows of our own, also from before the fixture was set up, carry
# a transaction id that is not older than ours. Each table is walked backwards from its highest id.
NEWEST_STRANGER: LiteralString = (
    "select greatest(0, (select id from {s}.job_live where "
    + _STRANGE
    + " order by id desc limit 1), (select id from {s}.job_finished where "
    + _STRANGE
    + " order by id desc limit 1), (select id from {s}.dead_letter where "
    + _STRANGE
    + " order by id desc limit 1))"
)

# Waiting jobs of others in these queues: running them would lock them, and do their work for a test.
COUNT_STRANGERS: LiteralString = (
    """
select count(*) from {s}.job_live
where state in ('pending', 'blocked') and id <= %(newest)s and queue = any(%(queues)s::text[]) and """
    + _STRANGE
)

LIST_QUEUES: LiteralString = "select distinct queue from {s}.job_live order by queue"

LIST_AFTER: LiteralString = JOB + ", null from {s}.job j where j.id > %(after)s order by j.id"

# Claim one job by its id, due or not: the CLAIM of a worker but for how the row is found.
CLAIM_ONE: LiteralString = (
    """
with picked as materialized (
    select id, state from {s}.job_live where id = %(id)s and state = 'pending' for update
)"""
    + _MOVE
)

# Times that columns take from the real clock, or from the beginning of the transaction, put where the test's clock is:
# those of one attempt.
STAMP: LiteralString = """
with told as (
    update {s}.transition set at = at + %(offset)s
    where %(offset)s <> interval '0' and job_id = %(id)s and lease = %(lease)s
), dead_lettered as (
    update {s}.dead_letter set failed_at = clock_timestamp() where id = %(id)s
)
update {s}.job_finished set finished_at = clock_timestamp() where id = %(id)s"""


class TravellingTemplates(Templates):
    """Templates read by a clock that is `offset` ahead of the database's and does not stand still in a transaction.

    In production each statement of a worker is a transaction of its own. Here they share one, so `now()`, which is
    the beginning of the transaction, is read as the beginning of the statement. Nothing in production knows of it.
    """

    def __init__(self, schema: str, offset: timedelta) -> None:
        super().__init__(schema)
        self._offset = offset

    def render(self, template: LiteralString) -> bytes:
        """Return a template with its names put in, by the test's clock."""
        return super().render(self._travelled(template))

    def _travelled(self, template: LiteralString) -> LiteralString:
        ahead = f" + interval '{self._offset.total_seconds():.6f} seconds'" if self._offset else ""

        def clock(found: re.Match[str]) -> str:
            name = "statement_timestamp" if found[1] == "now" else found[1]
            return f"({name}(){ahead})"

        if self._offset:  # the view reads the real clock
            template = template.replace("j.phase", _PHASE)
        return _CLOCKS.sub(clock, template)


class TravellingQueries(Queries):
    """All statements by a clock that travels, and those that only tests need."""

    def __init__(self, schema: str, offset: timedelta = timedelta(0), codec: Codec | None = None) -> None:
        templates = TravellingTemplates(schema, offset)
        super().__init__(schema, codec, templates=templates)
        self.offset = offset
        self.schedules = TravellingSchedules(templates, codec)
        self.test = TestQueries(templates, codec, offset)


class TravellingSchedules(ScheduleQueries):
    """Schedules by the test's clock."""

    def clock(self) -> Query[datetime]:
        """The test's time."""
        return Query(self._sql(CLOCK), first_value)


class TestQueries(JobReadQueries):
    """Statements that only tests need."""

    __test__ = False

    def __init__(self, templates: Templates, codec: Codec | None, offset: timedelta) -> None:
        super().__init__(templates, codec)
        self._offset = offset

    def savepoint(self, number: int) -> Query[None]:
        """Mark where a job begins. It goes back there when it has left the transaction aborted."""
        return Query(b"savepoint pgqueue_job_%d" % number, nothing)

    def roll_back(self, number: int) -> Query[None]:
        """Go back to where a job began."""
        return Query(b"rollback to savepoint pgqueue_job_%d" % number, nothing)

    def release(self, number: int) -> Query[None]:
        """Forget where a job began. The second savepoint is there if this fails, because the task has ended the first:
        if it has not, both go."""
        return Query(b"savepoint pgqueue_guard; release savepoint pgqueue_job_%d" % number, nothing)

    def recover(self) -> Query[None]:
        """Go on after a release that failed."""
        return Query(b"rollback to savepoint pgqueue_guard; release savepoint pgqueue_guard", nothing)

    def newest_stranger(self) -> Query[int]:
        """The highest id of a job that was there before."""
        return Query(self._sql(NEWEST_STRANGER), first_value)

    def count_strangers(self, newest: int, queues: Sequence[str]) -> Query[int]:
        """How many jobs of others wait in these queues."""
        return Query(self._sql(COUNT_STRANGERS), first_value, {"newest": newest, "queues": list(queues)})

    def list_queues(self) -> Query[list[str]]:
        """The queues that hold jobs."""
        return Query(self._sql(LIST_QUEUES), lambda rows: [row[0] for row in rows])

    def list_after(self, job_id: int) -> Query[list[Job]]:
        """Jobs with a higher id, oldest first, without their attempts."""
        return Query(self._sql(LIST_AFTER), lambda rows: [self._job(row) for row in rows], {"after": job_id})

    def claim_one(self, worker: UUID, job_id: int) -> Query[list[ClaimedJob]]:
        """Claim one job, if it is pending."""
        params = {"worker": worker, "id": job_id}
        return Query(self._sql(CLAIM_ONE), lambda rows: _jobs(rows, worker), params)

    def stamp(self, job: ClaimedJob) -> Query[None]:
        """Move the times of an attempt that the real clock gave."""
        return Query(self._sql(STAMP), nothing, {"id": job.id, "lease": job.lease, "offset": self._offset})


_PHASE = (
    "(case when j.state = 'pending' and j.attempt = 0"
    " then case when j.run_at > statement_timestamp() then 'scheduled' else 'pending' end else j.phase end)"
)

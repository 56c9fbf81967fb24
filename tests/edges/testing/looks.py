"""Reads the database after a test, the transitions of a job, and the text of a failed assertion."""

from collections.abc import Callable
from typing import Any

import pytest

from pgqueue.testing import Jobs

LEFT = "select (select count(*) from pgqueue.job) + (select count(*) from pgqueue.transition)"
MOVES = "select from_state, to_state, attempt, reason from pgqueue.transition where job_id = %s order by lease, at"


def moves(jobs: Jobs, job_id: int) -> list[Any]:
    return jobs.conn.execute(MOVES, [job_id]).fetchall()


def failure(check: Callable[[], Any]) -> str:
    with pytest.raises(AssertionError) as raised:
        check()
    return str(raised.value)

"""Lists of jobs look at a bounded number of them, and say below which id they did not look."""

import json

import pytest
from typer.testing import CliRunner

from pgqueue import App, JobFilter
from pgqueue.cli import cli
from tests.harness import Conn


def test_a_list_says_below_which_id_it_did_not_look(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'q' from generate_series(1, 12000)")
    conn.execute("update pgqueue.job_live set task = 'rare' where id in (7, 11900)")
    conn.execute("update pgqueue.job_live set attempt = 1 where id = 3")
    monkeypatch.setattr("pgqueue.queries.jobs.list.MOST_LOOKED", 500)
    for state in (None, "pending"):
        found = app.jobs.list(JobFilter(task="rare", state=state))
        assert ([job.id for job in found], found.unseen_below) == ([11900], 11501)
        rest = app.jobs.list(JobFilter(task="rare", state=state), before=501)
        assert ([job.id for job in rest], rest.unseen_below, rest.notice) == ([7], None, None)
    few = app.jobs.list(JobFilter(state="retrying"))
    assert ([job.id for job in few], few.unseen_below) == ([3], None)
    assert app.jobs.list(JobFilter(task="t"), 5).unseen_below is None  # full: `before` of its last goes on
    printed = CliRunner().invoke(cli, ["jobs", "list", "--task", "rare", "--json", "--dsn", dsn])
    assert [job["id"] for job in json.loads(printed.stdout)] == [11900]
    assert printed.stderr.split() == (found.notice or "").split()

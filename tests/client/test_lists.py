"""Lists and previews look at a bounded number of jobs, and say below which id they did not look."""

import json

import pytest
from typer.testing import CliRunner

from pgqueue import App, JobFilter
from pgqueue.cli import cli
from tests.client.test_dead import add_dead
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


def test_a_preview_says_below_which_id_it_did_not_look_and_the_operation_looks_at_all(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'q' from generate_series(1, 3000)")
    conn.execute("update pgqueue.job_live set task = 'rare' where id in (7, 2800, 2900)")
    monkeypatch.setattr("pgqueue.queries.chosen.MOST_LOOKED", 500)
    monkeypatch.setattr("pgqueue.cli.filters.MOST_LOOKED", 500)
    rare = JobFilter(task="rare")
    found = app.jobs.preview("cancel", rare)
    assert ([job.id for job in found], found.unseen_below) == ([2800, 2900], 2501)
    assert [job.id for job in app.jobs.preview("cancel", rare, 1)] == [2800]
    named = app.jobs.preview("cancel", JobFilter(ids=[7, 2900]))
    assert ([job.id for job in named], named.unseen_below, named.notice) == ([7, 2900], None, None)
    with conn.transaction():
        assert [job.id for job in app.jobs.using(conn).preview("cancel", rare)] == [2800, 2900]
        assert conn.execute("show enable_seqscan").fetchone() == ("on",)  # the caller's
    shown = CliRunner().invoke(cli, ["jobs", "cancel", "--task", "rare", "--dry-run", "--dsn", dsn])
    told = " ".join(shown.stderr.split())
    assert "at least 2 jobs to cancel among the newest 500, for example:" in told
    words = "jobs with ids below 2501 were not all looked at, and more of them may fit: the operation itself"
    assert words in told
    assert app.jobs.cancel(rare).done == 3
    assert conn.execute("select count(*) from pgqueue.job_live").fetchone() == (2997,)


def test_a_retry_is_previewed_in_each_place(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    conn.execute("insert into pgqueue.job_live (task, queue, attempt, run_at)"
                 " select 't', 'q', 1, now() + interval '1 day' from generate_series(1, 30)")  # fmt: skip
    add_dead(conn, 101, 120)
    monkeypatch.setattr("pgqueue.queries.chosen.MOST_LOOKED", 10)
    found = app.jobs.preview("retry", JobFilter(task="t"))
    assert ([job.id for job in found], found.unseen_below) == ([*range(21, 31), *range(111, 121)], 111)
    monkeypatch.setattr("pgqueue.queries.chosen.MOST_LOOKED", 30)
    assert app.jobs.preview("retry", JobFilter(task="t")).unseen_below is None


def test_where_a_preview_has_found_none_of_the_newest_it_asks_all_the_same(
    conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dead(conn, 1, 30)
    conn.execute("update pgqueue.dead_letter set task = 'rare' where id = 3")
    chosen = ["dead", "redrive", "--task", "rare", "--dsn", dsn]
    for looked, asks in ((10, True), (30, True), (10, False)):
        monkeypatch.setattr("pgqueue.queries.chosen.MOST_LOOKED", looked)
        monkeypatch.setattr("pgqueue.cli.filters.MOST_LOOKED", looked)
        done = CliRunner().invoke(cli, chosen if asks else [*chosen, "--dry-run"])
        words = "about 1 dead letters to redrive" if looked == 30 else "no dead letters to redrive among the newest 10"
        assert words in " ".join(done.stderr.split())
        assert ("say --yes" in str(done.exception)) is asks
    nobody = CliRunner().invoke(cli, ["dead", "redrive", "--task", "nobody", "--dsn", dsn])
    assert "no dead letters to redrive" in nobody.stderr
    assert "say --yes" in str(nobody.exception)

"""The waiting jobs of procrastinate and of django-tasks-db become ours, each once, and none while it runs there."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from typer.testing import CliRunner

from pgqueue import App, ConfigError, Conflict, InvalidOption, Unique
from pgqueue.cli.commands import cli
from pgqueue.client.importing import Import, Imported
from pgqueue.queries.foreign import Chosen
from tests.conftest import scalar
from tests.harness import Conn, wait_for

# The columns of procrastinate 3 and django-tasks-db 0.13 that an import reads, with what their workers rely on.
TABLES = """
drop schema if exists theirs cascade; create schema theirs;
create type theirs.procrastinate_job_status as enum
    ('todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborting', 'aborted');
create table theirs.procrastinate_jobs (
    id bigserial primary key, queue_name varchar(128) not null default 'default', task_name varchar(128) not null,
    priority integer not null default 0, lock text, queueing_lock text, args jsonb not null default '{}',
    status theirs.procrastinate_job_status not null default 'todo', scheduled_at timestamptz,
    attempts integer not null default 0, abort_requested boolean not null default false, worker_id bigint);
create unique index on theirs.procrastinate_jobs (queueing_lock) where status = 'todo';
create table theirs.django_tasks_database_dbtaskresult (
    id uuid primary key default gen_random_uuid(), status varchar(11) not null default 'READY',
    enqueued_at timestamptz not null default now(), started_at timestamptz, finished_at timestamptz,
    args_kwargs jsonb not null, priority integer not null default 0, task_path text not null,
    worker_ids jsonb not null default '[]', queue_name varchar(32) not null default 'default',
    backend_name varchar(32) not null default 'default', run_after timestamptz not null default '9999-01-01 00:00Z',
    return_value jsonb, exception_class_path text not null default '', traceback text not null default '')"""
CLAIM = """
update theirs.procrastinate_jobs set status = 'doing' where id = (
    select id from theirs.procrastinate_jobs where status = 'todo' order by priority desc, id limit 1
    for update skip locked) returning id"""
OURS = "select json_agg(task || ' ' || args::text order by id) from pgqueue.job"


@pytest.fixture
def conn(emptied_dsn: str) -> Iterator[Conn]:
    with psycopg.connect(emptied_dsn, autocommit=True, options="-c search_path=") as conn:
        conn.execute(TABLES)
        yield conn


@pytest.fixture
def app(emptied_dsn: str, conn: Conn) -> Iterator[App]:
    app = App(emptied_dsn)

    @app.task(name="mail.send", max_attempts=6)
    def send(to: str, n: int = 0) -> None: ...

    @app.task(name="book", ordered="account")
    def book(account: int) -> None: ...

    @app.task(name="once", unique=Unique(by="key", on_conflict="replace"))
    def once(key: str, n: int) -> None: ...

    yield app
    app.close()


def defer(conn: Conn, task: str = "mail.send", args: Any = None, **columns: Any) -> str:
    given = {"task_name": task, "args": Jsonb({"to": "a"} if args is None else args)} | columns
    return inserted(conn, "procrastinate_jobs", given)


def inserted(conn: Conn, table: str, given: dict[str, Any]) -> str:
    names, holes = ", ".join(given), ", ".join(f"%({name})s" for name in given)
    row = conn.execute(f"insert into theirs.{table} ({names}) values ({holes}) returning id", given).fetchone()
    assert row is not None
    return str(row[0])


def take(app: App, system: str = "procrastinate", **renamed: str) -> Imported:
    return Import(app, system, "theirs", renamed).run()


def reasons(imported: Imported) -> dict[str, str]:
    return {each.key: each.reason for each in imported.left}


def test_what_waits_in_procrastinate_is_moved_with_all_that_it_has(app: App, conn: Conn) -> None:
    plain = defer(conn, args={"to": "ann", "n": 2}, priority=7, queue_name="email")
    later = defer(conn, scheduled_at="2100-01-01T00:00:00Z", queueing_lock="one at a time")
    tried = defer(conn, attempts=2)
    renamed = defer(conn, "old.name")
    expected = Import(app, "procrastinate", "theirs", {"old.name": "mail.send"}).preview()
    assert scalar(conn, "select count(*) from pgqueue.job") == 0
    done = Import(app, "procrastinate", "theirs", {"old.name": "mail.send"}).run()
    assert [key for key, _ in done.moved] == [plain, later, tried, renamed] == [key for key, _ in expected.moved]
    assert (done.tasks, expected.tasks, done.left) == ({"mail.send": 4}, {"mail.send": 4}, [])
    assert scalar(conn, "select count(*) from theirs.procrastinate_jobs") == 0
    jobs = [app.get(job) for _, job in done.moved if job is not None]
    assert [(job.queue, job.priority, job.args) for job in jobs[:1]] == [("email", 7, {"to": "ann", "n": 2})]
    assert [job.max_attempts for job in jobs] == [6, 6, 4, 6]
    assert (jobs[1].phase, str(jobs[1].run_at)) == ("scheduled", "2100-01-01 00:00:00+00:00")
    assert jobs[0].headers["imported_from"] == f"procrastinate {plain}"
    again = app.using(unique_key="one at a time").enqueue("mail.send", {"to": "b"})
    assert (again.existing, again.id) == (True, jobs[1].id)


def test_what_cannot_be_moved_stays_and_says_why(app: App, conn: Conn) -> None:
    app.using(unique_key="taken").enqueue("mail.send", {"to": "b"})
    ours = app.enqueue("once", {"key": "a", "n": 1})
    stays = {
        defer(conn, "unknown"): "no task of this app is called 'unknown'",
        defer(conn, args={"to": {"secret": 1}}): "does not take its arguments",
        defer(conn, priority=500): "priority=500",
        defer(conn, lock="x"): "has no order here",
        defer(conn, "book", {"account": 1}, lock="runs"): "a job with its lock runs there",
        defer(conn, queueing_lock="taken"): "has its key here",
        defer(conn, "once", {"key": "a", "n": 2}): "has its key here",
    }
    for status in ("doing", "failed", "succeeded"):
        defer(conn, "book", {"account": 1}, lock="runs" if status == "doing" else None, status=status)
    done = take(app)
    assert not done.moved
    for key, reason in stays.items():
        assert reason in reasons(done)[key]
    assert "secret" not in str(done)
    assert [other.split(":")[0] for other in done.others] == ["1 doing in default", "1 failed in default"]
    assert scalar(conn, "select count(*) from theirs.procrastinate_jobs") == 10
    assert scalar(conn, "select count(*) from pgqueue.job") == 2
    assert app.get(ours.id).args == {"key": "a", "n": 1}


def test_jobs_of_a_lock_keep_their_order(app: App, conn: Conn) -> None:
    seven, _, again = (defer(conn, "book", {"account": account}, lock=str(account)) for account in (7, 8, 7))
    moved = dict(take(app).moved)
    first, second = (app.get(moved[key] or 0) for key in (seven, again))
    assert (first.waits_for, second.waits_for) == ("turn", "turn")
    assert first.flow is not None
    assert first.flow == second.flow
    assert first.id < second.id


@pytest.mark.parametrize(
    ("task", "columns", "why"),
    [
        ("unknown", {}, "no task of this app"),
        ("book", {"args": {"account": "x"}}, "does not take its arguments"),
        ("book", {"priority": 5}, "priority"),
        ("book", {"args": {"account": 8}}, "another task or ordering key"),
        ("pay", {}, "another task or ordering key"),
        ("book", {"status": "doing"}, None),
        ("book", {"queueing_lock": "taken"}, "has its key here"),
    ],
)
def test_a_lock_moves_with_all_of_its_jobs_or_not_at_all(
    app: App, conn: Conn, task: str, columns: dict[str, Any], why: str | None
) -> None:
    app.task(name="pay", ordered="account")(_pay)
    app.using(unique_key="taken").enqueue("book", {"account": 1})
    first = defer(conn, "book", {"account": 7}, lock="7")
    other = defer(conn, "book", {"account": 8}, lock="8")
    given = {"lock": "7", "args": Jsonb(columns.pop("args", {"account": 7}))} | columns
    stays = inserted(conn, "procrastinate_jobs", {"task_name": task, **given})
    last = defer(conn, "book", {"account": 7}, lock="7")
    done = take(app)
    assert [key for key, _ in done.moved] == [other]
    assert scalar(conn, OURS) == ['book {"account": 1}', 'book {"account": 8}']
    behind = "a job with its lock runs there" if why is None else f"job {stays}, which has its lock, stays there"
    assert behind in reasons(done)[first]
    assert behind in reasons(done)[last]
    assert why is None or why in reasons(done)[stays]


def _pay(account: int) -> None: ...


def test_nobody_writes_a_table_with_locks_while_they_move(app: App, conn: Conn, emptied_dsn: str) -> None:
    for _ in range(2):
        defer(conn, "book", {"account": 7}, lock="7")
    late: list[str] = []
    with psycopg.connect(emptied_dsn, autocommit=True) as other:
        pid, later = other.info.backend_pid, lambda: defer(other, "book", {"account": 7}, lock="7")
        producing = threading.Thread(target=lambda: late.append(later()))

        @app.around_enqueue
        def look(call: Any) -> None:
            if not producing.is_alive():
                producing.start()
                wait_for(lambda: scalar(conn, "select cardinality(pg_blocking_pids(%s)) > 0", pid), "the job to wait")

        assert len(take(app).moved) == 2
        producing.join()
    assert scalar(conn, "select json_agg(id::text) from theirs.procrastinate_jobs") == late


def test_a_job_that_is_put_back_for_another_attempt_moves_before_those_behind_it(
    app: App, conn: Conn, emptied_dsn: str
) -> None:
    first = defer(conn, "book", {"account": 7}, lock="7", status="doing")
    second = defer(conn, "book", {"account": 7}, lock="7")
    found: list[Imported] = []
    with psycopg.connect(emptied_dsn) as worker:
        worker.execute("update theirs.procrastinate_jobs set status = 'todo', attempts = 1 where status = 'doing'")
        importing = threading.Thread(target=lambda: found.append(take(app)))
        importing.start()
        held = "select count(*) > 0 from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        wait_for(lambda: scalar(conn, held, worker.info.backend_pid), "the import to wait for the worker")
        worker.commit()
        importing.join()
    assert [key for key, _ in found[0].moved] == [first, second]


def test_an_import_does_not_wait_for_long_transactions_where_there_are_locks(
    app: App, conn: Conn, emptied_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.client.importing.LOCK_SECONDS", 0.1)
    defer(conn, "book", {"account": 7}, lock="7")
    with psycopg.connect(emptied_dsn) as producer:
        defer(producer)
        with pytest.raises(Conflict, match="an open transaction writes the jobs of procrastinate: nothing was moved"):
            take(app)
    assert scalar(conn, OURS) is None


def test_queues_are_imported_one_by_one_and_nothing_is_missed(app: App, conn: Conn) -> None:
    email, sms = defer(conn, queue_name="email"), defer(conn, queue_name="sms")
    shared = [defer(conn, "book", {"account": 7}, lock="7", queue_name=queue) for queue in ("email", "sms")]
    failed = [defer(conn, queue_name=queue, status="failed") for queue in ("email", "sms", "sms")]
    done = Import(app, "procrastinate", "theirs", chosen=Chosen(["email"])).run()
    assert [key for key, _ in done.moved] == [email]
    assert "another queue: import both queues together" in reasons(done)[shared[0]]
    assert [other.split(":")[0] for other in done.others] == ["3 failed in email, sms", "2 todo in sms"]
    done = Import(app, "procrastinate", "theirs", chosen=Chosen(["sms", "email"], failed=True)).run()
    assert [key for key, _ in done.moved] == [sms, *shared, *failed]
    assert (done.left, done.others) == ([], [])
    assert scalar(conn, "select count(*) from theirs.procrastinate_jobs") == 0


def test_a_job_that_has_failed_runs_again_after_those_that_wait(app: App, conn: Conn) -> None:
    failed = defer(conn, status="failed", attempts=9, queueing_lock="one")
    waits = defer(conn, queueing_lock="one")
    locked = defer(conn, "book", {"account": 7}, lock="7", status="failed")
    defer(conn, "book", {"account": 7}, lock="7", status="doing")
    put = {"status": "FAILED", "task_path": "mail.send", "args_kwargs": Jsonb({"args": ["a"], "kwargs": {}})}
    theirs = inserted(conn, "django_tasks_database_dbtaskresult", put)
    done = Import(app, "procrastinate", "theirs", chosen=Chosen(failed=True)).run()
    assert [key for key, _ in done.moved] == [waits]
    assert "has its key here" in reasons(done)[failed]
    assert "a job with its lock runs there" in reasons(done)[locked]
    ((key, job),) = Import(app, "django-tasks-db", "theirs", chosen=Chosen(failed=True)).run().moved
    assert (key, app.get(job or 0).max_attempts) == (theirs, 6)


def test_an_import_is_an_operation_that_says_who_and_how_many(app: App, conn: Conn) -> None:
    defer(conn, queue_name="email")
    defer(conn, "old", queue_name="email")
    defer(conn, "unknown", queue_name="email")
    Import(app, "procrastinate", "theirs", {"old": "mail.send"}, Chosen(["email"])).preview()
    assert app.operations.list() == []
    Import(app, "procrastinate", "theirs", {"old": "mail.send"}, Chosen(["email"])).run(by="ann")
    with pytest.raises(ConfigError):
        Import(app, "procrastinate", "nowhere").run(by="bob")
    failed, done = app.operations.list()
    assert (done.kind, done.actor, done.done, done.skipped, done.state) == ("enqueue", "ann", 2, 1, "ended")
    assert done.filter == {"from": "procrastinate", "schema": "theirs", "queues": "email"}
    assert done.options == {"map": "old=mail.send"}
    assert (failed.actor, failed.done) == ("bob", 0)
    assert "no tables of procrastinate" in (failed.error or "")


def test_triggers_of_procrastinate_find_their_own_tables(app: App, conn: Conn) -> None:
    conn.execute(
        "create table theirs.procrastinate_periodic_defers (job_id bigint);"
        "create function theirs.unlink() returns trigger language plpgsql as $$ begin"
        " update procrastinate_periodic_defers set job_id = null where job_id = old.id; return old; end $$;"
        "create trigger unlink before delete on theirs.procrastinate_jobs for each row execute function theirs.unlink()"
    )
    job = defer(conn)
    conn.execute("insert into theirs.procrastinate_periodic_defers values (%s)", [int(job)])
    assert [key for key, _ in take(app).moved] == [job]
    assert scalar(conn, "select json_agg(job_id) from theirs.procrastinate_periodic_defers") == [None]


def test_a_second_import_finds_nothing_and_one_that_fails_has_moved_nothing(app: App, conn: Conn) -> None:
    for n in range(3):
        defer(conn, args={"to": "a", "n": n})
    conn.execute(
        "create function theirs.refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;"
        "create trigger refuse before delete on theirs.procrastinate_jobs execute function theirs.refuse()"
    )
    with pytest.raises(psycopg.errors.RaiseException):
        take(app)
    assert scalar(conn, OURS) is None
    conn.execute("drop trigger refuse on theirs.procrastinate_jobs")
    assert len(take(app).moved) == 3
    assert take(app).moved == []
    assert len(scalar(conn, OURS)) == 3


def test_a_job_that_a_worker_is_taking_is_waited_for_and_left(app: App, conn: Conn, emptied_dsn: str) -> None:
    defer(conn, args={"to": "first"})
    second = defer(conn, args={"to": "second"})
    found: list[Imported] = []
    with psycopg.connect(emptied_dsn) as worker:
        assert worker.execute(CLAIM).fetchone() is not None
        importing = threading.Thread(target=lambda: found.append(take(app)))
        importing.start()
        held = "select count(*) > 0 from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
        wait_for(lambda: scalar(conn, held, worker.info.backend_pid), "the import to wait for the worker")
        worker.commit()
        importing.join()
    assert [key for key, _ in found[0].moved] == [second]
    assert scalar(conn, OURS) == ['mail.send {"to": "second"}']
    assert scalar(conn, "select count(*) from theirs.procrastinate_jobs where status = 'doing'") == 1


def test_a_worker_takes_no_job_that_is_being_moved(app: App, conn: Conn, emptied_dsn: str) -> None:
    defer(conn)
    with psycopg.connect(emptied_dsn, autocommit=True) as other:
        inside: list[object] = []

        @app.around_enqueue
        def look(call: Any) -> None:
            inside.append(other.execute(CLAIM).fetchone())

        assert len(take(app).moved) == 1
        assert inside == [None]
        assert other.execute(CLAIM).fetchone() is None


def test_what_waits_in_django_tasks_db_is_moved(app: App, conn: Conn) -> None:
    @app.task(name="any.shape")
    def shape(*, args: list[Any] = [], kwargs: dict[str, Any] | None = None) -> None: ...  # noqa: B006

    def put(path: str, args: list[Any], kwargs: dict[str, Any], **columns: Any) -> str:
        given = {"task_path": path, "args_kwargs": Jsonb({"args": args, "kwargs": kwargs})} | columns
        return inserted(conn, "django_tasks_database_dbtaskresult", given)

    first = put("mail.send", ["ann"], {"n": 3}, priority=50, queue_name="email")
    later = put("mail.send", [], {"to": "bob"}, run_after="2100-01-01T00:00:00Z")
    stays = [put("mail.send", ["a", 1, 2], {}), put("mail.send", ["a"], {"to": "b"}), put("gone", [], {})]
    put("mail.send", ["x"], {}, status="RUNNING")
    done = take(app, "django-tasks-db")
    assert [key for key, _ in done.moved] == [first, later]
    assert set(reasons(done)) == set(stays)
    one, two = (app.get(job) for _, job in done.moved if job is not None)
    assert (one.args, one.queue, one.priority, one.phase) == ({"to": "ann", "n": 3}, "email", 50, "pending")
    assert one.headers["positional"] == "1"
    assert (two.args, two.phase) == ({"to": "bob"}, "scheduled")
    assert "running" in done.others[0]
    assert take(app, "django-tasks-db").moved == []


def test_the_command_previews_and_moves(
    app: App, conn: Conn, emptied_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.cli.call.app_or_default", lambda *_: app)
    old, other = defer(conn, "old"), defer(conn, "unknown")

    def call(*more: str) -> Any:
        command = ["import", "procrastinate", "--from-schema", "theirs", "--map", "old=mail.send", *more]
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--json" in more else done.stdout

    assert call("--dry-run", "--json")["moved"] == [[old, None]]
    assert "would be imported" in call("--dry-run")
    assert scalar(conn, OURS) is None
    shown = call("-Q", "default", "--failed", "--by", "ann")
    assert scalar(conn, "select json_agg(actor || ' ' || via || ' ' || done) from pgqueue.operation") == ["ann cli 1"]
    assert "mail.send" in shown
    assert "would be" not in shown
    assert "no task of this app" in shown
    assert call("--json")["left"][0]["key"] == other


def test_an_import_that_cannot_be_is_refused(app: App) -> None:
    with pytest.raises(ConfigError, match=r"no tables of procrastinate in the schema 'public'.*--from-schema"):
        Import(app, "procrastinate").run()
    with pytest.raises(InvalidOption, match="give one of procrastinate, django-tasks-db"):
        Import(app, "celery")
    with pytest.raises(InvalidOption, match="no task of this app is called 'nowhere'"):
        Import(app, "procrastinate", "theirs", {"old": "nowhere"})

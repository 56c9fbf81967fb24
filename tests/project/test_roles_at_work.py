"""Each role does its job on a live database with nothing but its grants: as a member that logs in."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue import App, DeadFilter, LockHeld, NotAllowed, Unique, db, migrate
from pgqueue.cli.call import Call
from pgqueue.cli.jobs import ShownJob, show_job
from pgqueue.roles.granted import granted
from pgqueue.scheduler.process import Scheduler
from pgqueue.scheduler.settings import SchedulerSettings
from tests.client.test_dead import add_dead
from tests.conftest import DEADLINE, EMPTY, Databases, drain, eventually, scalar
from tests.harness import QUERIES, Conn, wait_for, working
from tests.project.test_roles import drop_roles, unused_prefix


class Installed(NamedTuple):
    """A database with roles, each with a member that can log in."""

    dsn: str
    prefix: str

    def member(self, role: str) -> str:
        """A DSN that logs in as a member of a role."""
        return make_conninfo(self.dsn, user=f"{self.prefix}_{role}_member")

    def app(self, role: str, **settings: object) -> App:
        return App(self.member(role), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kept(server_dsn: str, template: str) -> Iterator[Installed]:
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        prefix = unused_prefix(conn)
        migrate.apply_roles(dsn, prefix=prefix)
        for role in ("producer", "worker", "scheduler", "operator", "web", "reader", "metrics"):
            names = {"name": sql.Identifier(f"{prefix}_{role}_member"), "role": sql.Identifier(f"{prefix}_{role}")}
            conn.execute(sql.SQL("create role {name} login in role {role}").format(**names))
    yield Installed(dsn, prefix)
    databases.drop_all()
    drop_roles(server_dsn, prefix)


@pytest.fixture
def installed(kept: Installed) -> Installed:
    with psycopg.connect(kept.dsn, autocommit=True) as conn:
        conn.execute(EMPTY)
    return kept


@pytest.fixture
def conn(installed: Installed) -> Iterator[Conn]:
    with psycopg.connect(installed.dsn, autocommit=True, options="-c search_path=") as conn:
        yield conn


def shown_as(installed: Installed, role: str, job: int) -> ShownJob:
    """What `jobs show` prints to a role."""
    with closing(Call(None, installed.member(role), "pgqueue")) as call:
        return show_job(call, job)


def states(conn: Conn) -> list[tuple[str, int]]:
    return conn.execute("select state, count(*) from pgqueue.job group by state order by state").fetchall()


def refused(dsn: str, *statements: str) -> None:
    """Check that a role may run none of these statements."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


def test_a_producer_enqueues_with_every_option_and_sees_nothing(installed: Installed, conn: Conn) -> None:
    app = installed.app("producer", max_depth={"default": 1000})

    @app.task(name="t")
    def t(n: int) -> None: ...

    with closing(app):
        first = t.enqueue(n=1)
        assert len(t.enqueue_many([{"n": 2}, {"n": 3}])) == 2
        keyed = t.using(idempotency_key="k").enqueue(n=4)
        assert t.using(idempotency_key="k").enqueue(n=4).id == keyed.id
        alone = t.using(unique_key="u").enqueue(n=5)
        assert t.using(unique_key="u").enqueue(n=5).id == alone.id
        replaced = t.using(unique=Unique(while_="pending", on_conflict="replace"), unique_key="u").enqueue(n=6)
        assert replaced.id == alone.id
        t.using(expires=60, delay=5, priority=3, tags=["a"]).enqueue(n=7)
        t.using(queue="other").enqueue(n=8)
        with pytest.raises(NotAllowed, match=r"permission denied.*docs/roles\.md"):
            app.get(first.id)
        with app.lock("k"), pytest.raises(LockHeld), app.lock("k", wait=0.1):
            pass
    with psycopg.connect(installed.member("producer")) as own:
        for key in ("unique_key => 'u'", "idempotency_key => 'x'"):
            own.execute(f"select pgqueue.enqueue('t', '{{}}', {key})".encode())
    assert scalar(conn, "select args from pgqueue.job where id = %s", alone.id) == {"n": 6}
    refused(
        installed.member("producer"),
        "select args from pgqueue.job_live",
        "select * from pgqueue.job_status",
        "select * from pgqueue.transition",
        "delete from pgqueue.job_live",
        "update pgqueue.job_live set state = 'running'",
        "insert into pgqueue.job_live (task, queue, lease) values ('t', 'q', 7)",
        "select pgqueue.maintain()",
        "truncate pgqueue.job_live",
    )


def test_a_worker_runs_jobs_of_every_kind_and_does_all_its_duties(installed: Installed, conn: Conn) -> None:
    app = installed.app("worker")

    @app.task(name="loop", result_ttl=3600)
    async def loop(n: int) -> int:
        return n

    @app.task(name="thread", retry=[0.01], max_attempts=2)
    def thread(n: int) -> None:
        raise ValueError(n)

    @app.task(name="child", isolation="process")
    def child(n: int) -> int:
        return n

    @app.task(name="inside")
    def inside() -> None:
        with app.lock("k", ttl=1) as lock:
            wait_for(lambda: lock._taken.deadline > deadlines.setdefault("first", lock._taken.deadline))  # renewed
            loop.enqueue(n=10)

    deadlines: dict[str, float] = {}

    loop.enqueue(n=1)
    thread.enqueue(n=2)
    child.enqueue(n=3)
    inside.enqueue()
    drain(app, conn)
    assert states(conn) == [("failed", 1), ("succeeded", 4)]
    assert scalar(conn, "select count(*) from pgqueue.transition where to_state = 'running'") == 6
    app.close()


def test_a_worker_without_ownership_works_over_a_midnight(
    installed: Installed, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    """The partitions of today and of the days ahead are missing, as after a night without an owner."""
    app = installed.app("worker")

    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    daily = "select partition from pgqueue.partition_status where not is_default"
    for (name,) in conn.execute(daily).fetchall():
        conn.execute(sql.SQL("drop table pgqueue.{}").format(sql.Identifier(name)))
    for n in range(5):
        t.enqueue(n=n)
    assert scalar(conn, "select count(*) from pgqueue.transition_default") == 5
    owner = f"{installed.prefix}_owner"

    async def run() -> None:
        async with working(app):
            await eventually(lambda: states(conn) == [("succeeded", 5)], "the jobs to run")
            there = "select count(*) from pgqueue.partition_status where last_day >= current_date and not is_default"
            await eventually(lambda: scalar(conn, there) >= 3 * 7, "the partitions to be made")

    caplog.set_level("INFO", "pgqueue")
    asyncio.run(run())
    app.close()
    assert scalar(conn, "select count(*) from pgqueue.transition_default") == 0
    owners = (
        "select array_agg(distinct c.relowner::regrole::text) from pg_class c join pg_inherits i on i.inhrelid = c.oid"
    )
    assert scalar(conn, f"{owners} where c.relnamespace = 'pgqueue'::regnamespace") == [owner]
    assert not scalar(conn, "select pg_has_role(%s, %s, 'usage')", f"{installed.prefix}_worker_member", owner)
    assert "partitions: " in caplog.text
    refused(
        installed.member("worker"),
        "create table pgqueue.mine (id int)",
        "drop table pgqueue.transition_default",
        "alter table pgqueue.job_live add column mine int",
        "truncate pgqueue.transition",
        "select * from pgqueue.transition_default",
        "select pgqueue.redrive(task => 't')",
    )


def test_an_operator_lists_and_releases_locks_and_takes_none(installed: Installed, conn: Conn) -> None:
    insert = "insert into pgqueue.named_lock (key, owner, token, holder, expires_at, waited_until) values"
    conn.execute(f"{insert} ('k', gen_random_uuid(), 7, 'job 1 t', now() + interval '1 h', now() + interval '1 h')")
    with closing(installed.app("operator")) as app:
        assert [lock.token for lock in app.locks.list()] == [7]
        assert app.locks.release("k").holder == "job 1 t"
        with pytest.raises(NotAllowed, match="named_lock"), app.lock("k"):
            pass


def test_maintain_does_a_step_at_a_time_and_ends(installed: Installed, conn: Conn) -> None:
    days = [scalar(conn, "select (now() at time zone 'UTC')::date - %s", n) for n in (40, 30)]
    for day in days:
        conn.execute("insert into pgqueue.transition (job_id, to_state, at) values (1, 'pending', %s)", [day])
    with psycopg.connect(installed.member("worker"), autocommit=True) as worker:
        steps = [db.run(worker, QUERIES.partitions.maintain()) for _ in range(4)]
    assert steps[:2] == [f"rows of {day} in transition_default have a partition" for day in reversed(days)]
    assert steps[-1] is None
    assert scalar(conn, "select count(*) from pgqueue.transition_default") == 0
    assert scalar(conn, "select count(*) from pgqueue.transition") == 2


def test_maintain_gives_up_where_another_one_works(installed: Installed, conn: Conn) -> None:
    with psycopg.connect(installed.member("worker")) as one, psycopg.connect(installed.member("worker")) as two:
        conn.execute("insert into pgqueue.transition (job_id, to_state, at) values (1, 'pending', '2026-01-01')")
        assert db.run(one, QUERIES.partitions.maintain()) is not None
        assert db.run(two, QUERIES.partitions.maintain()) is None  # and does not wait


def test_a_worker_prunes_what_it_does_not_own(installed: Installed, conn: Conn) -> None:
    conn.execute("create table pgqueue.job_finished_20200101 partition of pgqueue.job_finished"
                 " for values from ('2020-01-01 00:00:00+00') to ('2020-01-02 00:00:00+00')")  # fmt: skip
    migrate.upgrade(installed.dsn)  # gives it to the owner
    conn.execute("insert into pgqueue.job_finished (id, task, queue, state, finished_at)"
                 " values (1, 't', 'q', 'succeeded', '2020-01-01 12:00:00+00')")  # fmt: skip
    with psycopg.connect(installed.member("worker"), autocommit=True) as worker:
        assert db.run(worker, QUERIES.retention.allowed())
        assert db.run(worker, QUERIES.retention.empty_partition("job_finished_20200101"))
        assert db.run(worker, QUERIES.retention.drop_partition("job_finished_20200101"))
        assert not db.run(worker, QUERIES.retention.empty_partition("job_finished_default"))
        assert not db.run(worker, QUERIES.retention.drop_partition("worker"))
    assert scalar(conn, "select to_regclass('pgqueue.job_finished_20200101') is null")


def test_a_scheduler_fires(installed: Installed, conn: Conn) -> None:
    app = installed.app("scheduler")

    @app.schedule(1, name="each second")
    @app.task(name="t")
    async def t() -> None: ...

    async def run() -> None:
        scheduler = Scheduler(app, SchedulerSettings(poll_seconds=0.2))
        running = asyncio.create_task(scheduler.run())
        await eventually(lambda: scalar(conn, "select count(*) from pgqueue.job_live") >= 2, "two ticks to fire")
        scheduler.stop()
        await asyncio.wait_for(running, DEADLINE)

    asyncio.run(run())
    app.close()
    refused(installed.member("scheduler"), "select * from pgqueue.job", "delete from pgqueue.transition")


def test_an_operator_redrives_discards_edits_cancels_and_pauses(installed: Installed, conn: Conn) -> None:
    app = installed.app("operator")
    add_dead(conn, 11, 14, args='{"n": 1}')
    with closing(app):
        assert [group.jobs for group in app.dead.groups()] == [4]
        app.dead.edit(11, {"n": 2})
        assert len(app.dead.annotate(11, "known").notes) == 1
        assert app.dead.redrive(DeadFilter(ids=[11])).done == 1
        assert app.dead.discard(DeadFilter(ids=[12]), reason="gone").done == 1
        app.cancel(11)
        assert str(app.get(11).state) == "cancelled"
        assert len(app.operations.list()) >= 2
        job = app.enqueue("t", {})
        made = "update pgqueue.job_live set headers = jsonb_build_object('$by', 11) where id = %s"
        conn.execute(made, [job.id])
        assert [tie.id for tie in shown_as(installed, "operator", 11).enqueued] == [job.id]
        app.cancel(job.id)
        app.schedules.create("p", "t", 60)
        app.schedules.edit("p", 90)
        app.schedules.pause("p")
        app.schedules.resume("p")
        app.schedules.run("p")
        app.schedules.delete("p")
    with psycopg.connect(installed.member("operator"), autocommit=True) as own:
        own.execute("select pgqueue.redrive(task => 't')")
        own.execute("insert into pgqueue.queue (name, paused_at, paused_by) values ('q', now(), 'me')")
        own.execute("select pgqueue.schedule_create('s', 't', '{\"every_seconds\": 60}')")
        own.execute("select pgqueue.schedule_pause('s')")
        own.execute("select pgqueue.schedule_resume('s')")
        own.execute("select pgqueue.schedule_run('s'), pgqueue.schedule_edit('s', '{}')")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            own.execute("select pgqueue.schedule_preview('s')")  # no scheduler has computed one
        own.execute("select pgqueue.schedule_delete('s')")
    refused(
        installed.member("operator"),
        "delete from pgqueue.worker",
        "update pgqueue.transition set reason = 'no'",
        "truncate pgqueue.dead_letter",
        "drop view pgqueue.job",
        "select pgqueue.maintain()",
    )


def test_a_web_role_reads_waits_and_cancels(installed: Installed, conn: Conn) -> None:
    producer, web, worker = (installed.app(role) for role in ("producer", "web", "worker"))
    for app in (producer, worker):
        app.task(name="t")(lambda n: n)
    done = producer.enqueue("t", {"n": 7})
    drain(worker, conn)
    waits = producer.enqueue("t", {"n": 8})
    with closing(web):
        assert web.get(done.id).result == 7
        assert web.wait(done.id, timeout=DEADLINE) == 7
        assert web.why(waits.id).reasons
        assert shown_as(installed, "web", done.id).job.result == 7
        web.cancel(waits.id)
        assert str(web.get(waits.id).state) == "cancelled"
        with pytest.raises(NotAllowed):
            web.enqueue("t", {"n": 9})
    producer.close()
    worker.close()
    refused(installed.member("web"), "update pgqueue.job_live set args = '{}'", "delete from pgqueue.dead_letter")


def test_metrics_are_numbers_alone(installed: Installed) -> None:
    with psycopg.connect(installed.member("metrics"), autocommit=True) as metrics:
        for view in ("queue_load", "queue_rate", "task_health", "worker_health", "partition_status", "dead_group"):
            metrics.execute(f"select * from pgqueue.{view}".encode())
        metrics.execute("select count(*) from pgqueue.named_lock where expires_at > now()")
    refused(installed.member("metrics"), "select * from pgqueue.job_status", "select * from pgqueue.job_history")
    refused(installed.member("metrics"), "select key from pgqueue.named_lock", "select holder from pgqueue.lock_status")
    refused(installed.member("reader"), "select * from pgqueue.job", "select args from pgqueue.dead_letter")


def test_a_reader_cannot_read_the_notes_on_dead_letters(installed: Installed, conn: Conn) -> None:
    add_dead(conn, 11, args='{"n": 1}')
    with closing(installed.app("operator")) as app:
        app.dead.annotate(11, "kumquat")
    readable = [grant.object for grant in granted() if grant.role == "reader" and grant.kind == "table"]
    with psycopg.connect(installed.member("reader"), autocommit=True) as own:
        rows = [
            str(row)
            for name in readable
            for row in own.execute(sql.SQL("select v::text from {} as v").format(sql.Identifier("pgqueue", name)))
        ]
    assert any("annotated by" in row for row in rows)
    assert not any("kumquat" in row for row in rows)
    refused(installed.member("reader"), "select headers from pgqueue.dead_letter")

"""Tasks that change: versions with upcasters, renamed tasks, deploys in either order."""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, InvalidOption, InvalidTask, JobState, Task, db
from pgqueue.db.link import Link
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.core import Served, WorkerCore
from pgqueue.worker.duties.rescuer import Rescuer
from pgqueue.worker.signals import WorkerSignals
from pgqueue.worker.slots import Slots
from tests.conftest import drain, eventually, scalar, shown
from tests.harness import QUERIES, WORKER, Conn, insert_job, new_job

Release = Callable[[int], "tuple[App, Task[..., Any]]"]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def rename(args: dict[str, Any]) -> dict[str, Any]:
    """From version 1 to 2: `to` is called `recipient`."""
    return {"recipient": args.pop("to")} | args


def split(args: dict[str, Any]) -> dict[str, Any]:
    """From version 2 to 3: many recipients."""
    return {"recipients": args["recipient"].split(",")}


@pytest.fixture
def release(dsn: str) -> Iterator[Release]:
    """The shop as it was in its first, second and third release."""
    apps: list[App] = []

    def make(version: int) -> tuple[App, Task[..., Any]]:
        app = App(dsn)
        apps.append(app)
        settings: dict[str, Any] = {"name": "send", "retry": [0.01]}
        if version == 1:
            return app, app.task(**settings)(_first)
        if version == 2:
            return app, app.task(version=2, upcasters={1: rename}, **settings)(_second)
        return app, app.task(version=3, upcasters={1: rename, 2: split}, **settings)(_third)

    yield make
    for app in apps:
        app.close()


def _first(to: str) -> str:
    return f"1 {to}"


def _second(recipient: str) -> str:
    return f"2 {recipient}"


def _third(recipients: list[str]) -> str:
    return f"3 {'+'.join(recipients)}"


def moves(conn: Conn, job: int) -> list[str]:
    """Return the transitions of a job, in order."""
    rows = conn.execute("select to_state from pgqueue.transition where job_id = %s order by lease, at", (job,))
    return [row[0] for row in rows]


def test_a_job_of_an_older_release_goes_through_each_upcaster(release: Release, conn: Conn) -> None:
    _, first = release(1)
    _, second = release(2)
    app, third = release(3)
    jobs = [first.enqueue(to="a,b").id, second.enqueue(recipient="a,b").id, third.enqueue(recipients=["a", "b"]).id]
    drain(app, conn)
    assert [app.get(job).result for job in jobs] == ["3 a+b"] * 3


@pytest.mark.parametrize("kind", ["thread", "loop", "process"])
def test_wherever_a_task_runs_it_gets_the_arguments_of_its_version(app: App, conn: Conn, kind: str) -> None:
    old = app.task(name="t")(_first).enqueue(to="a")
    new = App(app.dsn)
    settings: dict[str, Any] = {"name": "t", "version": 2, "upcasters": {1: rename}}
    if kind == "loop":

        @new.task(**settings)
        async def on_loop(recipient: str) -> str:
            return recipient
    else:
        new.task(isolation=kind, **settings)(_second)
    later = insert_job(conn, task="t", args="{}", headers='{"$version": 3}')
    drain(new, conn)
    assert new.get(old.id).result.endswith("a")
    assert (new.get(later).state, new.get(later).waits_for, new.get(later).attempt) == ("blocked", "task", 0)
    new.close()


def test_a_job_of_a_newer_release_waits_and_never_fails(release: Release, conn: Conn) -> None:
    (old, _), (new, second) = release(1), release(2)
    job = second.enqueue(recipient="a")
    drain(old, conn)
    parked = old.get(job.id)
    assert (parked.state, parked.waits_for, parked.attempt) == (JobState.BLOCKED, "task", 0)
    assert parked.attempts[0].reason == "newer version of the task"
    asyncio.run(_run_until(new, lambda: new.get(job.id).state.is_terminal))
    assert new.get(job.id).result == "2 a"
    assert moves(conn, job.id) == ["pending", "running", "blocked", "running", "succeeded"]


async def _run_until(app: App, condition: Callable[[], Any]) -> None:
    worker = Worker(app, WorkerSettings(poll_seconds=0.05))
    running = asyncio.create_task(worker.run())
    try:
        await eventually(condition)
    finally:
        worker.stop()
        await running


def test_a_worker_looks_once_at_a_job_it_does_not_know(
    release: Release, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old, _), (_, third) = release(2), release(3)
    asked = itertools.count()
    parked = old.queries.jobs.parked_labels
    monkeypatch.setattr(old.queries.jobs, "parked_labels", lambda *args: (next(asked), parked(*args))[1])
    job = third.enqueue(recipients=["a"])
    asyncio.run(_run_until(old, lambda: old.get(job.id).state == "blocked" and next(asked) > 20))
    assert moves(conn, job.id) == ["pending", "running", "blocked"]


def test_two_releases_at_once_run_everything(release: Release, conn: Conn) -> None:
    (old, first), (new, second) = release(1), release(2)
    jobs = [*first.enqueue_many({"to": str(n)} for n in range(50))]
    jobs += second.enqueue_many({"recipient": str(n)} for n in range(50))

    async def both() -> None:
        workers = [Worker(app, WorkerSettings(poll_seconds=0.05, concurrency=2)) for app in (old, new)]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        await eventually(lambda: scalar(conn, "select count(*) from pgqueue.job_finished") == 100)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)

    asyncio.run(both())
    counts = "select max(n) from (select count(*) n from pgqueue.transition where to_state='blocked' group by job_id) t"
    assert scalar(conn, counts) in (None, 1)
    ended = "select count(*) from pgqueue.job_finished where state = 'succeeded' and id = any(%s)"
    assert scalar(conn, ended, jobs) == 100


def test_the_first_version_is_stored_nowhere(release: Release, conn: Conn) -> None:
    release(1)[1].enqueue(to="a")
    assert scalar(conn, "select headers from pgqueue.job_live") == {}
    release(2)[1].enqueue_many([{"recipient": "a"}, {"recipient": "b"}])
    assert scalar(conn, "select count(*) from pgqueue.job_live where headers = '{\"$version\": 2}'") == 2


def test_a_dead_letter_keeps_its_version(app: App, conn: Conn) -> None:
    @app.task(version=2, upcasters={1: rename}, max_attempts=1)
    def fails(recipient: str) -> None:
        raise LookupError

    fails.enqueue(recipient="a")
    drain(app, conn)
    assert scalar(conn, "select headers from pgqueue.dead_letter") == {"$version": 2}


def test_an_upcaster_that_raises_makes_a_dead_letter_at_once(app: App, conn: Conn) -> None:
    def broken(args: dict[str, Any]) -> dict[str, Any]:
        return {"n": args["no such"]}

    @app.task(name="t", version=3, upcasters={1: broken, 2: dict})
    def t(n: int) -> None: ...

    @app.task(name="forgets", version=3, upcasters={2: dict})
    def forgets(n: int) -> None: ...

    raises, too_old = insert_job(conn, task="t"), insert_job(conn, task="forgets")
    drain(app, conn)
    assert [(j.state, j.reason, j.attempt) for j in (app.get(raises), app.get(too_old))] == [
        ("failed", "invalid arguments", 1)
    ] * 2
    assert app.get(raises).errors[0].type == "KeyError"
    assert "enqueued for version 1, and the oldest upcaster is 2" in app.get(too_old).errors[0].message


def test_upcast_arguments_are_validated_and_may_be_more_than_json(app: App, conn: Conn) -> None:
    @app.task(name="t", version=2, upcasters={1: lambda args: {"at": datetime(2026, 1, 1, tzinfo=UTC)}})
    def t(at: datetime) -> str:
        return at.isoformat()

    job = insert_job(conn, task="t")
    drain(app, conn)
    assert app.get(job).result == "2026-01-01T00:00:00+00:00"


def test_an_upcaster_may_give_bytes(app: App, conn: Conn) -> None:
    @app.task(name="t", version=2, upcasters={1: lambda args: {"raw": b"\xff\x00"}})
    def t(raw: bytes) -> str:
        return raw.hex()

    job = insert_job(conn, task="t")
    drain(app, conn)
    assert app.get(job).result == "ff00"


LONG = random.Random(1).randbytes(6000).hex()
NO_VERSIONS = [
    "null",
    '"abc"',
    "0",
    "-1",
    "[1]",
    "true",
    "1.5",
    "1001",
    "9" * 3991,
    f'"{LONG}"',
]


@pytest.mark.parametrize("said", NO_VERSIONS, ids=shown)
def test_a_version_that_is_none_makes_a_dead_letter_at_once(app: App, conn: Conn, said: str) -> None:
    """A long one has no place in the index of parked jobs: the job was claimed and given back for ever."""
    app.task(name="t")(lambda: None)
    jobs = [insert_job(conn, task=task, headers=f'{{"$version": {said}}}') for task in ("t", "unknown")]
    drain(app, conn)
    for job, reason in zip(jobs, ("invalid arguments", "invalid version"), strict=True):
        failed = app.get(job)
        assert (failed.state, failed.reason, failed.attempt) == ("failed", reason, 1)
        assert "the header $version is " in failed.errors[0].message


@pytest.mark.parametrize(
    ("version", "upcasters"),
    [(2, {}), (3, {1: dict}), (4, {1: dict, 3: dict}), (1, {1: dict}), (1, {0: dict}), (2, {1: 5}), (2, {"1": dict}),
     (0, {}), (2, [dict]), (1001, {1000: dict}), ("2", {1: dict}), (True, {})],
)  # fmt: skip
def test_versions_that_leave_a_step_out_are_refused_where_they_are_written(version: Any, upcasters: Any) -> None:
    with pytest.raises(InvalidTask, match=r"task t: (version=|upcasters[\[=])"):
        App("unused").task(name="t", version=version, upcasters=upcasters)(lambda: None)


def test_a_producer_that_knows_only_the_name_says_for_which_version(release: Release, dsn: str, conn: Conn) -> None:
    stranger = App(dsn)
    job = stranger.using(version=2).enqueue("send", {"recipient": "a"})
    (old,) = (stranger.using(conn, version=1).enqueue("send", {"to": "b"}),)
    app, _ = release(2)
    drain(app, conn)
    assert [app.get(j.id).result for j in (job, old)] == ["2 a", "2 b"]
    with pytest.raises(InvalidOption, match="version=3 cannot be used: task send is registered here, at version 2"):
        app.using(version=3).enqueue("send", {"recipient": "a"})
    with pytest.raises(InvalidOption, match="version=0"):
        stranger.using(version=0)
    stranger.close()


def test_jobs_under_a_former_name_run_here(dsn: str, conn: Conn) -> None:
    before, after = App(dsn), App(dsn)
    old = before.task(name="mail.receipt")(_first)

    @after.task(name="send", aliases=["mail.receipt", "mail.old"], version=2, upcasters={1: rename})
    def send(ctx: Context, recipient: str) -> str:
        return f"{ctx.task} {recipient}"

    jobs = [old.enqueue(to="a"), after.enqueue("mail.old", {"recipient": "b"}), send.enqueue(recipient="c")]
    drain(after, conn)
    assert [after.get(j.id).result for j in jobs] == ["mail.receipt a", "mail.old b", "send c"]
    assert after.tasks.names() == ["mail.old", "mail.receipt", "send"]
    assert [spec.name for spec in after.tasks] == ["send"]


def test_a_worker_announces_former_names_and_versions(dsn: str, conn: Conn) -> None:
    app = App(dsn)
    app.task(name="send", aliases=["old"], version=3, upcasters={1: dict, 2: dict})(_third)
    app.task(name="other")(_first)

    async def look() -> list[str]:
        worker = Worker(app, WorkerSettings())
        running = asyncio.create_task(worker.run())
        tasks: list[str] = await eventually(lambda: scalar(conn, "select tasks from pgqueue.worker"))
        worker.stop()
        await running
        return tasks

    assert asyncio.run(look()) == ["old", "other", "send", "old@2", "old@3", "send@2", "send@3"]


def test_a_parked_job_of_a_former_name_is_adopted(dsn: str, conn: Conn) -> None:
    app = App(dsn)
    job = app.enqueue("mail.receipt", {"to": "a"})
    drain(app, conn)
    assert app.get(job.id).state == "blocked"
    app.task(name="send", aliases=["mail.receipt"])(_first)
    asyncio.run(_run_until(app, lambda: app.get(job.id).state == "succeeded"))
    app.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "a", "aliases": ["old"]}, {"name": "b", "aliases": ["old"]}),
        ({"name": "a", "aliases": ["old"]}, {"name": "old"}),
        ({"name": "a"}, {"name": "b", "aliases": ["a"]}),
    ],
    ids=["two aliases", "name after alias", "alias after name"],
)
def test_a_clash_of_names_is_refused_at_registration(first: Any, second: Any) -> None:
    app = App("unused")
    app.task(**first)(_first)
    known = app.tasks.names()
    with pytest.raises(InvalidTask, match=r"two functions are named task '(old|a)': .*aliases="):
        app.task(**second)(_second)
    assert app.tasks.names() == known


@pytest.mark.parametrize("aliases", ["old", 5, {"old"}], ids=str)
def test_aliases_that_are_no_list_are_refused(aliases: Any) -> None:
    with pytest.raises(InvalidTask, match=r"aliases=.* give a list of names"):
        App("unused").task(aliases=aliases)(_first)


@pytest.mark.parametrize("alias", ["", "x" * 201, "a\n", 5])
def test_a_former_name_that_no_job_could_carry_is_refused(alias: Any) -> None:
    with pytest.raises(ValueError, match="200 printable characters"):
        App("unused").task(aliases=[alias])(_first)


def test_the_crash_limit_of_a_task_holds_under_its_former_name(app: App) -> None:
    app.task(name="send", aliases=["old"], max_crashes=2)(_first)
    core = WorkerCore.of(app, WorkerSettings(), Served(("default",), ("send",)), Slots(1, ["default"], {}))
    rescuer = Rescuer(Link(app.database, "t"), core, WorkerSignals())
    assert rescuer._limits == {"send": 2, "old": 2}


def test_adopt_takes_what_waits_for_versions_that_are_known(conn: Conn) -> None:
    ids = [row.id for row in db.run(conn, QUERIES.jobs.enqueue([new_job(version=v) for v in (1, 2, 3)]))]
    conn.execute("update pgqueue.job_live set state = 'blocked', waits_for = 'task'")
    rooms = {"default": 9}
    assert [j.id for j in db.run(conn, QUERIES.jobs.adopt(WORKER, rooms, ["t"], 9))] == ids[:1]
    assert [j.id for j in db.run(conn, QUERIES.jobs.adopt(WORKER, rooms, ["t"], 9, {"t": ["1", "2"]}))] == ids[1:2]
    assert [j.id for j in db.run(conn, QUERIES.jobs.adopt(WORKER, rooms, ["u", "t"], 9, {"t": ["2", "3"]}))] == ids[2:]


def test_a_version_that_is_no_number_holds_up_nobody(release: Release, conn: Conn) -> None:
    app, task = release(2)
    odd = [insert_job(conn, task="send", headers=h) for h in ('{"$version": "x"}', '{"$version": [2]}')]
    fine = task.enqueue(recipient="a")
    drain(app, conn)
    assert app.get(fine.id).result == "2 a"
    assert [(app.get(j).state, app.get(j).reason) for j in odd] == [("failed", "invalid arguments")] * 2


def test_the_status_tells_the_version_that_waits(release: Release, conn: Conn) -> None:
    (old, _), (_, third) = release(1), release(3)
    third.enqueue(recipients=["a"])
    drain(old, conn)
    worker = conn.execute(
        "insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds)"
        " values (gen_random_uuid(), 'worker', 'h', 1, '0', '{default}', '{send,send@2}', 8, 30) returning id"
    ).fetchone()
    (waiting,) = db.run(conn, QUERIES.jobs.count_parked())
    assert (waiting.task, waiting.version, waiting.jobs, waiting.known_to_a_worker) == ("send", "3", 1, False)
    conn.execute("update pgqueue.worker set tasks = tasks || '{send@3}' where id = %s", worker)
    assert db.run(conn, QUERIES.jobs.count_parked())[0].known_to_a_worker


def test_a_schedule_fires_the_version_that_declared_it_whoever_fires(release: Release, dsn: str, conn: Conn) -> None:
    app, task = release(2)
    app.schedule(3600, args={"recipient": "a"})(task)
    seen: list[Any] = []

    @app.task(name="looks", version=2, upcasters={1: dict})
    def looks(ctx: Context) -> None:
        seen.append(ctx.headers)

    app.schedule(3600)(looks)

    async def fire() -> None:
        link = Link(app.database, "test")
        await declare(app, link)
        conn.execute("update pgqueue.schedule set next_tick = '2026-01-01Z'")
        stranger = App(dsn)  # an older release, or one without these tasks
        assert await Ticker(stranger, link, SchedulerSettings()).fire() == 2
        await link.close()

    asyncio.run(fire())
    assert scalar(conn, "select count(*) from pgqueue.job_live where headers ->> '$version' = '2'") == 2
    drain(app, conn)
    assert scalar(conn, "select result from pgqueue.job where task = 'send'") == "2 a"
    assert [sorted(headers) for headers in seen] == [["schedule", "tick"]]
    with psycopg.connect(dsn) as other:
        assert scalar(other, "select array_agg((options->>'version')::int) from pgqueue.schedule") == [2, 2]

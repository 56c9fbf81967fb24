"""Workers run workflows: links of chains, callbacks, what is skipped, and what somebody holds up."""

import asyncio
from collections.abc import Callable

import pytest

import pgqueue
from pgqueue import App, db
from pgqueue.events import WaitingJobCancelled
from pgqueue.worker.duties import workflow_keeper
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar, work
from tests.harness import QUERIES, Conn, heard, new_job
from tests.statements.graphs import graph, insert, states, workflow_state


@pytest.fixture
def ran(app: App) -> list[int]:
    """Tasks `t`, which notes its argument; `bad`, which fails; `own`, which ends in its own transaction."""
    noted: list[int] = []

    @app.task(name="t")
    async def t(n: int = 0) -> int:
        noted.append(n)
        return n

    @app.task(name="bad", max_attempts=1)
    async def bad(n: int = 0) -> None:
        raise ValueError(n)

    @app.task(name="own")
    async def own(ctx: pgqueue.Context, n: int = 0) -> None:
        async with ctx.atransaction(result=n):
            noted.append(n)

    return noted


def settled(conn: Conn, workflow: int) -> Callable[[], bool]:
    return lambda: bool(
        scalar(conn, "select settled from pgqueue.workflow where id = %s", workflow)
        and scalar(conn, "select count(*) = 0 from pgqueue.job_live where workflow_id = %s", workflow)
    )


def test_a_chain_runs_link_by_link(app: App, conn: Conn, ran: list[int]) -> None:
    made = insert(conn, graph(20, [(n, n + 1) for n in range(19)]))
    asyncio.run(work(app, settled(conn, made.id), poll_seconds=30))
    assert ran == list(range(20))
    assert states(conn, made) == "s" * 20


def test_a_callback_runs_at_once_after_the_last_member(
    app: App, conn: Conn, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_keeper, "LIVING_SECONDS", 3600.0)  # nothing but the end of the last member moves it
    made = insert(conn, Graph([new_job(args=f'{{"n": {n}}}') for n in range(200)], [0] * 199 + [None],
                              [Edge(-1, 199)], [Group("w")]))  # fmt: skip
    asyncio.run(work(app, settled(conn, made.id), poll_seconds=3600))
    assert sorted(ran) == list(range(200))
    assert ran[-1] == 199


def test_what_depends_on_a_failed_job_is_skipped_and_its_handler_runs(app: App, conn: Conn, ran: list[int]) -> None:
    made = insert(
        conn,
        Graph(
            [new_job("bad"), new_job(args='{"n": 1}'), new_job(args='{"n": 2}'), new_job(args='{"n": 3}')],
            [0, 0, 0, None],
            [Edge(0, 1), Edge(0, 2, "f"), Edge(-1, 3, "f")],
            [Group("w")],
        ),
    )
    asyncio.run(work(app, settled(conn, made.id), poll_seconds=30))
    assert states(conn, made) == "fcss"
    assert ran == [2, 3]


def test_a_cancel_that_dooms_jobs_tells_the_workers_and_one_that_dooms_none_does_not(
    app: App, conn: Conn, connect: Callable[..., Conn]
) -> None:
    listener = connect(autocommit=True)
    listener.execute("listen pgqueue")
    (alone,) = insert(conn, graph(2, [])).jobs[:1]
    db.run(conn, QUERIES.jobs.cancel([alone], "no"))
    assert "!workflow" not in heard(listener, conn)
    parent, _ = insert(conn, graph(2, [(0, 1)])).jobs
    db.run(conn, QUERIES.jobs.cancel([parent], "no"))
    assert "!workflow" in heard(listener, conn)


def test_a_job_that_ends_in_its_own_transaction_moves_its_children(app: App, conn: Conn, ran: list[int]) -> None:
    made = insert(conn, Graph([new_job("own"), new_job("own"), new_job()], [0, 0, None], [Edge(0, 1), Edge(-1, 2)],
                              [Group("w")]))  # fmt: skip
    asyncio.run(work(app, settled(conn, made.id), poll_seconds=1))
    assert states(conn, made) == "sss"


@pytest.mark.parametrize("ties", [None, 2], ids=["of no group", "of a group"])
def test_a_job_that_got_ties_while_it_ran_is_written_all_the_same(app: App, conn: Conn, ties: int | None) -> None:
    @app.task(name="late")
    async def late() -> None:
        more = "update pgqueue.job_live set ties = coalesce(ties, 0) | 4 where task = 'late'"
        await asyncio.to_thread(conn.execute, more)

    if ties is None:
        job = db.run(conn, QUERIES.jobs.enqueue([new_job("late")]))[0].id
    else:
        job = insert(conn, Graph([new_job("late")], [0], [], [Group("w")])).jobs[0]
    assert scalar(conn, "select ties from pgqueue.job_live") == ties
    done = "select count(*) = 1 from pgqueue.job_finished where id = %s"
    asyncio.run(work(app, lambda: scalar(conn, done, job)))
    assert scalar(conn, "select ties from pgqueue.job_finished where id = %s", job) == (ties or 0) | 4
    assert scalar(conn, "select coalesce(sum(remaining), 0) from pgqueue.gate") == 0


def test_a_gate_that_an_open_transaction_holds_holds_up_no_other_job(
    app: App, conn: Conn, connect: Callable[[], Conn], ran: list[int]
) -> None:
    held = insert(conn, graph(2))
    other = connect()
    db.run(other, QUERIES.jobs.cancel([held.jobs[0]], "in an open transaction"))
    free = insert(conn, graph(3, [(0, 1), (1, 2)]))
    plain = [job.id for job in db.run(conn, QUERIES.jobs.enqueue([new_job() for _ in range(5)]))]

    async def scene() -> None:
        def others_done() -> bool:
            return states(conn, free) == "sss" and bool(
                scalar(conn, "select count(*) = 5 from pgqueue.job_finished where id = any(%s)", plain)
            )

        assert await work(app, others_done)

    asyncio.run(scene())
    assert workflow_state(conn, held.id) == "running"
    other.commit()
    asyncio.run(work(app, settled(conn, held.id)))
    assert states(conn, held) == "cs"
    assert workflow_state(conn, held.id) == "cancelled"


def test_results_are_arguments_of_what_runs_after(app: App, conn: Conn) -> None:
    got: dict[str, object] = {}

    @app.task(name="t")
    def t(n: int) -> dict[str, int]:
        return {"n": n}

    @app.task(name="bad", max_attempts=1)
    def bad(n: int = 0) -> None:
        raise ValueError("no")

    @app.task(name="join")
    async def join(one: dict[str, int], all_of: list[dict[str, int]], some: list[dict[str, int]], x: int) -> None:
        got.update(one=one, all_of=all_of, some=some, x=x)

    @app.task(name="handle")
    def handle(how: dict[str, object]) -> None:
        got["how"] = how

    nodes = [new_job(args=f'{{"n": {n}}}') for n in range(4)]
    nodes += [new_job("join", args='{"x": 7}'), new_job("bad"), new_job("handle")]
    made = insert(
        conn,
        Graph(
            nodes,
            [1, 1, 1, 0, 0, 0, 0],
            [
                Edge(3, 4, argument="one"), Edge(-2, 4, argument="all_of"),
                Edge(2, 4, argument="some", position=0), Edge(0, 4, argument="some", position=1),
                Edge(5, 6, "f", "how"),
            ],
            [Group("w"), Group("header", 0)],
        ),
    )  # fmt: skip
    asyncio.run(work(app, settled(conn, made.id), poll_seconds=30))
    assert states(conn, made) == "sssssfs"
    assert got["one"] == {"n": 3}
    assert got["all_of"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert got["some"] == [{"n": 2}, {"n": 0}]
    assert got["x"] == 7
    how = got["how"]
    assert isinstance(how, dict)
    assert (how["state"], how["result"], how["error"]["message"]) == ("failed", None, "no")
    assert scalar(conn, "select args::text from pgqueue.job_finished where task = 'join'") == '{"x": 7}'


def test_an_input_that_does_not_fit_makes_a_dead_letter_that_says_so(app: App, conn: Conn) -> None:
    app.task(name="t")(lambda n: "no number")

    @app.task(name="child", max_attempts=1)
    def child(rows: int) -> None: ...

    made = insert(
        conn, Graph([new_job(args='{"n": 1}'), new_job("child")], [0, 0], [Edge(0, 1, argument="rows")], [Group("w")])
    )
    asyncio.run(work(app, settled(conn, made.id), poll_seconds=30))
    assert states(conn, made) == "sf"
    assert scalar(conn, "select reason from pgqueue.dead_letter") == "invalid arguments"
    assert app.retry(made.jobs[1]).state == "pending"


def test_jobs_that_end_unrun_are_events_and_counted(app: App, conn: Conn, ran: list[int]) -> None:
    """Two are skipped below one that fails; of a group that a failure stops one has not begun."""
    heard: list[tuple[int, str]] = []
    app.on(WaitingJobCancelled)(lambda event: heard.append((event.job_id, event.reason)))
    nodes = [new_job("bad", max_attempts=1), new_job(), new_job()]
    skipped = insert(conn, Graph(nodes, [0, 0, 0], [Edge(0, 1), Edge(1, 2)], [Group("w")]))
    nodes = [new_job("bad", max_attempts=1), new_job(delay=3600.0)]
    stopped = insert(conn, Graph(nodes, [0, 0], [], [Group("w", on_failure="stop")]))
    both = settled(conn, skipped.id), settled(conn, stopped.id)
    asyncio.run(work(app, lambda: all(done() for done in both)))
    assert sorted(heard) == [*((job, "skipped") for job in skipped.jobs[1:]), (stopped.jobs[1], "a job failed")]
    counts = "select outcome, sum(jobs)::int from pgqueue.activity where task = 't' group by 1 order by 1"
    assert conn.execute(counts).fetchall() == [("cancelled", 1), ("skipped", 2)]
    assert ran == []

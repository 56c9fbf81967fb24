"""A preview lists exactly what the verb would do: without jobs that fit the filter and that it would skip."""

from collections.abc import Collection
from typing import Any

import pytest
from typer.testing import CliRunner

from pgqueue import App, DeadFilter, InvalidOption, JobFilter, db
from pgqueue.cli import cli
from pgqueue.client.bulk import KINDS
from pgqueue.client.previewing import LEAST_PAGE
from pgqueue.queries.chosen import WITH_ARGUMENTS
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.client.test_dead import add_dead, ids
from tests.harness import Conn, new_job
from tests.statements.graphs import DEAD, DONE, claim, end, tidy
from tests.statements.test_explain import explain, nodes


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def flow(app: App, conn: Conn, *queues: str, beside: bool = False) -> int:
    """Run a workflow whose first job becomes a dead letter, so that those behind it are skipped; return its id. With
    `beside` another job of it waits on."""
    nodes = [new_job(queue=queue) for queue in queues] + [new_job(delay=3600.0)] * beside
    edges = [Edge(at, at + 1) for at in range(len(queues) - 1)]
    made = app.workflows.enqueue(Graph(nodes, [0] * len(nodes), edges, [Group("w")]))
    end(conn, (claim(conn)[made.jobs[0]], DEAD))
    tidy(conn)
    return made.jobs[0]


@pytest.fixture
def dead(app: App, conn: Conn) -> dict[str, int]:
    """Dead letters that a redrive takes, and others, by what they are."""

    @app.task(name="t")
    def t(n: int = 0) -> None: ...

    add_dead(conn, 9001)
    add_dead(conn, 9002, args='{"n": "many"}')
    add_dead(conn, 9003, task="of another app", args='{"n": "many"}')
    return {
        "plain": 9001, "refused": 9002, "unknown": 9003,
        "alone": flow(app, conn, "default", "default"), "runs": flow(app, conn, "default", beside=True),
        "elsewhere": flow(app, conn, "default", "other"),
    }  # fmt: skip


def done(conn: Conn, dead: dict[str, int]) -> set[str]:
    """Return which of the dead letters are none any more."""
    left = ids(conn, "dead_letter")
    return {name for name, job in dead.items() if job not in left}


@pytest.mark.parametrize(
    ("within", "taken"),
    [
        (None, {"plain", "unknown", "alone", "elsewhere"}),
        (["default"], {"plain", "unknown", "alone"}),
        (["default", "other"], {"plain", "unknown", "alone", "elsewhere"}),
    ],
    ids=["anywhere", "one queue", "two queues"],
)
@pytest.mark.parametrize("verb", ["redrive", "retry"])
def test_a_preview_lists_what_comes_back(
    app: App, conn: Conn, dead: dict[str, int], verb: str, within: Collection[str] | None, taken: set[str]
) -> None:
    if verb == "redrive":
        found = app.dead.preview(DeadFilter(queue="default"), within=within)
        app.dead.redrive(DeadFilter(queue="default"), within=within)
    else:
        chosen = JobFilter(queue="default", state="failed")
        found = app.jobs.preview("retry", chosen, within=within)
        app.jobs.retry(chosen, within=within)
    assert {name for name, job in dead.items() if job in {one.id for one in found}} == taken
    assert done(conn, dead) == taken


def test_a_preview_of_a_discard_lists_all_of_them(app: App, conn: Conn, dead: dict[str, int]) -> None:
    found = app.dead.preview(DeadFilter(queue="default"), kind="discard")
    assert {one.id for one in found} == {*dead.values()}
    app.dead.discard(DeadFilter(queue="default"), reason="over")
    assert done(conn, dead) == {*dead}


def test_a_preview_with_a_limit_goes_on_behind_what_is_skipped(app: App, conn: Conn, dead: dict[str, int]) -> None:
    """A limit counts what is done, so the verb goes on until it has done so many, too."""
    for limit in range(1, 5):
        found = app.dead.preview(DeadFilter(queue="default"), limit, within=["default"])
        names = {name for name, job in dead.items() if job in {one.id for one in found}}
        assert len(found) == min(limit, 3)
        assert names <= {"plain", "unknown", "alone"}
    app.dead.redrive(DeadFilter(queue="default"), limit=2, within=["default"])
    assert {dead[name] for name in done(conn, dead)} == {one.id for one in found[:2]}


def test_cancelled_jobs_come_back_with_their_workflow_or_not_at_all(app: App, conn: Conn, dead: dict[str, int]) -> None:
    chosen = JobFilter(queue="default", state="cancelled")
    (found,) = app.jobs.preview("retry", chosen, within=["default"])
    assert app.get(found.id).workflow_id == app.get(dead["alone"]).workflow_id
    assert app.jobs.preview("retry", JobFilter(queue="other", state="cancelled"), within=["other"]) == []
    assert len(app.jobs.preview("retry", JobFilter(queue="other", state="cancelled"))) == 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The statements that were run on connections of callers."""
    asked: list[bytes] = []
    run = db.connection.run

    def counting(conn: Any, query: Any) -> Any:
        asked.append(query.sql)
        return run(conn, query)

    monkeypatch.setattr(db, "run", counting)
    return asked


MOST_STATEMENTS = 6


def test_a_preview_of_thousands_that_stay_asks_few_statements_and_says_what_it_left_out(
    app: App, conn: Conn, dead: dict[str, int], asked: list[bytes]
) -> None:
    add_dead(conn, 20_001, 20_000 + 3 * LEAST_PAGE, args='{"n": "many"}', queue="refused")
    add_dead(conn, 30_000, queue="refused")
    for verb in ("redrive", "retry"):
        if verb == "redrive":
            found = app.dead.using(conn).preview(DeadFilter(queue="refused"), 2)
        else:
            found = app.jobs.using(conn).preview("retry", JobFilter(queue="refused"), 2)
        assert 0 < len(asked) <= MOST_STATEMENTS
        assert (found, found.unseen_below, found.unseen_from) == ([], None, 20_001 + LEAST_PAGE)
        assert found.notice is not None
        assert found.notice.startswith(f"jobs with ids from {20_001 + LEAST_PAGE} on were not all looked at,")
        asked.clear()
    every = app.dead.preview(DeadFilter(queue="refused"), 3 * LEAST_PAGE + 2)
    assert ([job.id for job in every], every.notice) == ([30_000], None)


def test_the_jobs_of_one_workflow_are_counted_once(app: App, conn: Conn, asked: list[bytes]) -> None:
    size = 2 * LEAST_PAGE + 500
    nodes = [new_job() for _ in range(size)] + [new_job(delay=3600.0)]
    made = app.workflows.enqueue(Graph(nodes, [0] * len(nodes), [], [Group("w")]))
    for taken in (claim(conn, room=size), claim(conn, room=size), claim(conn, room=size)):
        if taken:
            end(conn, *((job, DEAD) for job in taken.values()))
    assert len(ids(conn, "dead_letter")) == size
    asked.clear()
    found = app.dead.using(conn).preview(DeadFilter(task="*"), 20)
    assert len(asked) <= MOST_STATEMENTS
    assert (found, found.unseen_from) == ([], made.jobs[LEAST_PAGE])
    assert sum(b"workflow i where i.root_id" in sql for sql in asked) == 1


def test_a_workflow_that_is_too_large_to_count_is_left_out_and_said(
    app: App, conn: Conn, dead: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {job.id for job in app.dead.preview(DeadFilter(task="t"))}
    assert taken == {dead[name] for name in ("plain", "alone", "elsewhere")}
    monkeypatch.setattr("pgqueue.queries.workflows.retry.MOST_COUNTED", 3)  # the first of two workflows with two jobs
    found = app.dead.preview(DeadFilter(task="t"))
    assert {job.id for job in found} == taken - {dead["elsewhere"]}
    assert found.unseen_from == dead["elsewhere"]
    assert found.notice is not None
    monkeypatch.setattr("pgqueue.queries.workflows.retry.MOST_COUNTED", 0)
    found = app.dead.preview(DeadFilter(task="t"))
    assert ({job.id for job in found}, found.unseen_from) == ({dead["plain"]}, dead["alone"])
    done = app.dead.redrive(DeadFilter(task="t"))
    assert done.done == 3  # the operation itself looks at all


def test_no_job_of_a_workflow_that_is_too_large_is_read(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2000
    made = app.workflows.enqueue(Graph([new_job() for _ in range(size)], [0] * size, [], [Group("w")]))
    while taken := claim(conn, room=size):
        end(conn, *((job, DEAD if number == made.jobs[0] else DONE) for number, job in taken.items()))
    tidy(conn)
    conn.execute("vacuum analyze")
    for most, read in ((size, True), (size - 1, False)):
        monkeypatch.setattr("pgqueue.queries.workflows.retry.MOST_COUNTED", most)
        query = app.queries.workflows.comes_back([made.id], None)
        assert db.run(conn, query) == {made.id: read}
        plan = explain(conn, query, generic=False)
        conn.execute("deallocate all")
        jobs = [node for node in nodes(plan) if "job_finished" in str(node.get("Relation Name"))]
        assert (sum(node["Actual Rows"] * node["Actual Loops"] for node in jobs) >= size - 1) is read
        assert (sum(node["Actual Loops"] for node in jobs) > 0) is read


def test_a_command_says_what_its_preview_left_out_and_asks_all_the_same(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = app.workflows.enqueue(Graph([new_job() for _ in range(4)], [0] * 4, [], [Group("w")]))
    taken = claim(conn)
    end(conn, *((taken[job], DEAD) for job in made.jobs[:3]))  # the fourth runs, so none comes back
    add_dead(conn, 20_001)
    chosen = ["dead", "redrive", "--task", "*", "--dsn", dsn]
    monkeypatch.setattr("pgqueue.client.previewing.LEAST_PAGE", 2)
    done = CliRunner().invoke(cli, [*chosen, "--limit", "2"])
    told = " ".join(done.stderr.split())
    assert "no dead letters to redrive among those that were looked at" in told
    assert f"jobs with ids from {made.jobs[2]} on were not all looked at, and more of them may fit" in told
    assert "say --yes" in str(done.exception)
    done = CliRunner().invoke(cli, [*chosen, "--limit", "4", "--dry-run"])
    assert "at least 1 dead letters to redrive among those that were looked at, for example" in done.stderr


def test_the_arguments_are_read_for_the_verbs_that_look_at_them() -> None:
    assert sorted(WITH_ARGUMENTS) == sorted(name for name, kind in KINDS.items() if kind.checks_arguments)


def test_what_cannot_be_previewed_is_refused(app: App) -> None:
    with pytest.raises(InvalidOption, match="kind='edit' cannot be previewed: give redrive or discard"):
        app.dead.preview(DeadFilter(task="*"), kind="edit")
    with pytest.raises(InvalidOption, match="within='default' cannot be used"):
        app.dead.preview(DeadFilter(task="*"), within="default")

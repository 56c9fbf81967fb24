"""A preview lists exactly what the verb would do: without jobs that fit the filter and that it would skip."""

from collections.abc import Collection

import pytest

from pgqueue import App, DeadFilter, InvalidOption, JobFilter
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.client.test_dead import add_dead, ids
from tests.harness import Conn, new_job
from tests.statements.graphs import DEAD, claim, end, tidy


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


def test_what_cannot_be_previewed_is_refused(app: App) -> None:
    with pytest.raises(InvalidOption, match="kind='edit' cannot be previewed: give redrive or discard"):
        app.dead.preview(DeadFilter(task="*"), kind="edit")
    with pytest.raises(InvalidOption, match="within='default' cannot be used"):
        app.dead.preview(DeadFilter(task="*"), within="default")

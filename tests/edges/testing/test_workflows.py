"""A drain runs a whole workflow: callbacks, what is skipped, and workflows within others."""

from typing import Any

from pgqueue import App, Context, Outcome, Task, Workflow, chord, group
from pgqueue.tasks.stand_in import StandIn
from pgqueue.testing import Drained, Jobs, context
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.harness import new_job
from tests.statements.graphs import graph


def test_a_drain_runs_a_workflow_to_its_end(app: App, jobs: Jobs) -> None:
    ran: list[int] = []

    @app.task(name="t", max_attempts=1)
    def t(n: int) -> None:
        ran.append(n)
        if n == 3:
            raise ValueError(n)

    made = app.workflows.enqueue(graph(6, [(0, 1), (1, 2), (2, 3), (3, 4), (3, 5, "f")], max_attempts=1))
    assert jobs.drain() == Drained(succeeded=4, failed=1)
    assert ran == [0, 1, 2, 3, 5]
    assert app.workflows.get(made.id).state == "failed"
    assert [job.state[0] for job in app.workflows.jobs(made.id)] == list("sssfcs")


def test_a_drain_runs_what_follows_a_group(app: App, jobs: Jobs) -> None:
    ran: list[int] = []
    app.task(name="t")(lambda n: ran.append(n))
    nodes = [new_job(args=f'{{"n": {n}}}') for n in range(5)]
    made = app.workflows.enqueue(
        Graph(nodes, [1, 1, 0, 0, None], [Edge(-2, 2), Edge(2, 3), Edge(-1, 4)], [Group("w"), Group("header", 0)])
    )
    jobs.drain()
    assert ran == [0, 1, 2, 3, 4]
    assert app.workflows.get(made.id).state == "succeeded"


def test_a_drain_skips_what_follows_a_callback_that_fails_after_its_workflow_has_ended(app: App, jobs: Jobs) -> None:
    @app.task(name="t", max_attempts=1)
    def t(n: int) -> None:
        if n == 1:
            raise ValueError(n)

    made = app.workflows.enqueue(graph(4, [(0, 1), (1, 2), (2, 3, "e")], outside=(1, 2, 3), max_attempts=1))
    assert jobs.drain() == Drained(succeeded=2, failed=1)
    assert [job.state[0] for job in app.workflows.jobs(made.id)] == list("sfcs")


def growing(app: App, ran: list[object]) -> Task[[], int]:
    """A task that adds to its workflow and replaces its job."""

    @app.task(name="t")
    def t(n: int) -> int:
        ran.append(n)
        return n

    @app.task(name="sum")
    async def total(parts: list[int]) -> int:
        return sum(parts)

    @app.task(name="grow")
    def grow(ctx: Context) -> int:
        first = ctx.add(t.using(delay=60).s(5))
        ctx.add(t.s(first))
        return ctx.replace(chord([t.s(1), t.s(2)], total.s()))

    return grow


def test_a_drain_runs_what_a_job_adds_and_what_runs_in_its_place(app: App, jobs: Jobs) -> None:
    ran: list[object] = []
    job = growing(app, ran).enqueue()
    assert jobs.drain(with_scheduled=True) == Drained(succeeded=6, replaced=1)
    assert (ran, app.get(job.id).result) == ([1, 2, 5, 5], 3)


def test_inline_runs_what_a_job_adds_and_what_runs_in_its_place(app: App, jobs: Jobs) -> None:
    ran: list[object] = []
    grow = growing(app, ran)
    with jobs.inline():
        job = grow.enqueue()
        (other,) = grow.enqueue_many([{}])
    assert (job.state, job.result, app.get(other).result) == ("succeeded", 3, 3)
    assert ran == [1, 2, 5, 5] * 2


def test_a_unit_test_sees_what_a_task_adds_and_returns(app: App) -> None:
    grow = growing(app, [])
    ctx = context(grow)
    returned = grow(ctx)
    assert [repr(part) for part in ctx.added] == ["<signature of t>"] * 2
    assert isinstance(returned, StandIn)


def test_how_a_job_ended_is_an_outcome_of_its_type(app: App, jobs: Jobs) -> None:
    got: list[Any] = []

    @app.task(max_attempts=1)
    def divide(n: int) -> float:
        return 1 / n

    @app.task
    def note(one: Outcome[float]) -> None:
        got.append(one)

    @app.task
    def note_all(every: list[Outcome[float]], word: str) -> None:
        got.append([one.state for one in every] + [word])

    flow = group([divide.s(2).on_complete(note.s()), divide.s(0).on_error(note.s())])
    flow.on_complete(note_all.s(word="all")).enqueue()
    wf = Workflow("w")
    wf.add(note.s(wf.add(divide.s(0)).failed))
    wf.enqueue()
    jobs.drain()
    (all_of,) = [each for each in got if isinstance(each, list)]
    outcomes = [each for each in got if isinstance(each, Outcome)]
    assert all_of == ["succeeded", "failed", "all"]
    assert [(one.state, one.result, one.succeeded) for one in outcomes if one.succeeded] == [("succeeded", 0.5, True)]
    assert [one.error and one.error.type for one in outcomes if not one.succeeded] == ["ZeroDivisionError"] * 2


def test_an_outcome_of_another_type_is_refused_as_other_arguments_are(app: App, jobs: Jobs) -> None:
    @app.task
    def word() -> str:
        return "seven"

    @app.task
    def note(one: Outcome[int]) -> None: ...

    word.s().on_complete(note.s()).enqueue()
    jobs.drain()
    assert jobs.assert_enqueued(note, state="failed").reason == "invalid arguments"

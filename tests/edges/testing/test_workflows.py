"""A drain runs a whole workflow: callbacks, what is skipped, and workflows within others."""

from pgqueue import App
from pgqueue.testing import Drained, Jobs
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

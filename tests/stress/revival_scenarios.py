"""Scenarios in which two connections bring jobs of one workflow back at once."""

from pgqueue import db
from pgqueue.client.operations import work_on
from pgqueue.client.steps import follow
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.workflows.graph import Edge
from tests.harness import QUERIES, InThread, wait_for
from tests.statements.graphs import retry

from .scene import Conn, Scene
from .woven_shop import app


def callback_beside_a_retry(scene: Scene) -> None:
    """A callback is redriven alone while its workflow is retried; either of them comes first once."""
    for turned in (False, True):
        made = scene.make(2, [Edge(-1, 1, "e")], dies={0: 1, 1: 1}, outside=1)
        scene.run({0: 1, 1: 1})

        def alone(conn: Conn, callback: int = made.jobs[1]) -> None:
            db.run(conn, QUERIES.dead.redrive(0, [callback], "redriven", {}))

        def whole(conn: Conn, workflow: int = made.id) -> None:
            retry(conn, workflow)

        scene.at_once(*((whole, alone) if turned else (alone, whole)))
        scene.run()


def redriven_twice(scene: Scene) -> None:
    """Two bulk redrives have taken dead letters of the same two workflows, and act at once."""
    made = [scene.make(2, [], dies={0: 1, 1: 1}) for _ in range(2)]
    scene.run({0: 1, 1: 1})
    batches = []
    for letter in (0, 1):
        conn, chosen = scene.open(), DeadFilter(ids=[each.jobs[letter] for each in made])
        begun = db.run(conn, QUERIES.operations.begin("redrive", chosen, {}, "ann", "test"))
        conn.commit()
        operation = db.run(conn, QUERIES.operations.lock(begun))
        assert operation is not None
        steps = work_on(app, operation)
        batches.append((conn, steps, steps.send(db.run(conn, next(steps)))))  # type: ignore[arg-type]
    threads = [InThread(lambda b=batch: scene.commit(b[0], lambda conn: follow(conn, *b[1:]))) for batch in batches]  # type: ignore[misc]
    wait_for(lambda: all(thread.done for thread in threads), "both to have acted")
    for thread, (conn, *_) in zip(threads, batches, strict=True):
        thread.result()
        conn.close()
    scene.run()

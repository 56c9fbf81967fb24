"""Random graphs with ends of all kinds, by one who acts and by several at once, against an oracle."""

import random
from functools import partial
from uuid import UUID

import psycopg

from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from tests.conftest import scalar
from tests.harness import Conn, InThread, add_worker
from tests.statements.graph_oracle import Actor, play, random_graph, violations
from tests.statements.graphs import insert, retry, run_all

SEEDS = 30


def test_random_graphs_end_as_their_edges_say(conn: Conn) -> None:
    worker = add_worker(conn)
    for seed in range(SEEDS):
        chance = random.Random(seed)
        graph = random_graph(chance)
        made = insert(conn, graph)
        play(Actor(conn, made, chance, worker), conn)
        assert violations(conn, graph, made) == [], f"seed {seed}"


def act(dsn: str, made: InsertedWorkflow, seed: int, worker: UUID) -> None:
    """Act on a workflow for a while, on a connection of its own."""
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=") as own:
        actor = Actor(own, made, random.Random(seed), worker)
        for _ in range(60):
            if not actor.act():
                break


def test_random_graphs_that_several_work_on_at_once_end_as_their_edges_say(conn: Conn, dsn: str) -> None:
    workers = [add_worker(conn) for _ in range(3)]

    for seed in range(12):
        graph = random_graph(random.Random(1000 + seed))
        made = insert(conn, graph)
        acting = [partial(act, dsn, made, 10 * seed + n, worker) for n, worker in enumerate(workers)]
        for thread in [InThread(call) for call in acting]:
            thread.result()
        play(Actor(conn, made, random.Random(seed), workers[0]), conn)
        assert violations(conn, graph, made) == [], f"seed {seed}"


def test_random_graphs_that_are_retried_succeed_and_run_no_success_twice(conn: Conn) -> None:
    worker = add_worker(conn)
    for seed in range(SEEDS):
        chance = random.Random(seed)
        graph = random_graph(chance, ("cancel", "stop"))
        made = insert(conn, graph)
        play(Actor(conn, made, chance, worker), conn)
        succeeded = "select id from pgqueue.job where workflow_id = %s and state = 'succeeded'"
        before = {row[0] for row in conn.execute(succeeded, (made.id,)).fetchall()}
        retry(conn, made.id)
        reopened = scalar(conn, "select state = 'running' from pgqueue.workflow where id = %s", made.id)
        run_all(conn, made)
        after = {row[0] for row in conn.execute(succeeded, (made.id,)).fetchall()}
        assert before <= after
        twice = (
            "select count(*) from (select from pgqueue.transition where to_state = 'succeeded' and job_id = any(%s)"
            " group by job_id having count(*) > 1) as t"
        )
        assert scalar(conn, twice, made.jobs) == 0
        left = scalar(conn, "select count(*) from pgqueue.job where workflow_id = %s and state = 'failed'", made.id)
        assert left == 0, f"seed {seed}"
        if reopened:  # else all that is left are jobs that were cancelled and could not run any more
            assert scalar(conn, "select state from pgqueue.workflow where id = %s", made.id) == "succeeded", (
                f"seed {seed}"
            )
        open_ones = "select count(*) from pgqueue.job_live where workflow_id = %s"
        assert scalar(conn, open_ones, made.id) == 0, f"seed {seed}"

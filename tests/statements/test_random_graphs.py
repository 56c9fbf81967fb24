"""Random graphs with ends of all kinds, by one who acts and by several at once, against an oracle."""

import random
from functools import cache, partial
from uuid import UUID

import psycopg

from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Graph
from tests.conftest import scalar
from tests.harness import Conn, InThread, add_worker
from tests.statements.graph_oracle import SKIPPED, Actor, play, random_graph, violations
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
        ends = "select array_agg(distinct state) from pgqueue.workflow where root_id = %s"
        assert scalar(conn, ends, made.id) == ["succeeded"], f"seed {seed}"
        open_ones = "select count(*) from pgqueue.job_live where workflow_id = %s"
        assert scalar(conn, open_ones, made.id) == 0, f"seed {seed}"


def coming_back(graph: Graph, ended: dict[int, tuple[str, str | None]]) -> set[int]:
    """The jobs that a retry must bring back: those that may run again, each asked of what it waits for, and those that
    cannot and were not skipped, which will be."""

    @cache
    def runs(thing: int) -> bool:
        if thing < 0:
            within = [n for n, group in enumerate(graph.group_of) if group == -1 - thing]
            return any(
                map(runs, [*within, *(-1 - n for n, each in enumerate(graph.groups) if each.parent == -1 - thing)])
            )
        waits = [(edge.parent, edge.when) for edge in graph.edges if edge.child == thing]
        return ended[thing][0] != "succeeded" and all(may_be_met(*edge) for edge in waits)

    def may_be_met(parent: int, when: str) -> bool:
        if parent < 0 or ended[parent][0] == "succeeded":
            return when != "f" or runs(parent)
        return when == "e" or runs(parent)

    return {n for n, (state, why) in ended.items() if runs(n) or (state != "succeeded" and why != SKIPPED)}


def test_a_retry_brings_back_what_may_run_and_what_was_cancelled(conn: Conn) -> None:
    worker = add_worker(conn)
    ended = "select array_position(%s::bigint[], id) - 1, state, reason from pgqueue.job where workflow_id = %s"
    back = "select array_position(%s::bigint[], id) - 1 from pgqueue.job_live where workflow_id = %s"
    kept = 0
    for seed in range(SEEDS, 2 * SEEDS):
        chance = random.Random(seed)
        graph = random_graph(chance)
        made = insert(conn, graph)
        play(Actor(conn, made, chance, worker), conn)
        for _ in range(2):
            rows = {n: (state, why) for n, state, why in conn.execute(ended, (made.jobs, made.id)).fetchall()}
            retry(conn, made.id)
            found = {n for (n,) in conn.execute(back, (made.jobs, made.id)).fetchall()}
            assert found == coming_back(graph, rows), f"seed {seed}"
            kept += sum(state != "succeeded" and n not in found for n, (state, _) in rows.items())
            play(Actor(conn, made, chance, worker), conn)
    assert kept > SEEDS

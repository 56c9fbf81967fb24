"""A retry and the groups within a workflow: which of them run again, and what runs after their failure or their end."""

from collections.abc import Iterable, Mapping

import pytest

from pgqueue import db
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_worker, new_job
from tests.statements.graphs import DEAD, DONE, claim, end, insert, retry, run_all, states, workflow_state

W, G, H = -1, -2, -3  # the first groups of a graph, as edges name them


def nested(group_of: list[int | None], edges: Iterable[Edge], *parents: int) -> Graph:
    """A workflow with groups within: the second group and those behind it are members of `parents`."""
    jobs = [new_job(args=f'{{"n": {n}}}') for n in range(len(group_of))]
    inner = [Group(f"g{number}", parent) for number, parent in enumerate(parents, start=1)]
    return Graph(jobs, group_of, list(edges), [Group("w"), *inner])


def groups(conn: Conn, made: InsertedWorkflow) -> str:
    """The first letter of the state of each group."""
    return "".join(workflow_state(conn, group)[0] for group in made.groups)


def begin(conn: Conn, made: InsertedWorkflow, cancelled: int, ends: Mapping[int, str]) -> None:
    """Cancel one job while others run, end those, and run what is left. `ends`: s or f."""
    add_worker(conn)
    running = claim(conn)
    db.run(conn, QUERIES.jobs.cancel([made.jobs[cancelled]], "by hand"))
    for node, how in ends.items():
        end(conn, (running[made.jobs[node]], DONE if how == "s" else DEAD))
    run_all(conn, made)


def test_the_handler_of_a_group_whose_members_were_skipped_runs_if_they_fail_after_a_retry(conn: Conn) -> None:
    made = insert(conn, nested([0, 1, None], [Edge(0, 1), Edge(G, 2, "f")], 0))
    run_all(conn, made, {0})
    assert (states(conn, made), groups(conn, made)) == ("fcc", "fs")
    assert retry(conn, made.id).revived == 3
    assert (states(conn, made), groups(conn, made)) == ("pbb", "rr")
    run_all(conn, made, {1})
    assert (states(conn, made), groups(conn, made)) == ("sfs", "ff")


@pytest.mark.parametrize("when", "sfe")
@pytest.mark.parametrize("dies", [True, False])
def test_what_waits_for_a_group_that_was_skipped_is_decided_anew(conn: Conn, when: str, dies: bool) -> None:
    made = insert(conn, nested([0, 2, None], [Edge(0, 1), Edge(G, 2, when)], 0, 1))
    run_all(conn, made, {0})
    before = "c" if when == "f" else "s"  # of a skipped group the success and the end have run already
    assert (states(conn, made), groups(conn, made)) == ("fc" + before, "fss")
    assert retry(conn, made.id).revived == (3 if before == "c" else 2)
    run_all(conn, made, {1} if dies else set())
    runs = before == "s" or dies
    assert states(conn, made) == "s" + ("f" if dies else "s") + ("s" if runs else "c")
    assert groups(conn, made) == ("fff" if dies else "sss")


def test_the_handler_of_a_group_that_stays_skipped_stays_skipped(conn: Conn) -> None:
    made = insert(conn, nested([0, 1, 0, None], [Edge(0, 1, "f"), Edge(G, 3, "f")], 0))
    run_all(conn, made, {2})
    assert (states(conn, made), groups(conn, made)) == ("scfc", "fs")
    assert retry(conn, made.id).revived == 1
    assert (states(conn, made), groups(conn, made)) == ("scpc", "rs")
    run_all(conn, made)
    assert (states(conn, made), groups(conn, made)) == ("scsc", "ss")


# 1 is a member of G; 2, the handler of G, is one of H; 3 is the handler of H, and what follows 3 are 4, 5 and 6.
HANDLERS = [
    Edge(G, 2, "f"), Edge(H, 3, "f"), Edge(3, 4), Edge(3, 5, "f"), Edge(3, 6, "e"),
]  # fmt: skip
OF_HANDLERS = [0, 1, 2, None, None, None, None]


@pytest.mark.parametrize(
    ("dies", "then"), [((1, 2), "sffsscs"), ((1,), "sfscccs"), ((1, 2, 3), "sfffcss"), ((), "sscccc" + "s")]
)
def test_handlers_of_groups_of_handlers_come_back_with_the_innermost_group(
    conn: Conn, dies: tuple[int, ...], then: str
) -> None:
    made = insert(conn, nested(list(OF_HANDLERS), [Edge(0, 1), *HANDLERS], 0, 0))
    run_all(conn, made, {0})
    assert (states(conn, made), groups(conn, made)) == ("fcccccs", "fss")
    assert retry(conn, made.id).revived == 6
    assert (states(conn, made), groups(conn, made)) == ("pbbbbbs", "rrr")
    run_all(conn, made, dies)
    assert states(conn, made) == then


def test_handlers_of_groups_of_handlers_stay_skipped_with_the_innermost_group(conn: Conn) -> None:
    made = insert(conn, nested([*OF_HANDLERS, 0], [Edge(0, 1, "f"), *HANDLERS], 0, 0))
    run_all(conn, made, {7})
    assert (states(conn, made), groups(conn, made)) == ("scccccsf", "fss")
    assert retry(conn, made.id).revived == 1
    assert (states(conn, made), groups(conn, made)) == ("scccccsp", "rss")
    run_all(conn, made)
    assert (states(conn, made), groups(conn, made)) == ("scccccss", "sss")


def test_a_retry_of_a_workflow_that_has_succeeded_without_what_was_skipped_changes_nothing(conn: Conn) -> None:
    made = insert(conn, nested(list(OF_HANDLERS), [Edge(0, 1, "f"), *HANDLERS], 0, 0))
    run_all(conn, made)
    assert (states(conn, made), groups(conn, made)) == ("scccccs", "sss")
    assert retry(conn, made.id).revived == 0
    assert (states(conn, made), groups(conn, made)) == ("scccccs", "sss")


# 1, the only member of G, handles a failure of 0 and is cancelled by hand before 0 has succeeded; 2, 3 and 4 run after
# the success, the failure and the end of G.
CANCELLED = [Edge(0, 1, "f"), Edge(G, 2), Edge(G, 3, "f"), Edge(G, 4, "e")]


def test_what_was_cancelled_and_cannot_run_any_more_is_skipped_by_a_retry_and_its_group_succeeds(conn: Conn) -> None:
    made = insert(conn, nested([0, 1, 0, None, None], CANCELLED, 0))
    begin(conn, made, 1, {0: "s"})
    assert (states(conn, made), groups(conn, made)) == ("scccs", "cc")
    assert retry(conn, made.id).revived == 2
    assert (states(conn, made), groups(conn, made)) == ("sbbcs", "rr")
    assert not claim(conn)
    run_all(conn, made)
    assert (states(conn, made), groups(conn, made)) == ("scscs", "ss")
    assert scalar(conn, "select reason from pgqueue.job where id = %s", made.jobs[1]) == "skipped"
    assert retry(conn, made.id).revived == 0


def test_the_cancelled_job_of_a_group_that_runs_again_for_another_one_is_skipped(conn: Conn) -> None:
    made = insert(conn, nested([0, 1, 0, None, None, 1], CANCELLED, 0))
    begin(conn, made, 1, {0: "s", 5: "f"})
    assert (states(conn, made), groups(conn, made)) == ("sccss" + "f", "ff")
    assert retry(conn, made.id).revived == 3
    assert (states(conn, made), groups(conn, made)) == ("sbbss" + "p", "rr")
    run_all(conn, made)
    assert (states(conn, made), groups(conn, made)) == ("scsss" + "s", "ss")


def test_a_workflow_says_no_success_while_a_group_in_it_is_cancelled(conn: Conn) -> None:
    made = insert(conn, nested([0, 1, 0], [Edge(0, 1, "f")], 0))
    begin(conn, made, 1, {0: "s", 2: "f"})
    assert (states(conn, made), groups(conn, made)) == ("scf", "fc")
    retry(conn, made.id)
    run_all(conn, made)
    assert (states(conn, made), groups(conn, made)) == ("scs", "ss")


def test_what_follows_a_cancelled_job_that_cannot_run_any_more_does_not_run(conn: Conn) -> None:
    after = [Edge(0, 1, "f"), Edge(1, 2), Edge(1, 3, "f"), Edge(1, 4, "e"), Edge(2, 5, "e")]
    made = insert(conn, nested([0, 0, 0, 0, 0, 0], after))
    begin(conn, made, 1, {0: "s"})
    assert (states(conn, made), groups(conn, made)) == ("scccss", "c")
    assert retry(conn, made.id).revived == 1
    run_all(conn, made)
    assert (states(conn, made), groups(conn, made)) == ("scccss", "s")


def test_a_cancelled_job_whose_edges_can_be_met_runs(conn: Conn) -> None:
    made = insert(conn, nested([0, 1, 0, None, None], CANCELLED, 0))
    begin(conn, made, 1, {0: "f"})
    assert (states(conn, made), groups(conn, made)) == ("fcccs", "fc")
    assert retry(conn, made.id).revived == 4
    run_all(conn, made, {0})
    assert (states(conn, made), groups(conn, made)) == ("fsscs", "fs")


def test_workers_hear_of_a_job_that_a_retry_brings_back_to_be_skipped(conn: Conn) -> None:
    made = insert(conn, nested([0, 1], [Edge(0, 1, "f")], 0))
    begin(conn, made, 1, {0: "s"})
    conn.execute("listen pgqueue")
    retry(conn, made.id)
    heard = [note.payload for note in conn.notifies(timeout=10, stop_after=1)]
    assert heard == ["!workflow"]

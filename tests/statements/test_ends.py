"""Every statement that ends a job moves what depends on it, or leaves jobs with ties alone."""

import re
from pathlib import Path

from pgqueue.workflows.gates import CALLED, CHILDREN, GATED, LATE

SNAPSHOTS = Path(__file__).parent / "sql"
# What each statement that deletes live jobs does about ties. A new one belongs here, and to neither kind by accident.
GUARDED = {"jobs.resolve.successes", "jobs.resolve.mixed", "jobs.resolve.metered", "jobs.resolve.metered_successes"}
COUNTED = {"jobs.succeed_counted", "jobs.succeed_counted.one"}  # ends members that nothing waits for but their gate
TELLING = {
    "jobs.cancel", "jobs.expire", "jobs.release_strays", "jobs.rescue", "jobs.resolve_tied",
    "jobs.resolve_tied.metered", "calls.call_off", "turns.cancel_behind", "workflows.cascade", "workflows.stop",
}  # fmt: skip


def deleting(table: str) -> dict[str, str]:
    """Return the statements that delete from a table, by the names of their snapshots."""
    texts = {path.stem: path.read_text() for path in SNAPSHOTS.glob("*.sql")}
    return {name: text for name, text in texts.items() if re.search(rf"delete from \S*{table}\b", text)}


def test_each_statement_that_deletes_live_jobs_tells_or_leaves_ties_alone() -> None:
    found = deleting("job_live")
    assert found.keys() == GUARDED | COUNTED | TELLING
    for name in GUARDED:
        deletions = re.findall(r"delete from \S*job_live j.*?returning", found[name], re.DOTALL)
        assert deletions, name
        assert all("j.ties is null" in deletion for deletion in deletions), name
    for name in COUNTED:
        deletions = re.findall(r"delete from \S*job_live j.*?returning", found[name], re.DOTALL)
        assert len(deletions) == 1, name
        assert f"j.ties::int & {CHILDREN | GATED | CALLED | LATE} = {GATED}" in deletions[0], name
        assert "gates_lowered as (" in found[name], name
        assert "workflows_told as (" in found[name], name
    for name in TELLING:
        assert "children_moved as (" in found[name], name
        assert "gates_lowered as (" in found[name], name
        assert "calls_ended as (" in found[name], name
        assert "from ended where ties is not null" in found[name], name
        # A part that only selects runs if the rest of the statement asks for it.
        assert found[name].count("children_notified") > found[name].count("children_notified as ("), name


def test_no_other_file_than_those_of_statements_deletes_live_jobs() -> None:
    root = Path(__file__).parents[2] / "pgqueue"
    found = {
        str(path.relative_to(root)) for path in root.rglob("*.py") if "delete from {s}.job_live" in path.read_text()
    }
    assert found == {
        "queries/jobs/cancel.py", "queries/jobs/expire.py", "queries/jobs/rescue.py", "queries/jobs/resolve.py",
        "queries/jobs/succeed.py", "queries/turns/full.py", "queries/workflows/cascade.py",
    }  # fmt: skip


def test_statements_that_bring_jobs_back_leave_those_that_a_workflow_has_counted() -> None:
    assert "(j.ties is null or j.ties::int & 16 > 0 or j.ties::int = 4) and" in deleting("dead_letter")["dead.redrive"]
    assert "(j.ties is null or j.ties::int = 4) and" in deleting("job_finished")["jobs.restore"]
    assert "children_moved as (" in deleting("dead_letter")["dead.discard"]

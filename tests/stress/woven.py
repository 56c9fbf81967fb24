"""The evidence about workflows, durable steps and published events: rows, read when nothing is left to do."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgqueue.workflows.graph import Graph

from .plans import plan

Row = dict[str, Any]
LIVE, FINISHED, DEAD = "job_live", "job_finished", "dead_letter"
NAME = re.compile(r"w\.(small|large)\.\w+")
KEY = "k."  # the names of single jobs that are promised begin so; others are those of workflows
TERMINAL = ("succeeded", "failed", "cancelled")
# Jobs that wait for others and whose counter is not the number of their edges that are still to be met, in one
# snapshot. An edge is still to be met while its parent lives, or is a group that is not settled, or a dead letter that
# is no end because its workflow holds; one that was added late, until it is told.
WRONG_COUNTERS = """
select j.id, j.waits_on, met.open from pgqueue.job_live j
cross join lateral (
    select count(*)::int as open from pgqueue.dependency d where d.child_id = j.id
    and (d.late or exists (select from pgqueue.job_live p where p.id = d.parent_id)
         or exists (select from pgqueue.workflow w where w.id = d.parent_id and not w.settled)
         or exists (select from pgqueue.dead_letter p where p.id = d.parent_id and p.ties & 16 > 0))) as met
where j.state = 'blocked' and j.waits_for = 'jobs' and j.cancel_requested_at is null and j.waits_on <> met.open"""
# Calls whose job has ended and that are not marked, and jobs that sleep on though all their calls are marked and were
# delivered, in one snapshot. A called job that was brought back keeps its mark while it lives: its caller sleeps on.
WRONG_CALLS = """
select c.job_id as caller, c.child_id as child, 'is not told that it has ended' as what from pgqueue.call c
where not c.ended and not exists (select from pgqueue.job_live j where j.id = c.child_id)
union all
select t.job_id, null, 'sleeps on after the last end of ' || t.name from pgqueue.step t
join pgqueue.job_live j on j.id = t.job_id
where t.kind = 'call' and not t.done and j.state in ('pending', 'blocked') and j.attempt = 0
and j.run_at > now() + interval '1 hour'
and not exists (
    select from pgqueue.call c where c.number = t.number
    and (not (c.ended and c.seen) or exists (select from pgqueue.job_live l where l.id = c.child_id)))"""

READ = {
    "workflows": "select * from pgqueue.workflow order by id",
    "gates": "select * from pgqueue.gate",
    "edges": "select * from pgqueue.dependency",
    "moves": "select at, job_id, from_state, to_state, lease, reason from pgqueue.transition order by at",
    "deeds": "select * from stress.deed order by id",
    "log": "select * from stress.step_log order by seq",
    "settlings": "select workflow_id, at, settled from stress.settling order by seq",
    "endings": "select job_id, finished_at from stress.ending order by finished_at",
    "undos": "select * from pgqueue.undo",
    "mailbox": "select * from pgqueue.signal",
    "events": "select id, topic from pgqueue.published_event",
    "wrong_calls": WRONG_CALLS,
}


@dataclass
class Woven:
    """Rows. `graphs`: the graph of each workflow as it was planned, by id. `promised`: how the enqueueing of each
    planned workflow ended for whom it was: ok, fail, or info if that is unknown. `counters`: what WRONG_COUNTERS has
    found, `wrong_calls`: WRONG_CALLS. `quiescent`: whether everything has ended."""

    graphs: Mapping[int, Graph] = field(default_factory=dict)
    workflows: list[Row] = field(default_factory=list)
    gates: list[Row] = field(default_factory=list)
    edges: list[Row] = field(default_factory=list)
    jobs: list[Row] = field(default_factory=list)
    moves: list[Row] = field(default_factory=list)
    deeds: list[Row] = field(default_factory=list)
    log: list[Row] = field(default_factory=list)
    settlings: list[Row] = field(default_factory=list)
    endings: list[Row] = field(default_factory=list)
    undos: list[Row] = field(default_factory=list)
    mailbox: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    promised: Mapping[str, str] = field(default_factory=dict)
    counters: list[tuple[int, int, int]] = field(default_factory=list)
    wrong_calls: list[Row] = field(default_factory=list)
    quiescent: bool = True

    @cached_property
    def job(self) -> dict[int, Row]:
        """The row of each job."""
        return {row["id"]: row for row in self.jobs}

    @cached_property
    def moves_of(self) -> dict[int, list[Row]]:
        """The moves of each job, in order."""
        return _by(self.moves, "job_id")

    @cached_property
    def deeds_of(self) -> dict[int, list[Row]]:
        """The deeds of each job, in order."""
        return _by(self.deeds, "job_id")

    @cached_property
    def settlings_of(self) -> dict[int, list[Row]]:
        """When each group was settled, and ran again, in order."""
        return _by(self.settlings, "workflow_id")

    @cached_property
    def endings_of(self) -> dict[int, list[Row]]:
        """The ends of each job in transactions that began at these times, in order."""
        return _by(self.endings, "job_id")

    @cached_property
    def members(self) -> dict[int, list[Row]]:
        """The jobs of each workflow."""
        return _by(self.jobs, "workflow_id")


def _by(rows: list[Row], column: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row[column] is not None:
            found[row[column]].append(row)
    return found


def load(dsn: str, graphs: Mapping[int, Graph] | None = None) -> Woven:
    """Read the rows in one snapshot, for jobs may still move. Workflows without a graph given are planned by their
    names, as far as they have such names."""
    woven = Woven()
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for name, statement in READ.items():
            setattr(woven, name, conn.execute(statement).fetchall())
        for table in (LIVE, FINISHED, DEAD):
            columns = f"select '{table}' as table, to_jsonb(j) as row from pgqueue.{table} j order by id"
            woven.jobs += [row["row"] | {"table": row["table"]} for row in conn.execute(columns).fetchall()]
    for row in woven.jobs:
        row["state"] = "failed" if row["table"] == DEAD else row["state"]
    woven.graphs = graphs if graphs is not None else planned(woven.workflows)
    return woven


def planned(workflows: list[Row]) -> dict[int, Graph]:
    """Draw the graphs of workflows anew, by their names."""
    roots = [row for row in workflows if row["root_id"] == row["id"] and NAME.fullmatch(row["name"])]
    return {row["id"]: plan(row["name"]).graph for row in roots}


def number_of(args: Any) -> int:
    """Return the number of a node, by the arguments of its job: a dict, or JSON text."""
    return int((json.loads(args) if isinstance(args, str) else args)["n"])

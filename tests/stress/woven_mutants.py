"""Seeded bugs in workflows and durable steps, each with the invariants one of which the checker must see broken.

`python -m tests.stress.woven_mutants NAME work …` is `pgqueue work …` with the bug NAME in it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from pgqueue import cli
from pgqueue.client.canvas.calling import Caller
from pgqueue.client.steps import Steps, all_or_nothing
from pgqueue.jobs.step import RecordedStep
from pgqueue.queries import chosen, dead, signals, steps
from pgqueue.queries.base import Query
from pgqueue.queries.jobs import expire, resolve
from pgqueue.queries.jobs.ties import DOOMED, TiedEnds
from pgqueue.queries.workflows import adding, cascade, inputs, retry
from pgqueue.tasks.journal import AlreadyRecorded

from .rewriting import rewrite

MODULES: Sequence[ModuleType] = (resolve, expire, steps, inputs, retry, cascade, signals, adding, dead, chosen)
CLASSES: Sequence[type] = (resolve.ResolveQueries, Caller)
TIED_ENDS = ["RESOLVE_TIED", "RESOLVE_METERED_TIED"]
RECORDS = ["RECORD", "RECORD_ONE", "RECORD_AND_MARK"]
COUNTED_ENDS = ["SUCCEED_COUNTED", "SUCCEED_ONE_COUNTED"]
NO_PARENT_LEFT = """not exists (select from {s}.dependency e join {s}.job_live p on p.id = e.parent_id
    where e.child_id = j.id and p.id not in (select id from ended))"""
NO_MEMBER_LEFT = """not exists (select from {s}.job_live m where m.gate_id = g.id
    and m.id not in (select id from ended)) as closed"""


def unsorted_gates(names: Sequence[str] = TIED_ENDS) -> None:
    """Lock the gates of jobs that end in an order that depends on those jobs."""
    by_first_job = "order by g.id * (1 - 2 * (select min(id) & 1 from tied)) for update"
    rewrite(resolve, names, ("order by g.id for update", by_first_job))


def unsorted_children() -> None:
    """Lock the children of jobs that end in an order that depends on those jobs."""
    own = "union select id from given where exists (select from edge))) order by j.id"
    rewrite(resolve, TIED_ENDS, (own, f"{own} * (1 - 2 * (select min(id) % 2 from given))"))


def no_parent_left() -> None:
    """Release a child if none of its parents is left, instead of counting."""
    rewrite(
        resolve,
        TIED_ENDS,
        ("j.waits_on = s.met", NO_PARENT_LEFT),
        ("j.waits_on > s.met", f"not ({NO_PARENT_LEFT})"),
        ("where j.id = any(array[s.id])", "where s.met > 0 and j.id = any(array[s.id])"),
    )


def callbacks_by_last(names: Sequence[str] = TIED_ENDS) -> None:
    """Let the last member bring the callbacks about: the one that sees no other member left."""
    rewrite(resolve, names, ("g.remaining = 0 and g.counted as closed", NO_MEMBER_LEFT))


def counted_parents() -> None:
    """Let the statement for members that their gate alone waits for end jobs that have children."""
    rewrite(resolve, COUNTED_ENDS, ("j.ties::int & 15 = 2", "j.ties::int & 14 = 2"))
    vars(resolve)["CHILDREN"] = 0


def plain_success() -> None:
    """Let the statement for plain successes end jobs whose end others wait for."""
    rewrite(resolve, ["SUCCEED", "RESOLVE"], ("and j.ties is null", ""))

    def untold(self: Any, batch: Any) -> Query[TiedEnds]:
        plain = self.resolve(batch)
        return Query(plain.sql, lambda rows: TiedEnds(plain.read(rows), set(), False, False), plain.params)

    resolve.ResolveQueries.resolve_tied = untold  # type: ignore[method-assign]


def untold_expiry() -> None:
    """Let jobs expire without telling those that wait for them."""
    rewrite(expire, ["EXPIRE"], ("from ended where ties is not null", "from ended where false"))


def released_doomed() -> None:
    """Count further ends for a job that is doomed, as if it could still run."""
    doomed = "and (j.waits_for = 'jobs') is true and j.cancel_requested_at is null and"
    rewrite(resolve, TIED_ENDS, (doomed, "and (j.waits_for = 'jobs') is true and"))


def sleeps_through() -> None:
    """Put a job to sleep whether it was signalled or not."""
    rewrite(steps, ["PUT_TO_SLEEP"], ("case when j.signalled then", "case when false then"))


def unlocked_record() -> None:
    """Record a step for a job that has the lease at the look, without holding it until the commit."""
    rewrite(steps, RECORDS, ("for share", ""))


def changed_record() -> None:
    """Let a later record of a step take the place of the first one."""
    rewrite(
        steps,
        RECORDS,
        ("on conflict (job_id, name) do nothing", "on conflict (job_id, name) do update set value = excluded.value"),
    )


def mixed_inputs() -> None:
    """Hand results on in any order."""
    rewrite(inputs, ["INPUTS"], ("e.position nulls first, e.ord", "e.position desc, e.ord desc"))


def retries_all() -> None:
    """Run again what has succeeded when a workflow is retried."""
    rewrite(
        retry,
        ["REVIVE"],
        ("where n.state <> 'succeeded' and (v.id is null", "where (v.id is null"),
        ("and f.state = 'cancelled' and f.finished_at", "and f.finished_at"),
    )


def called_again() -> None:
    """Keep what an attempt has inserted for a step that is recorded already."""
    steps_of = Caller.steps.__wrapped__  # type: ignore[attr-defined]

    def kept(self: Caller) -> Steps[RecordedStep]:
        try:
            return (yield from steps_of(self))
        except AlreadyRecorded as found:
            return found.step

    Caller.steps = all_or_nothing(kept)  # type: ignore[method-assign]


def untold_call() -> None:
    """Let called jobs end without marking their calls."""
    rewrite(resolve, TIED_ENDS, ("from tied where ties & 4 > 0", "from tied where false"))


def forgetful_delivery() -> None:
    """Take the end of a call as delivered though its caller was held."""
    rewrite(signals, ["DELIVER"], ("where -o.child_id not in (select letter from again)", ""))


def uncounted_members() -> None:
    """Add to a workflow without having it wait for what is added."""
    rewrite(
        adding,
        ["ADD"],
        ("set open_gates = w.open_gates + (select count(*) from gated g where g.of = 1)::int,", "set"),
        ("%(counted)s::bool or g.of > 1,", "false,"),
    )


def edges_in_time() -> None:
    """Take edges from what was there before as if those who end it could see them."""
    rewrite(adding, ["ADD"], ("case when e.parent <= -1000000000 then true end", "null::boolean"))


def careless_seal() -> None:
    """Seal a workflow without counting what was added while it was open."""
    rewrite(adding, ["SEAL"], ("w.open_gates - 1 + t.gates", "w.open_gates - 1"), ("counted = true", "counted = false"))


def redrives_letters() -> None:
    """Bring dead letters of a workflow back without what was skipped for them."""
    rewrite(retry, ["REVIVE"], ("where n.state <> 'succeeded' and (v.id", "where n.state = 'failed' and (v.id"))


def redrives_beside() -> None:
    """Bring a callback back alone whoever retries its workflow."""
    rewrite(dead, ["REDRIVE"], ("where w.id not in (select id from beside)", "where false"))


def letters_first() -> None:
    """Lock the dead letters of a bulk redrive one by one, and wait for the others of their workflows."""
    rewrite(retry, ["LOCK_LETTERS"], ("and (select true from", "and false and (select true from"))
    discarded = chosen.NEXT_BATCHES["discard"]  # which locks the same letters, and no workflow
    chosen.NEXT_BATCHES = chosen.NEXT_BATCHES | {"redrive": discarded}


def retries_uncounted() -> None:
    """Leave what was cancelled and cannot run any more where it is, while the gates around it begin anew."""
    rewrite(retry, ["REVIVE"], ("(v.id is null or n.reason is distinct from 'skipped')", "v.id is null"))


def forgets_handlers() -> None:
    """Take each group that has succeeded for one that cannot fail after a retry."""
    rewrite(
        retry, ["REVIVE"], ("select '{{}}'::bigint[]", "select array(select id from whole where state = 'succeeded')")
    )


def stops_by_snapshot() -> None:
    """Say of a job that is stopped what was true of it when it was found."""
    found = "case when j.state = 'blocked' and j.cancel_requested_at is not null then 'skipped' end as skipped"
    rewrite(
        cascade,
        ["STOP"],
        ("s.stop_reason as reason", "coalesce(m.skipped, s.stop_reason) as reason"),
        ("select j.id, j.state from", f"select j.id, j.state, {found} from"),
        (f"case when {DOOMED} then 'skipped' else b.reason end as reason", "b.reason"),
    )


@dataclass(frozen=True)
class WovenMutant:
    """A bug, the scenario that shows it, and the invariants one of which it breaks."""

    apply: Callable[[], None]
    scenario: str
    caught_by: frozenset[str]


MUTANTS = {
    "unsorted_gates": WovenMutant(unsorted_gates, "shared_gates", frozenset({"deadlock"})),
    "unsorted_children": WovenMutant(unsorted_children, "shared_children", frozenset({"deadlock"})),
    "no_parent_left": WovenMutant(no_parent_left, "two_parents_at_once", frozenset({"WF2"})),
    "callbacks_by_last": WovenMutant(callbacks_by_last, "two_members_at_once", frozenset({"WF4"})),
    "plain_success": WovenMutant(plain_success, "whole_workflow", frozenset({"WF2"})),
    "untold_expiry": WovenMutant(untold_expiry, "expired_member", frozenset({"WF2"})),
    "unsorted_gates_counted": WovenMutant(
        partial(unsorted_gates, ["SUCCEED_COUNTED"]), "gates_shared_plainly", frozenset({"deadlock"})
    ),
    "callbacks_by_last_counted": WovenMutant(
        partial(callbacks_by_last, COUNTED_ENDS), "two_members_plainly", frozenset({"WF4"})
    ),
    "counted_parents": WovenMutant(counted_parents, "whole_workflow_plainly", frozenset({"WF2"})),
    "released_doomed": WovenMutant(released_doomed, "one_parent_fails", frozenset({"WF2"})),
    "mixed_inputs": WovenMutant(mixed_inputs, "whole_workflow", frozenset({"WF7"})),
    "retries_all": WovenMutant(retries_all, "retried", frozenset({"WF9"})),
    "redrives_letters": WovenMutant(redrives_letters, "redriven", frozenset({"WF5"})),
    "redrives_beside": WovenMutant(redrives_beside, "callback_beside_a_retry", frozenset({"WF1"})),
    "letters_first": WovenMutant(letters_first, "redriven_twice", frozenset({"deadlock"})),
    "retries_uncounted": WovenMutant(retries_uncounted, "retried_groups", frozenset({"WF5"})),
    "forgets_handlers": WovenMutant(forgets_handlers, "retried_groups", frozenset({"WF5"})),
    "stops_by_snapshot": WovenMutant(stops_by_snapshot, "stopped_beside_a_death", frozenset({"WF5"})),
    "sleeps_through": WovenMutant(sleeps_through, "signalled_while_it_runs", frozenset({"ST4"})),
    "unlocked_record": WovenMutant(unlocked_record, "recorded_beside_a_rescue", frozenset({"ST1"})),
    "changed_record": WovenMutant(changed_record, "recorded_twice", frozenset({"ST1"})),
    "called_again": WovenMutant(called_again, "called_twice", frozenset({"CA1"})),
    "untold_call": WovenMutant(untold_call, "called_job_ends", frozenset({"CA3"})),
    "forgetful_delivery": WovenMutant(forgetful_delivery, "caller_is_held", frozenset({"CA3"})),
    "uncounted_members": WovenMutant(uncounted_members, "added_while_it_runs", frozenset({"AD3"})),
    "edges_in_time": WovenMutant(edges_in_time, "added_after_an_end", frozenset({"WF2"})),
    "careless_seal": WovenMutant(careless_seal, "sealed", frozenset({"AD3", "AD4"})),
}


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Have a bug for as long as a block lasts; none for the empty name."""
    kept = [(owner, dict(vars(owner))) for owner in (*MODULES, *CLASSES)]
    try:
        if name:
            MUTANTS[name].apply()
        yield
    finally:
        for owner, before in kept:
            for attribute, value in before.items():
                if vars(owner).get(attribute) is not value:
                    setattr(owner, attribute, value)


def main() -> None:
    """Apply the bug that the first argument names, then be `pgqueue`."""
    MUTANTS[sys.argv.pop(1)].apply()
    cli.main()


if __name__ == "__main__":
    main()

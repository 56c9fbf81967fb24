"""The checker of the stress machine accepts a right history and rejects each spoilt one by the invariant it breaks."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue.jobs.flow import Flow
from pgqueue.worker.claiming.producer import MAX_CLAIM
from tests.stress.checker import check
from tests.stress.history import Event, History, Operation, Probe
from tests.stress.journal import digest
from tests.stress.turns import Drift

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WORKERS = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in ("w1", "w2")}


class Story:
    """A history written by hand: one job that runs as it must, for the test to spoil."""

    def __init__(self) -> None:
        self.history = History()
        self._at = NOON
        for name, worker in WORKERS.items():
            row = {"id": worker, "slots": 4, "lost_at": None, "heartbeat_at": NOON.isoformat(), "lease_seconds": 2.0}
            self.event("worker", None, row, process=name, app="pgqueue worker heartbeat")

    def event(self, table: str, old: Any, new: Any, *, process: str, app: str, xid: int = 0) -> None:
        """Add a version of a row."""
        log = self.history.workers if table == "worker" else self.history.events
        seq = len(self.history.workers) + len(self.history.events) + 1
        self._at += timedelta(milliseconds=10)
        op = "I" if old is None else "D" if new is None else "U"
        log.append(Event(seq, xid or seq, self._at, app, process, table, op, old, new))

    def lost(self, name: str, silent: float = 3.0) -> None:
        """Declare a worker lost, `silent` seconds after its last heartbeat."""
        worker = WORKERS[name]
        old = {"id": worker, "slots": 4, "lost_at": None, "heartbeat_at": NOON.isoformat(), "lease_seconds": 2.0}
        new = old | {"lost_at": (NOON + timedelta(seconds=silent)).isoformat()}
        self.event("worker", old, new, process="w2", app="pgqueue worker chores")

    def row(self, **columns: Any) -> dict[str, Any]:
        """Return a row of the job."""
        return {
            "id": 7, "task": "fast", "state": "pending", "attempt": 0, "max_attempts": 3, "crash_count": 0, "lease": 0,
            "worker_id": None, "run_at": NOON.isoformat(), "args": {"op": "p1-1"}, "headers": {},
        } | columns  # fmt: skip

    def transition(self, source: str | None, target: str, **columns: Any) -> None:
        """Log a transition."""
        row = {"job_id": 7, "from_state": source, "to_state": target, "attempt": 1, "lease": 1, "error": None}
        self.history.transitions.append(row | {"reason": None} | columns)

    def enqueued(self) -> dict[str, Any]:
        """A producer enqueues the job."""
        row = self.row()
        self.event("job_live", None, row, process="p1", app="stress producer")
        self.transition(None, "pending", attempt=0, lease=0)
        self.history.operations["p1-1"] = Operation("p1-1", "transaction", ["fast"], [digest({})], "ok", [7])
        self.history.orders["p1-1"] = 1
        return row

    def claimed(self, row: dict[str, Any], process: str = "w1", **columns: Any) -> dict[str, Any]:
        """A worker claims it and starts it."""
        charged = {"attempt": row["attempt"] + 1, "lease": row["lease"] + 1}
        running = row | {"state": "running", "worker_id": WORKERS[process]} | charged | columns
        self.event("job_live", row, running, process=process, app="pgqueue worker claim")
        self.transition(row["state"], "running", attempt=running["attempt"], lease=running["lease"])
        line = {"job": 7, "attempt": running["attempt"], "process": process}
        self.history.starts.append(line | {"kind": "start", "digest": digest({})})
        self.history.ends.append(line | {"kind": "end", "outcome": "ok", "visible": True})
        self.history.effects.append({"job_id": 7, "attempt": running["attempt"], "process": process})
        return running

    def rescued(self, row: dict[str, Any]) -> dict[str, Any]:
        """Another worker rescues it."""
        free = row | {"state": "pending", "worker_id": None, "crash_count": row["crash_count"] + 1}
        self.event("job_live", row, free, process="w2", app="pgqueue worker chores")
        self.transition("running", "pending", lease=row["lease"], reason="rescued", error={"type": "WorkerLost"})
        return free

    def succeeded(self, row: dict[str, Any], process: str = "w1") -> dict[str, Any]:
        """Its worker writes that it succeeded."""
        done = row | {"state": "succeeded"}
        xid = 1000 + row["lease"]
        self.event("job_live", row, None, process=process, app="pgqueue worker resolve", xid=xid)
        self.event("job_finished", None, done, process=process, app="pgqueue worker resolve", xid=xid)
        self.transition("running", "succeeded", lease=row["lease"])
        self.history.final.append(done | {"table": "job_finished", "reason": None, "error": None})
        return done


def numbers(history: History) -> set[str]:
    return {violation.number for violation in check(history)}


def whole(story: Story) -> dict[str, Any]:
    return story.succeeded(story.claimed(story.enqueued()))


def test_a_right_history_violates_nothing() -> None:
    story = Story()
    whole(story)
    assert check(story.history) == []


def _with_the_id_of_a_transaction_that_was_rolled_back(story: Story) -> None:
    whole(story)
    story.history.operations["p1-0"] = Operation("p1-0", "solo", ["fast"], [digest({"op": "p1-0"})], "fail", [7])


def test_a_job_with_an_id_that_a_crashed_server_has_given_before_violates_nothing() -> None:
    story = Story()
    _with_the_id_of_a_transaction_that_was_rolled_back(story)
    assert check(story.history) == []


def _runs_though_it_was_rolled_back(story: Story) -> None:
    _with_the_id_of_a_transaction_that_was_rolled_back(story)
    story.history.starts.append(story.history.starts[0] | {"digest": digest({"op": "p1-0"})})


def test_a_right_history_with_a_rescue_violates_nothing() -> None:
    story = Story()
    running = story.claimed(story.enqueued())
    story.lost("w1")
    story.succeeded(story.claimed(story.rescued(running), "w2"), "w2")
    assert check(story.history) == []


def _lost_job(story: Story) -> None:
    whole(story)
    story.history.final.clear()


def _in_two_tables(story: Story) -> None:
    done = whole(story)
    story.history.final.append(done | {"table": "dead_letter", "state": "failed", "reason": "error", "error": {}})


def _ghost(story: Story) -> None:
    whole(story)
    story.history.operations["p1-1"].outcome = "fail"


def _never_invoked(story: Story) -> None:
    whole(story)
    story.history.operations.clear()


def _effect_of_nothing(story: Story) -> None:
    whole(story)
    story.history.effects.append({"job_id": 8, "attempt": 1, "process": "w1"})


def _half_a_transaction(story: Story) -> None:
    whole(story)
    story.history.operations["p1-1"].tasks.append("fast")


def _no_business_row(story: Story) -> None:
    whole(story)
    story.history.orders.clear()


def _too_early(story: Story) -> None:
    whole(story)
    story.history.ends[0]["visible"] = False


def _claimed_twice(story: Story) -> None:
    running = story.claimed(story.enqueued())
    story.succeeded(story.claimed(running, "w2"), "w2")


def _lease_kept(story: Story) -> None:
    story.succeeded(story.claimed(story.enqueued(), lease=0))


def _started_without_a_claim(story: Story) -> None:
    whole(story)
    story.history.starts.append(story.history.starts[0] | {"process": "w2"})


def _claimed_before_its_time(story: Story) -> None:
    row = story.enqueued()
    row["run_at"] = (NOON + timedelta(hours=1)).isoformat()
    story.succeeded(story.claimed(row))


def _claimed_while_it_was_set_aside(story: Story) -> None:
    row = story.enqueued()
    row["waits_for"] = "pause"
    story.succeeded(story.claimed(row))


def _claimed_without_an_attempt_left(story: Story) -> None:
    row = story.enqueued()
    row["attempt"] = 3
    story.succeeded(story.claimed(row, max_attempts=4))


def _claimed_more_than_slots(story: Story) -> None:
    story.history.workers[0].new["slots"] = -MAX_CLAIM  # type: ignore[index]
    whole(story)


def _effect_left_out(story: Story) -> None:
    whole(story)
    _exact(story)


def _exact(story: Story) -> None:
    for row in story.history.final:
        row["task"] = "exact"


def _effect_twice(story: Story) -> None:
    job = whole(story)["id"]
    _exact(story)
    story.history.exact += [{"job_id": job, "attempt": 1}] * 2


def _effect_of_an_ordinary_job(story: Story) -> None:
    story.history.exact.append({"job_id": whole(story)["id"], "attempt": 1})


def _runs_though_cancelled(story: Story) -> None:
    story.history.cancels[whole(story)["id"]] = "waiting"


def _from_terminal(story: Story) -> None:
    done = whole(story)
    back = done | {"state": "pending", "worker_id": None}
    story.event("job_finished", done, None, process="w1", app="pgqueue worker resolve", xid=5000)
    story.event("job_live", None, back, process="w1", app="pgqueue worker resolve", xid=5000)


def _removed(story: Story) -> None:
    done = whole(story)
    story.event("job_finished", done, None, process="w1", app="pgqueue worker chores")


def _late_write(story: Story) -> None:
    running = story.claimed(story.enqueued())
    story.lost("w1")
    story.succeeded(story.claimed(story.rescued(running), "w2"), "w1")


def _rescued_alive(story: Story) -> None:
    running = story.claimed(story.enqueued())
    story.succeeded(story.claimed(story.rescued(running), "w2"), "w2")


def _lost_too_soon(story: Story) -> None:
    whole(story)
    story.lost("w1", silent=0.5)


def _claims_as_a_zombie(story: Story) -> None:
    row = story.enqueued()
    story.lost("w1")
    story._at += timedelta(minutes=1)
    story.succeeded(story.claimed(row))


def _not_charged(story: Story) -> None:
    story.succeeded(story.claimed(story.enqueued(), attempt=0))


def _refunded_after_a_crash(story: Story) -> None:
    running = story.claimed(story.enqueued())
    story.lost("w1")
    free = story.rescued(running)
    free["attempt"] = 0
    story.succeeded(story.claimed(free, "w2"), "w2")


def _not_logged(story: Story) -> None:
    whole(story)
    story.history.transitions.pop()


def _logged_twice(story: Story) -> None:
    whole(story)
    story.history.transitions.append(story.history.transitions[-1])


def _dead_without_a_letter(story: Story) -> None:
    running = story.claimed(story.enqueued())
    story.event("job_live", running, None, process="w1", app="pgqueue worker resolve", xid=900)
    dead = running | {"state": "failed"}
    story.event("dead_letter", None, dead, process="w1", app="pgqueue worker resolve", xid=900)
    story.transition("running", "failed", error={"type": "E"})
    story.history.final.append(running | {"table": "job_finished", "state": "succeeded", "reason": None, "error": None})


def _dead_without_an_error(story: Story) -> None:
    _dead_without_a_letter(story)
    story.history.final[0] |= {"table": "dead_letter", "state": "failed", "reason": "exhausted", "error": None}


def _no_effect(story: Story) -> None:
    whole(story)
    story.history.effects.clear()


def _tick(story: Story, job: int | None, second: int) -> None:
    tick = NOON + timedelta(seconds=second)
    fire = {"schedule": "second", "tick": tick, "outcome": "fired" if job else "missed", "job_id": job, "at": tick}
    story.history.fires.append(fire)


def _tick_twice(story: Story) -> None:
    headers = {"schedule": "second", "tick": NOON.isoformat()}
    for job in (8, 9):
        row = story.row(id=job, headers=headers, args={"op": "tick"})
        story.event("job_live", None, row, process="s1", app="pgqueue scheduler")
        story.transition(None, "pending", job_id=job, attempt=0, lease=0)
        story.history.final.append(row | {"table": "job_live"})
    story.history.quiescent = False
    _tick(story, 8, 0)


def _tick_left_out(story: Story) -> None:
    _tick(story, None, 0)
    _tick(story, None, 2)


def _tick_without_a_job(story: Story) -> None:
    _tick(story, 99, 0)


def _other_arguments(story: Story) -> None:
    whole(story)
    story.history.starts[0]["digest"] = digest({"op": "other"})


def _wrong_end(story: Story) -> None:
    whole(story)
    story.history.operations["p1-1"].tasks = ["always"]


def _left_behind(story: Story) -> None:
    story.history.hygiene["advisory locks"] = 1


def _still_running(story: Story) -> None:
    running = story.claimed(story.enqueued())
    story.history.final.append(running | {"table": "job_live"})


def _never_rescued(story: Story) -> None:
    story.history.probes.append(Probe("L1", "the jobs are rescued", None, 5.0))


def _too_late(story: Story) -> None:
    story.history.probes.append(Probe("L8", "the schedule has caught up", 6.0, 5.0))


def _counter_of_nothing(story: Story) -> None:
    story.history.drifts.append(Drift(NOON, "limited/a", 0, 1, 1))


def _counter_at_the_end(story: Story) -> None:
    story.history.counters["limited/a"] = 1


def _began_though_shut_out(story: Story) -> None:
    row = story.enqueued()
    row["headers"]["$flow"] = Flow(("shut_out",)).header()
    story.succeeded(story.claimed(row))


def _torn_history(story: Story) -> None:
    row = story.enqueued()
    story.succeeded(story.claimed(row | {"lease": 4}))


@pytest.mark.parametrize(
    ("number", "spoil"),
    [
        ("S1", _lost_job), ("S1", _in_two_tables), ("S2", _ghost), ("S2", _never_invoked),
        ("S2", _runs_though_it_was_rolled_back), ("S2", _effect_of_nothing),
        ("S3", _half_a_transaction), ("S3", _no_business_row), ("S4", _too_early), ("S5", _claimed_twice),
        ("S5", _lease_kept), ("S5", _started_without_a_claim), ("S6", _claimed_before_its_time),
        ("FL7", _claimed_while_it_was_set_aside),
        ("S6", _claimed_without_an_attempt_left), ("S6", _claimed_more_than_slots), ("S7", _from_terminal),
        ("S8", _late_write), ("L2", _rescued_alive), ("L2", _lost_too_soon), ("L6", _claims_as_a_zombie),
        ("S9", _effect_left_out), ("S9", _effect_twice), ("S9", _effect_of_an_ordinary_job),
        ("S7", _runs_though_cancelled), ("S9", _no_effect),
        ("S10", _not_charged), ("S10", _refunded_after_a_crash), ("S11", _not_logged),
        ("S11", _logged_twice), ("S12", _dead_without_a_letter), ("S12", _dead_without_an_error), ("S16", _tick_twice),
        ("S16", _tick_left_out), ("S16", _tick_without_a_job), ("S18", _removed), ("S19", _other_arguments),
        ("S20", _wrong_end), ("S22", _left_behind), ("L4", _still_running), ("L1", _never_rescued), ("L8", _too_late),
        ("FL2", _counter_of_nothing), ("FL2", _counter_at_the_end), ("FL8", _began_though_shut_out),
        ("H", _torn_history),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)  # fmt: skip
def test_a_spoilt_history_is_rejected_by_the_invariant_it_breaks(number: str, spoil: Callable[[Story], None]) -> None:
    story = Story()
    spoil(story)
    assert number in numbers(story.history)

"""Checks of how things ended: acknowledged jobs exist, nothing is left over, nothing came too late."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from .checker import TERMINAL, Check, Facts
from .history import DEAD, moment
from .metered_shop import ENDS as METERED_ENDS
from .shop import ENDS, EXACT
from .violation import Violation


def nothing_lost(facts: Facts) -> Iterator[Violation]:
    """S1: each job that was acknowledged or ever existed is in one table, and has ended or waits for a reason."""
    acknowledged = {job: o.op for o in facts.history.operations.values() if o.outcome == "ok" for job in o.ids}
    for job, op in acknowledged.items():
        if job not in facts.final:
            yield Violation("S1", f"job {job} of {op} was acknowledged and is nowhere")
    for job in facts.created:
        if job not in facts.final and job not in acknowledged:
            yield Violation("S1", f"job {job} existed and is nowhere")
    for job, rows in facts.final.items():
        if len(rows) > 1:
            yield Violation("S1", f"job {job} is in {[row['table'] for row in rows]}")
        row = rows[0]
        parked = row["state"] == "blocked" and row["task"] in ("nobody_knows", "shut_out")
        if facts.history.quiescent and row["state"] not in TERMINAL and not parked:
            yield Violation("L4", f"job {job} ({row['task']}) is {row['state']} at the end, attempt {row['attempt']}")


def no_ghosts(facts: Facts) -> Iterator[Violation]:
    """S2, S3: a rolled back transaction leaves nothing; an unclear one all or nothing; a business row has its jobs."""
    started = {line["job"] for line in facts.history.starts}
    runs = {(line["job"], line["digest"]) for line in facts.history.starts}
    jobs: Counter[str] = Counter(facts.op_of(job) for job in facts.created)
    jobs.pop("tick", None)
    for job in started - facts.created.keys():
        yield Violation("S2", f"job {job} started and never existed")
    for effect in facts.history.effects:
        if effect["job_id"] not in facts.created:
            yield Violation("S2", f"job {effect['job_id']} has an effect and never existed")
    for operation in facts.history.operations.values():
        op, here = operation.op, jobs.pop(operation.op, 0)
        # By id and arguments: a server that crashes may give the ids of a transaction that was rolled back to others.
        ran = runs.intersection(zip(operation.ids, operation.digests, strict=False))
        if operation.outcome == "fail" and (here or ran or op in facts.history.orders):
            yield Violation("S2", f"{op} was rolled back and left {here} jobs, order {op in facts.history.orders}")
        if here not in (0, len(operation.tasks)):
            yield Violation("S3", f"{op} has {here} of {len(operation.tasks)} jobs")
        if operation.kind != "solo" and (here > 0) != (op in facts.history.orders):
            yield Violation("S3", f"{op}: {here} jobs, business row {op in facts.history.orders}")
    for op in jobs:
        if not op.startswith("probe"):
            yield Violation("S2", f"{op} has {jobs[op]} jobs and was never invoked")


def visible(facts: Facts) -> Iterator[Violation]:
    """S4: an attempt sees the business row that was committed with its job."""
    ordered = {o.op for o in facts.history.operations.values() if o.kind != "solo"}
    for line in facts.history.ends:
        if line.get("visible") is False and line["job"] in facts.created and facts.op_of(line["job"]) in ordered:
            yield Violation("S4", f"job {line['job']} ran before its business row was visible")


def effects(facts: Facts) -> Iterator[Violation]:
    """S9 as far as ordinary jobs go: a success has run to its end and has its effect; nothing starts unclaimed."""
    finished = Counter(line["job"] for line in facts.history.ends if line["outcome"] == "ok")
    written = Counter(effect["job_id"] for effect in facts.history.effects)
    claims = Counter(step.job for step in facts.all_steps if step.is_claim)
    starts = Counter(line["job"] for line in facts.history.starts)
    for job, rows in facts.final.items():
        if rows[0]["task"] in EXACT:
            continue
        if rows[0]["state"] == "succeeded" and not (finished[job] and written[job]):
            yield Violation("S9", f"job {job} succeeded with {finished[job]} full runs and {written[job]} effects")
    for job, count in starts.items():
        if count > claims[job]:
            yield Violation("S9", f"job {job} started {count} times and was claimed {claims[job]} times")


def exactly_once(facts: Facts) -> Iterator[Violation]:
    """S9 in full, for effects written in ctx.transaction(): one for each job that succeeded, none for any other."""
    written = Counter(effect["job_id"] for effect in facts.history.exact)
    for job, rows in facts.final.items():
        wanted = int(rows[0]["task"] in EXACT and rows[0]["state"] == "succeeded")
        if written[job] != wanted:
            yield Violation(
                "S9", f"job {job} ({rows[0]['task']}, {rows[0]['state']}) has its effect {written[job]} times"
            )
    for job in written.keys() - facts.final.keys():
        yield Violation("S9", f"job {job} has an effect and is nowhere")


def cancelled(facts: Facts) -> Iterator[Violation]:
    """S7: a job whose cancellation was acknowledged ended cancelled, and was not claimed afterwards; an expired job
    did not start."""
    for job, rows in facts.final.items():
        if rows[0].get("reason") == "expired" and rows[0]["attempt"]:
            yield Violation("S7", f"job {job} expired after {rows[0]['attempt']} attempts")
    for job, told in facts.history.cancels.items():
        state = facts.final[job][0]["state"] if job in facts.final else "nowhere"
        if told == "waiting" and state != "cancelled" and job not in facts.history.retried:
            yield Violation("S7", f"job {job} was cancelled while it waited, and is {state}")
        if told == "running" and state not in TERMINAL and facts.history.quiescent:
            yield Violation("L4", f"job {job} was asked to stop, and is {state}")


def dead_letters(facts: Facts) -> Iterator[Violation]:
    """S12: each final failure is one dead letter with its error; a crash says so."""
    dead_lettered = Counter(step.job for step in facts.all_steps if step.edge[1] == "failed")
    dead_lettered.subtract(step.job for step in facts.all_steps if step.edge[0] == "failed")
    for row in facts.history.final:
        if row["table"] != DEAD:
            continue
        step = facts.steps[row["id"]][-1] if facts.steps.get(row["id"]) else None
        if not row["error"] or not row["reason"]:
            yield Violation("S12", f"dead letter {row['id']} has no error or reason")
        if step is not None and step.is_rescue != (row["reason"] == "crashed"):
            yield Violation("S12", f"dead letter {row['id']}: reason {row['reason']}, rescued {step.is_rescue}")
        dead_lettered[row["id"]] -= 1
    for job, count in dead_lettered.items():
        if count != 0 and len(facts.final.get(job, [])) == 1 and facts.final[job][0]["table"] != DEAD:
            yield Violation("S12", f"job {job} failed for good {count} times and is no dead letter")


def schedules(facts: Facts) -> Iterator[Violation]:
    """S16: each tick of the one-second schedule is there, fires at most once, and never before its time."""
    jobs: dict[tuple[str, datetime], list[int]] = defaultdict(list)
    for job, row in facts.created.items():
        if "schedule" in row["headers"]:
            jobs[row["headers"]["schedule"], moment(row["headers"]["tick"])].append(job)
    fired = {(f["schedule"], f["tick"]): f["job_id"] for f in facts.history.fires if f["outcome"] == "fired"}
    for key, ids in jobs.items():
        if len(ids) > 1:
            yield Violation("S16", f"tick {key} became {len(ids)} jobs: {ids}")
        if fired.get(key) not in ids:
            yield Violation("S16", f"tick {key}: job {ids}, recorded {fired.get(key)}")
    for key in fired.keys() - jobs.keys():
        yield Violation("S16", f"tick {key} fired and has no job")
    ticks: dict[str, list[datetime]] = defaultdict(list)
    for fire in facts.history.fires:
        if fire["tick"] > fire["at"]:
            yield Violation("S16", f"tick {fire['tick']} was recorded early, at {fire['at']}")
        ticks[fire["schedule"]].append(fire["tick"])
    for name, moments in ticks.items():
        for before, after in pairwise(moments):
            if after - before != timedelta(seconds=1):
                yield Violation("S16", f"schedule {name}: {before} is followed by {after}")


def payloads(facts: Facts) -> Iterator[Violation]:
    """S19: a job reads the arguments that were enqueued."""
    sent = {
        job: fingerprint
        for operation in facts.history.operations.values()
        if operation.outcome != "fail"  # whose ids others may have; no_ghosts looks for runs of its jobs
        for job, fingerprint in zip(operation.ids, operation.digests, strict=False)
    }
    for line in facts.history.starts:
        if sent.get(line["job"], line["digest"]) != line["digest"]:
            yield Violation("S19", f"job {line['job']} read other arguments than were enqueued")


def totality(facts: Facts) -> Iterator[Violation]:
    """S20, S24: everything a task raises or returns is written as it is; a bad row holds up no other."""
    sent = {
        job: task
        for operation in facts.history.operations.values()
        for job, task in zip(operation.ids, operation.tasks, strict=False)
    }
    for job, rows in facts.final.items():
        row = rows[0]
        if row["state"] not in (*TERMINAL, "blocked"):
            continue  # a violation of L4
        spent = row["state"] == "failed" and row["attempt"] >= row["max_attempts"]
        task = sent.get(job, row["task"])
        known = (ENDS | METERED_ENDS).get(task, set()) | ({"failed"} if sent.get(job) is None else set())
        if job in facts.history.cancels:
            known = known | {"cancelled"}
        if row["state"] not in known and not spent:
            yield Violation("S20", f"job {job} ({task}) ended {row['state']}, reason {row.get('reason')!r}")
        if task == "bad_arguments" and row["state"] == "failed" and row["attempt"] != 1 and not row["crash_count"]:
            yield Violation("S24", f"job {job}: arguments that never fit took {row['attempt']} attempts")


def hygiene(facts: Facts) -> Iterator[Violation]:
    """S22: when all processes have ended, nothing of them is left."""
    for what, count in facts.history.hygiene.items():
        if count:
            yield Violation("S22", f"{count} {what} left")


def liveness(facts: Facts) -> Iterator[Violation]:
    """L1, L4, L5, L7, L8: all that had to happen after the faults did, in time; no process died by itself."""
    for probe in facts.history.probes:
        if not probe.kept:
            took = "never" if probe.seconds is None else f"{probe.seconds:.1f} s"
            yield Violation(probe.number, f"{probe.what}: {took}, bound {probe.bound:g} s")
    for end in facts.history.exits:
        if not end.planned:
            yield Violation("L7", f"{end.kind} {end.name} ended by itself with {end.code}:\n{end.tail}")
        elif end.planned == "F3" and end.code != 0:
            yield Violation("L5", f"{end.kind} {end.name} got SIGTERM and ended with {end.code}")


CHECKS: tuple[Check, ...] = (
    nothing_lost, no_ghosts, visible, effects, exactly_once, cancelled, dead_letters, schedules, payloads, totality,
    hygiene, liveness,
)  # fmt: skip

"""Groups: members that end side by side, one a statement; groups one after the other; a large one that is streamed."""

import time

from pgqueue.workflows.graph import Edge, Graph, Group

from . import track
from .database import BenchDatabase
from .drain import filled
from .flow import rates
from .results import Record
from .session import BenchSession
from .turns import compared_rates
from .workflows import insert, jobs

CONNECTIONS = 16
MEMBERS = 1000


def grouped(database: BenchDatabase, n: int, *, first: int = 0) -> None:
    """Insert a group of `n` jobs, of which the last one is its callback."""
    insert(database, Graph(jobs(n, first=first), [0] * (n - 1) + [None], [Edge(-1, n - 1)], [Group("group")]))


def fan_in(session: BenchSession, n: int) -> Record:
    """End members of one group by sixteen processes, one a statement, in turn with plain jobs."""
    each = n // CONNECTIONS
    made: dict[bool, list[float]] = {False: [], True: []}
    for on in (False, True, True, False):
        database = session.fresh()
        if on:
            grouped(database, n + 1)
            database.settle()
        else:
            filled(session, database, "noop", n)
        with session.producing(*[["ends", each]] * CONNECTIONS) as enders, session.timed():
            for ender in enders:
                ender.go()
            answers = [ender.answer() for ender in enders]
        taken = max(a["ended"] for a in answers) - min(a["began"] for a in answers)
        made[on].append(each * CONNECTIONS / taken)
    finished = database.finished()
    return {"jobs": n, "ok": finished == each * CONNECTIONS} | compared_rates(made)


def streamed(session: BenchSession, n: int) -> Record:
    """Stream the members of one batch into the database, the commit included."""
    database = session.fresh()
    with session.timed():
        taken = session.produce("stream", n)["seconds"]
    counted = int(database.value("select sum(members) from pgqueue.gate"))
    return {"jobs": n, "seconds": round(taken, 2), "jobs_s": round(n / taken, 1), "ok": counted == n}


def pinned(session: BenchSession, n: int) -> Record:
    """Run groups of a thousand and their callbacks, one after the other, while a snapshot pins all dead rows; compare
    the last tenth and the first."""
    database = session.fresh()
    groups, size = max(10, n // MEMBERS), MEMBERS + 1
    with session.timed(), database.vacuumed(5.0), database.pinned("reader"), session.working(session.options()):
        time.sleep(min(2.0, session.settings.warm))
        for number in range(groups):
            grouped(database, size, first=number * size)
            end = time.time() + 10
            while track.count(session.track) < (number + 1) * size and time.time() < end:
                time.sleep(0.001)
        time.sleep(0.5)
    record = rates(track.read(session.track))
    succeeded = int(database.value("select count(*) from pgqueue.workflow where state = 'succeeded'"))
    ok = record["bodies"] == record["distinct"] == groups * size and succeeded == groups
    return record | {"jobs": groups * size, "groups": groups, "ok": ok}

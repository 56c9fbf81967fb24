"""Whether the rate holds while jobs flow: a producer keeps some thousands waiting, a worker runs them.

Each job leaves dead rows. VACUUM removes them, unless an open transaction keeps it from doing so.
"""

import time
from collections import Counter

from . import track
from .results import Record
from .session import BenchSession
from .track import BodyStart

BACKLOG = 3000
LATE_SECONDS = 8.0


def flow(session: BenchSession, n: int, *, pin: str | None = None, vacuum: float | None = None) -> Record:
    """Run up to `n` jobs or 50 s; compare the rates of the first and the last tenth."""
    seconds = session.settings.seconds or 50.0
    database = session.fresh()
    with session.timed(), database.pinned(pin):
        database.conn.execute("select pg_stat_reset()")
        with session.working(session.options()), database.vacuumed(vacuum):
            time.sleep(min(2.0, session.settings.warm))
            sent = session.produce("flow", n, BACKLOG, seconds)["sent"]
            track.wait_for(session.track, sent, LATE_SECONDS)
            time.sleep(0.5)
        dead = database.dead_rows()
    record = rates(track.read(session.track))
    ok = record["bodies"] == record["distinct"] == sent
    return record | {"jobs": n, "sent": sent, "dead_rows": dead, "vacuum_every_s": vacuum, "pin": pin, "ok": ok}


def rates(records: list[BodyStart]) -> Record:
    """Return the rate over time: overall, in each second, in the first and the last tenth."""
    tenth = max(1, len(records) // 10)
    if len(records) < 2:
        raise RuntimeError("fewer than two jobs ran")
    first = tenth / (records[tenth].at - records[0].at)
    last = tenth / (records[-1].at - records[-1 - tenth].at)
    elapsed = records[-1].at - records[0].at
    per_second = Counter(int(record.at - records[0].at) for record in records)
    return {
        "bodies": len(records), "distinct": len({record.i for record in records}), "seconds": round(elapsed, 2),
        "jobs_s": round(len(records) / elapsed, 1), "first_s": round(first, 1), "last_s": round(last, 1),
        "ratio": round(last / first, 3), "per_second": [per_second[s] for s in range(int(elapsed))],
    }  # fmt: skip

"""Whether the rate holds while jobs flow: a producer keeps some thousands waiting, a worker does them.

Each job leaves dead rows. What removes them is VACUUM, and what keeps it from doing so is somebody's open transaction.
"""

import time
from collections import Counter

from . import track
from .session import Record, Session
from .track import Ran

BACKLOG = 3000
LATE_SECONDS = 8.0


def flow(session: Session, n: int, *, pin: str | None = None, vacuum: float | None = None) -> Record:
    """Up to `n` jobs or 50 s; compares the rates of the first and the last tenth."""
    seconds = session.settings.seconds or 50.0
    database = session.fresh()
    with session.timed(), database.pinned(pin):
        database.conn.execute("select pg_stat_reset()")
        with session.working(session.options()), database.vacuumed(vacuum):
            time.sleep(min(2.0, session.settings.warm))
            sent = session.produce("flow", n, BACKLOG, seconds)["sent"]
            _until_all_began(session, sent)
            time.sleep(0.5)
        dead = database.dead_rows()
    record = rates(track.read(session.track))
    ok = record["bodies"] == record["distinct"] == sent
    return record | {"jobs": n, "sent": sent, "dead_rows": dead, "vacuum_every_s": vacuum, "pin": pin, "ok": ok}


def _until_all_began(session: Session, sent: int) -> None:
    end = time.time() + LATE_SECONDS
    while track.count(session.track) < sent and time.time() < end:
        time.sleep(0.02)


def rates(records: list[Ran]) -> Record:
    """What the records say about the rate over time."""
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

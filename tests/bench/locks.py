"""Named locks: what it costs to take and release one that is free."""

from .results import Record
from .session import BenchSession

BY_HAND = (
    "create table public.lock_by_hand (key text primary key, owner uuid not null, expires_at timestamptz not null)"
)


def free(session: BenchSession, n: int) -> Record:
    """Take and release `n` free locks one after the other, and as many rows by hand in turn. `ratio`: the cost of both
    compared. By hand there is no token, no renewal, and nobody who waits."""
    database = session.fresh()
    database.conn.execute(BY_HAND)
    with session.timed():
        database.settle()
        answer = session.produce("locks", n)
    left = database.value("select (select count(*) from pgqueue.named_lock) + (select count(*) from lock_by_hand)")
    return {
        "jobs": n,
        "ratio": round(answer["locked"] / answer["hand"], 3),
        "locks_s": round(n / answer["locked"], 1),
        "hand_s": round(n / answer["hand"], 1),
        "lock_us": round(answer["locked"] / n * 1e6, 1),
        "hand_us": round(answer["hand"] / n * 1e6, 1),
        "ok": left == 0 and database.value("select last_value from pgqueue.lock_token") == n,
    }

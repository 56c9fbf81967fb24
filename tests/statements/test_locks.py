"""Named locks as statements: who gets one under races, and what a holder that is late can still do."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from pgqueue import db
from pgqueue.queries.locks import Look, Renewal, Wanted
from tests.conftest import DEADLINE, scalar
from tests.harness import QUERIES, Conn, InThread, wait_blocked
from tests.statements.test_explain import buffers, explain

Connect = Callable[..., psycopg.Connection[Any]]
A, B = UUID(int=1), UUID(int=2)


def take(conn: Conn, owner: UUID, key: str = "k", *, waits: bool = False, sweeps: bool = False) -> Look:
    wanted = Wanted(key, owner, 60.0, f"holder {owner.int}", None, waits=waits, sweeps=sweeps)
    return db.run(conn, QUERIES.locks.acquire(wanted))


def give_back(conn: Conn, owner: UUID, key: str = "k") -> bool:
    return db.run(conn, QUERIES.locks.release(key, owner))


def expire(conn: Conn, key: str = "k", hours: float = 0) -> None:
    conn.execute(
        "update pgqueue.named_lock set expires_at = now() - make_interval(secs => %s) where key = %s",
        (1 + 3600 * hours, key),
    )


@pytest.fixture
def other(connect: Connect) -> Conn:
    """A second connection, in autocommit."""
    conn = connect()
    conn.autocommit = True
    return conn


def test_a_lock_that_is_held_is_refused_and_the_refusal_names_the_holder(conn: Conn, other: Conn) -> None:
    token = take(conn, A).token
    look = take(other, B)
    assert token is not None
    assert look.held is not None
    assert (look.token, look.held.holder, look.held.token) == (None, "holder 1", token)
    assert 59 < look.seconds <= 60


def test_of_two_takers_at_once_one_waits_and_then_asks_again(conn: Conn, connect: Connect, other: Conn) -> None:
    first = connect()
    assert take(first, A).token is not None
    second = InThread(lambda: take(other, B))
    wait_blocked(conn, other, first)
    first.commit()
    assert second.result() == Look(None, None, 0.0, False)
    assert take(other, B).held is not None


def test_a_taker_that_waited_for_one_that_rolled_back_gets_the_lock(conn: Conn, connect: Connect, other: Conn) -> None:
    first = connect()
    assert take(first, A).token is not None
    second = InThread(lambda: take(other, B))
    wait_blocked(conn, other, first)
    first.rollback()
    assert second.result().token is not None


def test_of_two_takers_of_an_expired_lock_one_gets_it(conn: Conn, connect: Connect, other: Conn) -> None:
    take(conn, UUID(int=9))
    expire(conn)
    first = connect()
    assert take(first, A).token is not None
    second = InThread(lambda: take(other, B))
    wait_blocked(conn, other, first)
    first.commit()
    assert second.result().token is None
    assert scalar(conn, "select owner from pgqueue.named_lock") == A


def test_the_naive_deletion_would_free_the_next_holders_lock_and_this_one_does_not(conn: Conn) -> None:
    take(conn, A)
    expire(conn)
    assert take(conn, B).token is not None
    assert not give_back(conn, A)
    assert db.run(conn, QUERIES.locks.renew([(A, "k", 60.0)])) == {A: Renewal(False, False)}
    assert scalar(conn, "select owner from pgqueue.named_lock") == B
    assert give_back(conn, B)


def test_a_token_is_greater_than_all_before_it_also_after_a_release_and_for_another_key(conn: Conn) -> None:
    tokens = []
    for key in ("k", "k", "l", "k"):
        tokens.append(take(conn, A, key).token)
        give_back(conn, A, key)
    assert scalar(conn, "select count(*) from pgqueue.named_lock") == 0
    tokens.append(take(conn, A).token)
    expire(conn)
    tokens.append(take(conn, B).token)
    assert None not in tokens
    assert tokens == sorted(set(tokens))  # type: ignore[type-var]


SLOW = """
create function public.slowly() returns trigger language plpgsql as $$
begin
    if new.owner = '00000000-0000-0000-0000-000000000002' then perform pg_advisory_xact_lock(42); end if;
    return new;
end $$;
create trigger slowly before insert on pgqueue.named_lock for each row execute function public.slowly();
"""


def test_a_taker_that_is_slow_has_no_lower_token_than_one_who_came_later(
    conn: Conn, connect: Connect, other: Conn
) -> None:
    """The trigger holds the slow one up when its token is drawn and the key not yet looked for."""
    conn.execute(SLOW)
    gate = connect()
    gate.execute("select pg_advisory_xact_lock(42)")
    slow = InThread(lambda: take(other, B))
    wait_blocked(conn, other, gate)
    quick_conn = connect(autocommit=True)
    quick = InThread(lambda: take(quick_conn, A))
    wait_blocked(conn, quick_conn, other)  # without its turn it would take and release the lock here, with a token of 2
    gate.rollback()
    first = slow.result().token
    assert quick.result().token is None
    give_back(conn, B)
    assert take(conn, A).token > first


def test_the_owner_takes_its_lock_again_as_after_an_answer_that_was_lost(conn: Conn) -> None:
    before = take(conn, A).token
    again = take(conn, A)
    assert again.token is not None
    assert before is not None
    assert again.token > before
    assert give_back(conn, A)


def test_a_look_at_a_held_lock_waits_for_nobody_and_writes_nothing(conn: Conn, connect: Connect, other: Conn) -> None:
    take(conn, A)
    keeper = connect()
    keeper.execute("select from pgqueue.named_lock for update")
    before = scalar(conn, "select xmin::text || ctid::text from pgqueue.named_lock")
    look = InThread(lambda: take(other, B))
    assert look.result().held is not None
    keeper.rollback()
    assert scalar(conn, "select xmin::text || ctid::text from pgqueue.named_lock") == before


def heard(listener: Conn, conn: Conn) -> list[str]:
    """Return the keys of which a listener has heard until now."""
    conn.execute("select pg_catalog.pg_notify('pgqueue.locks', 'the end')")
    keys: list[str] = []
    for notification in listener.notifies(timeout=DEADLINE):
        if notification.payload == "the end":
            return keys
        keys.append(notification.payload)
    raise AssertionError("the notification that ends the wait did not come")


def test_a_release_notifies_only_if_somebody_waits(conn: Conn, other: Conn) -> None:
    db.run(other, QUERIES.locks.listen())
    take(conn, A)
    take(conn, B)
    give_back(conn, A)
    take(conn, A)
    assert take(conn, B, waits=True).noted
    assert take(conn, B, waits=True).noted  # as it is noted already
    give_back(conn, A)
    take(conn, A)
    assert scalar(conn, "select waited_until = '-infinity' from pgqueue.named_lock")
    take(conn, B, waits=True)
    assert db.run(conn, QUERIES.locks.break_("k", None)).waited_for
    assert heard(other, conn) == ["k", "k"]


def test_a_waiter_that_meets_a_release_under_way_does_not_wait_for_it(
    conn: Conn, connect: Connect, other: Conn
) -> None:
    """It is told that nothing is noted, so that it does not rely on being notified."""
    take(conn, A)
    releasing = connect()
    assert give_back(releasing, A)
    look = InThread(lambda: take(other, B, waits=True)).result()
    assert (look.token, look.noted) == (None, False)
    releasing.commit()
    assert take(other, B, waits=True).token is not None


def test_a_renewal_lengthens_and_a_row_that_is_locked_holds_up_no_other(conn: Conn, connect: Connect) -> None:
    for owner, key in ((A, "k"), (B, "l")):
        take(conn, owner, key)
    keeper = connect()
    keeper.execute("select from pgqueue.named_lock where key = 'k' for update")
    lost = uuid4()
    renewed = InThread(
        lambda: db.run(conn, QUERIES.locks.renew([(A, "k", 600.0), (B, "l", 600.0), (lost, "l", 600.0)]))
    ).result()
    assert renewed == {A: Renewal(False, True), B: Renewal(True, True), lost: Renewal(False, False)}
    keeper.rollback()
    longer = "select array_agg(key) from pgqueue.named_lock where expires_at > now() + interval '9 minutes'"
    assert scalar(conn, longer) == ["l"]


def test_a_lock_that_has_expired_and_that_nobody_took_lives_on_when_it_is_renewed(conn: Conn) -> None:
    take(conn, A)
    expire(conn)
    assert db.run(conn, QUERIES.locks.renew([(A, "k", 60.0)])) == {A: Renewal(True, True)}
    assert take(conn, B).token is None


def test_locks_that_dead_holders_left_behind_go_an_hour_after_they_expired(conn: Conn) -> None:
    for key in ("fresh", "late", "old", "older"):
        take(conn, A, key)
    for key, hours in (("late", 0.5), ("old", 1.5), ("older", 48)):
        expire(conn, key, hours)
    take(conn, B, "other")
    assert scalar(conn, "select count(*) from pgqueue.named_lock") == 5
    take(conn, B, "another", sweeps=True)
    keys = "select array_agg(key order by key) from pgqueue.named_lock"
    assert scalar(conn, keys) == ["another", "fresh", "late", "other"]
    expire(conn, "late", 3)
    assert take(conn, B, "late", sweeps=True).token is not None  # taken over, and not swept


def test_a_sweep_waits_for_no_row_and_deadlocks_with_no_other(conn: Conn, connect: Connect, other: Conn) -> None:
    for key in ("k", "l"):
        take(conn, A, key)
        expire(conn, key, 2)
    first = connect()
    assert take(first, A, "k").token is not None  # holds the row of k
    assert InThread(lambda: take(other, B, "l", sweeps=True)).result().token is not None  # would sweep k
    first.commit()


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
def test_taking_renewing_and_giving_back_read_a_few_pages_of_many_locks(conn: Conn, generic: bool, held: bool) -> None:
    conn.execute(
        "insert into pgqueue.named_lock (key, owner, token, holder, expires_at)"
        " select 'k' || i, %s, i, 'h', now() + interval '1 h' from generate_series(1, 20000) as i",
        (A,),
    )
    conn.execute("analyze pgqueue.named_lock")
    key = "k500" if held else "new"
    queries = (
        QUERIES.locks.acquire(Wanted(key, B, 60.0, "h", None, waits=True, sweeps=False)),
        QUERIES.locks.renew([(A, "k600", 60.0), (A, key, 60.0)]),
        QUERIES.locks.release(key, A),
    )
    for query in queries:
        with conn.transaction(force_rollback=True):
            assert buffers(explain(conn, query, generic=generic)) < 60
        conn.execute("deallocate all")

"""Readings that pages share: one at a time, and nobody waits long while there is one that is not old."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from pgqueue import App
from pgqueue.dashboard import readings
from pgqueue.dashboard.charts import SPANS
from pgqueue.dashboard.examinations import Examinations
from pgqueue.dashboard.look import Look
from pgqueue.dashboard.readings import (
    AT_ONCE,
    MOST,
    MOST_WAITING,
    PATIENCE,
    Patience,
    Reader,
    Readers,
    Reading,
    ReadingThreads,
    Unread,
)
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.scene import Shop
from tests.harness import wait_for

FRESH, OLD = 2.0, 10.0


class Source:
    """A database whose answers a test holds back; it counts how often it was asked."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0
        self.error: Exception | None = None
        self.takes = 0.0
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()

    def read(self) -> int:
        self.asked += 1
        answer, error = self.asked, self.error
        self.begun.release()
        assert self.open.wait(30)
        self.now += self.takes
        if error is not None:
            raise error
        return answer

    def clock(self) -> float:
        return self.now


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    yield made
    made.open.set()


@pytest.fixture
def reader(source: Source) -> Reader[int]:
    return Reader(source.read, FRESH, OLD, source.clock)


def test_a_reading_serves_everybody_while_it_is_fresh(source: Source, reader: Reader[int]) -> None:
    assert [reader.now(), reader.now()] == [1, 1]
    source.now += FRESH - 0.01
    assert reader.now() == 1
    assert source.asked == 1
    source.now += 0.01
    reader.now()
    assert [source.begun.acquire(timeout=30) for _ in range(2)] == [True, True]


def test_while_a_new_one_is_read_there_is_the_last_one(source: Source, reader: Reader[int]) -> None:
    reader.now()
    source.now += FRESH
    source.open.clear()
    assert [reader.now(), reader.now(), reader.now()] == [1, 1, 1]
    assert [source.begun.acquire(timeout=30) for _ in range(2)] == [True, True]
    source.now += OLD
    came: list[int] = []
    coming, waits = reader._look()[1], threading.Event()
    result = coming.result
    coming.result = lambda timeout=None: (waits.set(), result(timeout))[1]  # type: ignore[func-returns-value,method-assign]
    waiting = threading.Thread(target=lambda: came.append(reader.now()))
    waiting.start()
    assert waits.wait(30)  # the last one is too old: this one waits
    assert came == []
    source.open.set()
    waiting.join(30)
    assert came == [2]
    assert source.asked == 2  # and not thrice


def test_whoever_has_waited_too_long_reads_alone(
    source: Source, reader: Reader[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "LONGEST", 0.0)
    reader._look()  # somebody is to read, and never does
    assert reader.now() == 1


def child_says(question: Callable[[], bool]) -> int:
    """Return how a forked child ends: with 0 if the answer is yes. It ends by a signal if it hangs."""
    if (child := os.fork()) == 0:
        signal.alarm(20)
        try:
            os._exit(0 if question() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_while_something_is_read_reads_itself(source: Source) -> None:
    readers = Readers()
    source.open.clear()
    reader = readers.of("it", lambda: Reader(source.read, FRESH, OLD, source.clock))
    others = [Reader(source.read, FRESH, OLD, source.clock, threads=readers.threads) for _ in range(AT_ONCE)]
    for each in (reader, *others):
        each.soon()
        assert source.begun.acquire(timeout=30)

    def read_both() -> bool:
        source.open = threading.Event()
        source.open.set()
        mine = readers.of("it", lambda: reader).now()
        beside = readers.of("other", lambda: Reader(source.read, FRESH, OLD, threads=readers.threads))
        while not isinstance(beside.soon(), Reading):  # a thread of this process reads it
            pass
        return mine == AT_ONCE + 2

    with reader._lock, readers._lock, readers.threads._lock:
        assert child_says(read_both) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_during_an_examination_examines_itself(shop: Shop) -> None:
    examinations = Examinations(shop.app, ReadingThreads())
    with examinations._exact._lock:
        assert child_says(lambda: examinations.report()[1] >= 0) == 0


def test_what_took_long_is_not_waited_for_at_all(source: Source, reader: Reader[int]) -> None:
    source.takes = 2 * PATIENCE
    reader.now()
    source.now += FRESH
    source.open.clear()
    coming = reader._look()[1]
    coming.result = lambda timeout: pytest.fail("it waits") if timeout else (_ for _ in ()).throw(TimeoutError)  # type: ignore[method-assign]
    assert reader.now() == 1


def test_what_a_page_can_do_without_comes_later(source: Source, reader: Reader[int]) -> None:
    source.open.clear()
    assert reader.soon() is None
    assert source.begun.acquire(timeout=30)
    coming = reader._look()[1]
    source.open.set()
    assert coming.result(30).value == 1
    found = reader.soon()
    assert found is not None
    assert found.value == 1
    assert source.asked == 1


def test_a_failure_is_told_and_nothing_old_is_shown_after_it(source: Source, reader: Reader[int]) -> None:
    reader.now()
    source.now += FRESH
    source.error = OSError("gone")
    source.open.clear()
    assert reader.now() == 1
    coming = reader._look()[1]
    source.open.set()
    assert isinstance(coming.exception(30), OSError)
    with pytest.raises(OSError, match="gone"):
        reader.now()
    source.error = None
    assert reader.now() == 4


def test_what_failed_is_logged_and_not_tried_anew_for_a_while(
    source: Source, reader: Reader[int], caplog: pytest.LogCaptureFixture
) -> None:
    source.error = OSError("gone")
    source.open.clear()
    assert reader.soon() is None
    coming = reader._look()[1]
    source.open.set()
    assert isinstance(coming.exception(30), OSError)
    with caplog.at_level(logging.WARNING, "pgqueue.dashboard"):
        assert reader.soon() == Unread("gone", 100.0)
    assert source.asked == 1
    assert [record.getMessage() for record in caplog.records] == ["a reading of the dashboard failed: gone"]
    source.error = None
    source.now += FRESH
    found = reader.soon()
    assert found is None or found == Reading(2, 102.0, 0.0)
    assert reader.now() == 2


def test_an_error_that_may_quote_a_job_is_not_quoted(source: Source, reader: Reader[int]) -> None:
    source.error = ValueError("card 4242")
    source.open.clear()
    assert reader.soon() is None
    coming = reader._look()[1]
    source.open.set()
    assert isinstance(coming.exception(30), ValueError)
    assert reader.soon() == Unread("ValueError", 100.0)


def test_a_page_has_one_patience_for_all_its_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, allowed = [100.0], list[float]()
    monkeypatch.setattr(readings, "monotonic", lambda: clock[0])

    def soon(seconds: float) -> None:
        allowed.append(seconds)
        clock[0] += 0.06

    patience = Patience()
    for at_most in (None, 0.05, None, None):
        patience.wait(soon, at_most)
    assert allowed == pytest.approx([PATIENCE, 0.05, PATIENCE - 0.12, 0.0])


def test_only_so_many_are_read_at_once(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "PATIENCE", 0.0)
    readers, many = Readers(), AT_ONCE + MOST_WAITING
    source.open.clear()

    def reader_of(number: int) -> Reader[int]:
        return readers.of(number, lambda: Reader(source.read, FRESH, OLD, source.clock, threads=readers.threads))

    before = threading.active_count()
    assert [reader_of(number).soon() for number in range(many + 5)] == [None] * (many + 5)
    assert [source.begun.acquire(timeout=30) for _ in range(AT_ONCE)] == [True] * AT_ONCE
    assert threading.active_count() - before == AT_ONCE
    source.open.set()
    assert [source.begun.acquire(timeout=30) for _ in range(MOST_WAITING)] == [True] * MOST_WAITING
    wait_for(lambda: threading.active_count() == before, "the end of the threads")
    assert source.asked == many
    assert reader_of(many).now() == many + 1  # too many waited: it is read when it is asked for again


def test_what_is_being_read_is_not_forgotten_for_others(source: Source) -> None:
    readers = Readers()
    source.open.clear()
    first = readers.of("first", lambda: Reader(source.read, FRESH, OLD, source.clock, threads=readers.threads))
    assert first.soon() is None
    for number in range(MOST):
        readers.of(number, lambda: Reader(source.read, FRESH, OLD))
    assert readers.of("first", lambda: pytest.fail("it would be read twice")) is first
    assert len(readers._readers) == MOST


def test_a_late_reading_does_not_open_a_closed_app(shop: Shop) -> None:
    app, readers = App(shop.app.backend.database.dsn), Readers()  # type: ignore[attr-defined]
    with app.backend.pools.connection():
        pass
    held, begun = threading.Event(), [threading.Event() for _ in range(AT_ONCE)]
    for each in begun:
        assert readers.threads.take(lambda each=each: (each.set(), held.wait(30)))  # type: ignore[misc]
        assert each.wait(30)
    look = Look(app, *[None] * 4, None, None, readers)  # type: ignore[arg-type,misc]
    assert look.activity(SPANS["7d"]).is_coming
    (reader,) = readers._readers.values()
    coming = reader._look()[1]
    app.close()
    held.set()
    assert "were closed" in str(coming.exception(30))
    assert app.backend.pools._pool is None
    assert look.activity(SPANS["7d"]).why == "the app's connections were closed"


def test_a_page_says_that_numbers_could_not_be_read(
    browse: Callable[..., Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk of the database is full")

    monkeypatch.setattr("pgqueue.dashboard.look._read", fail)
    browser = browse()
    browser.get("?span=7d")
    wait_for(lambda: "being read" not in browser.page("?span=7d"), "an answer")
    assert "These numbers could not be read: the disk of the database is full." in browser.page("?span=7d")


def test_what_was_begun_before_a_change_is_not_shown_after_it(source: Source, reader: Reader[int]) -> None:
    reader.now()
    source.now += FRESH
    source.open.clear()
    assert reader.now() == 1
    coming = reader._look()[1]
    reader.forget()
    source.open.set()
    assert coming.result(30).value == 2
    assert reader.now() == 3


def test_there_are_readers_of_so_many_things_and_those_asked_last_stay(source: Source) -> None:
    readers = Readers()
    first = readers.of("first", lambda: Reader(source.read, FRESH, OLD))
    for number in range(MOST - 1):
        readers.of(number, lambda: Reader(source.read, FRESH, OLD))
    assert readers.of("first", lambda: pytest.fail("it is there")) is first
    readers.of("one more", lambda: Reader(source.read, FRESH, OLD))
    assert readers.of("first", lambda: pytest.fail("it is there")) is first
    made: list[int] = []
    readers.of(0, lambda: made.append(1) or Reader(source.read, FRESH, OLD))  # type: ignore[func-returns-value]
    assert made == [1]

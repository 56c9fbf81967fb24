"""Readings that pages share: one at a time, and nobody waits long while there is one that is not old."""

import threading
from collections.abc import Iterator

import pytest

from pgqueue.dashboard.readings import MOST, PATIENCE, Reader, Readers

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
    assert source.asked == 2  # and not thrice
    source.now += OLD
    came: list[int] = []
    waiting = threading.Thread(target=lambda: came.append(reader.now()))
    waiting.start()
    assert came == []  # the last one is too old: this one waits
    source.open.set()
    waiting.join(30)
    assert came == [2]


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

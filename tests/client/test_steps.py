"""Steps: verbs that are written once and run sync or async."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgqueue import App, Client
from pgqueue.client.schedules import ScheduleClient
from pgqueue.client.steps import Ask, StepRunner, Steps, Transaction, Verb, all_or_nothing
from pgqueue.errors import InvalidPlan, UnsupportedConnection
from pgqueue.queries import Query
from pgqueue.queries.base import nothing
from tests.harness import Conn

NOWHERE = "postgresql://127.0.0.1:1/nowhere"
Run = Callable[[StepRunner, Steps[Any]], Any]


def value(sql: bytes) -> Query[Any]:
    return Query(sql, lambda rows: rows[0][0])


def insert(n: int) -> Query[None]:
    return Query(b"insert into public.kept values (%d)" % n, nothing)


async def perform(runner: StepRunner, steps: Steps[Any]) -> Any:
    """Run steps in an event loop, and close its pool."""
    try:
        return await runner.aperform(steps)
    finally:
        await runner._app.backend.pools.aclose()


RUNS: list[Run] = [StepRunner.perform, lambda runner, steps: asyncio.run(perform(runner, steps))]


@pytest.fixture(params=RUNS, ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run steps in one of the two colours."""
    chosen: Run = request.param
    return chosen


@pytest.fixture
def kept(conn: Conn) -> Callable[[], list[int]]:
    """What steps have committed."""
    conn.execute("drop table if exists public.kept")
    conn.execute("create table public.kept (n int)")
    return lambda: [n for (n,) in conn.execute("select n from public.kept order by n")]


def test_answers_come_back_and_the_result_is_returned(app: App, run: Run) -> None:
    def steps() -> Steps[int]:
        one: int = yield value(b"select 1")
        two: int = yield value(b"select %d" % (one + 1))
        return 10 * one + two

    assert run(StepRunner(app), steps()) == 12


def test_an_error_of_a_statement_can_be_handled_by_the_steps(app: App, run: Run) -> None:
    def steps() -> Steps[str]:
        try:
            yield value(b"select 1 / 0")
        except psycopg.errors.DivisionByZero:
            answer: str = yield value(b"select 'went on'")
            return answer
        return "no error"

    assert run(StepRunner(app), steps()) == "went on"


def test_an_error_that_the_steps_leave_alone_is_raised_as_it_is(app: App, run: Run) -> None:
    def steps() -> Steps[None]:
        yield value(b"select 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        run(StepRunner(app), steps())


def test_a_transaction_is_undone_by_an_error_and_the_steps_go_on(
    app: App, run: Run, kept: Callable[[], list[int]]
) -> None:
    def failing() -> Steps[None]:
        yield insert(1)
        raise ValueError

    def steps() -> Steps[bool]:
        try:
            yield Transaction(failing())
        except ValueError:
            yield insert(2)
        autocommits: bool = yield Ask.AUTOCOMMITS
        return autocommits

    assert run(StepRunner(app), steps()) is True
    assert kept() == [2]


def test_a_transaction_in_a_transaction_is_a_savepoint(app: App, run: Run, kept: Callable[[], list[int]]) -> None:
    def inner(n: int, *, fails: bool) -> Steps[None]:
        yield insert(n)
        if fails:
            raise ValueError

    def outer() -> Steps[bool]:
        yield Transaction(inner(1, fails=False))
        try:
            yield Transaction(inner(2, fails=True))
        except ValueError:
            yield insert(3)
        autocommits: bool = yield Ask.AUTOCOMMITS
        return autocommits

    def steps() -> Steps[bool]:
        autocommits: bool = yield Transaction(outer())
        return autocommits

    assert run(StepRunner(app), steps()) is False
    assert kept() == [1, 3]


def test_all_or_nothing_is_the_caller_s_transaction_where_there_is_one(
    app: App, dsn: str, kept: Callable[[], list[int]]
) -> None:
    @all_or_nothing
    def steps(*, fails: bool) -> Steps[None]:
        yield insert(1)
        if fails:
            raise ValueError

    with psycopg.connect(dsn) as borrowed:
        StepRunner(app, borrowed).perform(steps(fails=False))
        assert kept() == []
    assert kept() == [1]
    with psycopg.connect(dsn, autocommit=True) as borrowed, pytest.raises(ValueError):  # noqa: PT011  # of the steps
        StepRunner(app, borrowed).perform(steps(fails=True))
    assert kept() == [1]


def test_steps_that_ask_nothing_take_no_connection(run: Run) -> None:
    def steps() -> Steps[int]:
        return 3
        yield

    assert run(StepRunner(App(NOWHERE)), steps()) == 3


def test_what_a_verb_refuses_at_once_takes_no_connection() -> None:
    app = App(NOWHERE)
    with pytest.raises(InvalidPlan):
        app.schedules.create("s", "t", "not a plan")
    with pytest.raises(InvalidPlan):
        asyncio.run(app.schedules.acreate("s", "t", "not a plan"))


def test_a_variable_that_happens_to_be_none_is_no_connection() -> None:
    with pytest.raises(UnsupportedConnection, match=r"using\(None\)"):
        StepRunner(App(NOWHERE), None)


@pytest.mark.parametrize("client", [Client, ScheduleClient])
def test_each_verb_has_an_async_twin_with_its_signature(client: type[Any]) -> None:
    verbs = {name: verb for name, verb in vars(client).items() if isinstance(verb, Verb)}
    assert len(verbs) >= 2
    for name in verbs:
        sync, twin = getattr(client, name), getattr(client, f"a{name}")
        assert inspect.signature(sync) == inspect.signature(twin)
        assert inspect.signature(sync).return_annotation != inspect.signature(inspect.unwrap(sync)).return_annotation
        assert (sync.__doc__, sync.__name__, twin.__name__) == (twin.__doc__, name, f"a{name}")
        assert inspect.iscoroutinefunction(twin)
        assert not inspect.iscoroutinefunction(sync)

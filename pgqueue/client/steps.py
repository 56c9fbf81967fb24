"""Steps: what a client verb asks of a connection, written once, and the only code that runs it sync or async."""

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from inspect import signature
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, get_args, overload

from pgqueue import db
from pgqueue.client.app_parts import AppParts
from pgqueue.client.joining import connection_to_join
from pgqueue.client.waiting import WaitHandle
from pgqueue.errors import UnsupportedConnection
from pgqueue.queries import Query

P = ParamSpec("P")
T = TypeVar("T")


class Ask(Enum):
    """What steps may ask about their connection."""

    AUTOCOMMITS = "whether each statement commits by itself: autocommit is on and no transaction is open"


@dataclass(slots=True)
class Transaction(Generic[T]):
    """Steps that take effect together or not at all: in a transaction, or in a savepoint if one is open already."""

    steps: "Steps[T]"


Step: TypeAlias = Query[Any] | Transaction[Any] | Ask
# A generator: it yields a step, gets the answer or the error back, and returns the verb's result.
Steps: TypeAlias = Generator[Step, Any, T]


def all_or_nothing(function: Callable[P, Steps[T]]) -> Callable[P, Steps[T]]:
    """Make steps one unit: a transaction of their own if each statement would commit, else the caller's transaction."""

    @wraps(function)
    def unit(*args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        steps = function(*args, **kwargs)
        if (yield Ask.AUTOCOMMITS):
            result: T = yield Transaction(steps)
            return result
        return (yield from steps)

    return unit


def follow(conn: db.AnyConnection, steps: Steps[T], step: Step | None = None) -> T:
    """Run steps on a connection. `step` is the first one, if the generator has yielded it already."""
    try:
        step = next(steps) if step is None else step
        while True:
            try:
                answer = _answer(conn, step)
            except Exception as error:  # noqa: BLE001  # the steps handle it or raise it again
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def follow_async(conn: db.AnyAsyncConnection, steps: Steps[T], step: Step | None = None) -> T:
    """The async twin of `follow`."""
    try:
        step = next(steps) if step is None else step
        while True:
            try:
                answer = await _answer_async(conn, step)
            except Exception as error:  # noqa: BLE001  # the steps handle it or raise it again
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _answer(conn: db.AnyConnection, step: Step) -> Any:
    if isinstance(step, Query):
        return db.run(conn, step)
    if isinstance(step, Transaction):
        with conn.transaction():
            return follow(conn, step.steps)
    return db.autocommits(conn)


async def _answer_async(conn: db.AnyAsyncConnection, step: Step) -> Any:
    if isinstance(step, Query):
        return await db.run_async(conn, step)
    if isinstance(step, Transaction):
        async with conn.transaction():
            return await follow_async(conn, step.steps)
    return db.autocommits(conn)


class DefaultConnection(Enum):
    """What stands for a connection. None does not: a variable that happens to be None must not mean it."""

    CURRENT = "that of the ctx.transaction() block around the call, else one of pgqueue's own"
    OF_PGQUEUE = "a connection of pgqueue's own, which commits at once"


CURRENT_CONNECTION = DefaultConnection.CURRENT
OWN_CONNECTION = DefaultConnection.OF_PGQUEUE


class StepRunner:
    """Runs steps on the borrowed connection, in its transaction; without one, on an own connection of the app's.

    On the current connection it joins the block of `ctx.transaction()` in which it is called, if there is one.
    """

    def __init__(self, app: AppParts, conn: object = CURRENT_CONNECTION) -> None:
        if conn is None:
            raise UnsupportedConnection(
                "using(None): that is no connection. Leave it out for one of pgqueue's own, which commits at once"
            )
        self._app = app
        self._conn = conn
        self._handle = WaitHandle(app, committed=isinstance(conn, DefaultConnection))

    @property
    def handle(self) -> WaitHandle:
        """For jobs that come from here: it knows how to wait for them, and whether they are committed."""
        if self._conn is CURRENT_CONNECTION and connection_to_join(self._app) is not None:
            return WaitHandle(self._app, committed=False)
        return self._handle

    @property
    def is_unbound(self) -> bool:
        """Whether no connection was named."""
        return self._conn is CURRENT_CONNECTION

    @property
    def borrows(self) -> bool:
        """Whether the connection is a caller's, whose transaction it is."""
        return self._borrowed() is not None

    def run(self, query: Query[T]) -> T:
        """Run one statement."""
        conn = self._borrowed()
        if conn is None:
            return self._app.backend.pools.run(query)
        try:
            return db.run(db.borrow(conn), query)
        except BaseException as error:
            db.tell_django(conn, error)
            raise

    async def arun(self, query: Query[T]) -> T:
        """The async twin of `run`."""
        conn = self._borrowed()
        if conn is not None:
            return await db.run_async(await db.borrow_async(conn), query)
        async with self._app.backend.pools.async_connection() as own:
            return await db.run_async(own, query)

    def perform(self, steps: Steps[T]) -> T:
        """Run steps. Up to their first statement they need no connection: a refused call takes none."""
        try:
            first = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        conn = self._borrowed()
        if conn is not None:
            try:
                return follow(db.borrow(conn), steps, first)
            except BaseException as error:
                db.tell_django(conn, error)
                raise
        with self._app.backend.pools.connection() as own:
            return follow(own, steps, first)

    async def aperform(self, steps: Steps[T]) -> T:
        """The async twin of `perform`."""
        try:
            first = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        conn = self._borrowed()
        if conn is not None:
            return await follow_async(await db.borrow_async(conn), steps, first)
        async with self._app.backend.pools.async_connection() as own:
            return await follow_async(own, steps, first)

    def _borrowed(self) -> object | None:
        """Return the connection on which the steps run; None for an own one."""
        if not isinstance(self._conn, DefaultConnection):
            return self._conn
        return None if self._conn is OWN_CONNECTION else connection_to_join(self._app)


class HasRunner(Protocol):
    """A client: an object whose methods are verbs."""

    @property
    def _runner(self) -> StepRunner: ...


C = TypeVar("C", bound=HasRunner)


class AsyncVerb(Generic[C, P, T]):
    """The async form of a verb."""

    def __init__(self, steps: Callable[Concatenate[C, P], Steps[T]]) -> None:
        @wraps(steps)
        async def arun(client: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await client._runner.aperform(steps(client, *args, **kwargs))

        self._function = _returning_result(arun)

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._function.__name__, self._function.__qualname__ = name, f"{owner.__qualname__}.{name}"

    @overload
    def __get__(self, client: None, owner: type[Any]) -> Callable[Concatenate[C, P], Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: C, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: C | None, owner: type[Any]) -> Any:
        return self._function if client is None else MethodType(self._function, client)


class Verb(Generic[C, P, T]):
    """A method of a client that is written as steps and called as a plain one; `twin` is its async form."""

    def __init__(self, steps: Callable[Concatenate[C, P], Steps[T]]) -> None:
        @wraps(steps)
        def run(client: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return client._runner.perform(steps(client, *args, **kwargs))

        self._function = _returning_result(run)
        self.twin = AsyncVerb(steps)

    @overload
    def __get__(self, client: None, owner: type[Any]) -> Callable[Concatenate[C, P], T]: ...
    @overload
    def __get__(self, client: C, owner: type[Any]) -> Callable[P, T]: ...
    def __get__(self, client: C | None, owner: type[Any]) -> Any:
        return self._function if client is None else MethodType(self._function, client)


def verb(steps: Callable[Concatenate[C, P], Steps[T]]) -> Verb[C, P, T]:
    """Make a verb of a method that returns steps: `@verb` above `get`, and `aget = get.twin` below it."""
    return Verb(steps)


def _returning_result(function: Callable[..., Any]) -> Any:
    """Give a function that runs steps the signature that its callers see: it returns the result of the steps."""
    declared = signature(function)
    result = get_args(declared.return_annotation)[-1]  # of Steps[…], a Generator
    function.__signature__ = declared.replace(return_annotation=result)  # type: ignore[attr-defined]
    return function

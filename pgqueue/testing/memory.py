"""Steps of a task in a unit test, in memory: functions run, sleeps take no time, waits bring what the test gives."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import psycopg

from pgqueue import db
from pgqueue.codecs import Codec
from pgqueue.errors import ConfigError
from pgqueue.jobs.step import NewStep, RecordedStep
from pgqueue.tasks.added import Addable, AfterAdded
from pgqueue.tasks.journal import Call, Compensate, Load, Record, Request, Take
from pgqueue.tasks.step_calls import UndoCall
from pgqueue.tasks.storable import MAX_RESULT_BYTES


class StepsInMemory:
    """Keeps the steps of one call of a task. `sent`: what waits bring, by the name of the signal or event. `added`:
    where it keeps what the task adds to its workflow."""

    def __init__(self, conn: object, sent: Mapping[str, Any], added: list[Any]) -> None:
        self.version = 1
        self.task = "task"
        self.codec: Codec | None = None
        self.max_bytes = MAX_RESULT_BYTES
        self._conn = conn
        self._sent = sent
        self.in_database = False
        self._added = added
        self._recorded: dict[str, RecordedStep] = {}

    def ask(self, request: Request) -> Any:
        """Answer a request."""
        match request:
            case Load():
                return list(self._recorded.values())
            case Record(step) | Compensate(step):
                return self._record(step)
            case Take(name):
                return self._take(name)
            case Call(step, calls, many):
                return self._call(step, len(calls), many)

    async def aask(self, request: Request) -> Any:
        """The async twin of `ask`."""
        return self.ask(request)

    @contextmanager
    def transaction(self) -> Iterator[tuple["psycopg.Connection[Any]", Callable[[NewStep], RecordedStep]]]:
        """Give the test's connection in a transaction, or in a savepoint if it is in one."""
        conn = db.borrow_psycopg(self._given())
        with conn.transaction():
            yield conn, self._record

    @asynccontextmanager
    async def atransaction(
        self,
    ) -> AsyncIterator[tuple["psycopg.AsyncConnection[Any]", Callable[[NewStep], Awaitable[RecordedStep]]]]:
        """The async twin of `transaction`."""

        async def record(step: NewStep) -> RecordedStep:
            return self._record(step)

        conn = await db.borrow_async(self._given())
        if not isinstance(conn, psycopg.AsyncConnection):
            raise ConfigError("ctx.astep(transaction=True) gives a psycopg connection: give one, context(conn=…)")
        async with conn.transaction():
            yield conn, record

    def undo_text(self, call: UndoCall) -> str:
        """Return nothing of a call: nothing is undone in a unit test."""
        return "{}"

    def adding(
        self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None
    ) -> Callable[[], Mapping[str, Any]]:
        """Return a function that keeps what the task adds."""
        part.addition(after, name)

        def add() -> Mapping[str, Any]:
            self._added.append(part)
            number = len(self._added)
            return {"jobs": [number], "group": None, "value": [number], "list": False}

        return add

    def aadding(
        self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None
    ) -> Callable[[], Awaitable[Mapping[str, Any]]]:
        """The async twin of `adding`."""
        add = self.adding(part, after, name)

        async def aadd() -> Mapping[str, Any]:
            return add()

        return aadd

    def _record(self, step: NewStep) -> RecordedStep:
        left = None if step.waits is not None and step.seconds is None else 0.0
        number, done, undo = len(self._recorded), step.waits is None, step.undo is not None
        recorded = RecordedStep(step.name, step.kind, step.value, done, False, None, left, undo, step.version, number)
        return self._recorded.setdefault(step.name, recorded)

    def _take(self, name: str) -> RecordedStep:
        found = self._sent.get(name.partition("#")[0])
        value = None if found is None else json.dumps(found)
        self._recorded[name] = replace(self._recorded[name], done=True, timed_out=found is None, value=value)
        return self._recorded[name]

    def _call(self, step: NewStep, calls: int, many: bool) -> RecordedStep:
        """Record what the test gives as the result of a call, or as the list of those of several."""
        name = step.name.partition("#")[0]
        if name not in self._sent:
            raise ConfigError(f"step {name!r} calls a task: give its result, context(sent={{{name!r}: …}})")
        values = list(self._sent[name]) if many else [self._sent[name]]
        if many and len(values) != calls:
            raise ConfigError(f"step {name!r} makes {calls} calls, and the test gives {len(values)} results")
        items = [{"id": 0, "task": "", "state": "succeeded", "result": value} for value in values]
        text = json.dumps({"shape": [None] * calls if many else None, "items": items})
        return self._record(replace(step, value=text))

    def function_of(self, task: str) -> Callable[..., Any] | None:
        """Return nothing: what the test gives is returned as it is."""
        return None

    def _given(self) -> object:
        if self._conn is None:
            raise ConfigError("a step with transaction=True in a unit test: give the connection, context(conn=…)")
        return self._conn

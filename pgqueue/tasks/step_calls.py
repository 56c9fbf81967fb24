"""Durable steps as a task calls them, sync and async: each answers the requests of a journal by its host."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import psycopg

from pgqueue.codecs import Codec
from pgqueue.errors import ConfigError, InvalidStep
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.step import NewStep, RecordedStep
from pgqueue.tasks.added import Addable, AfterAdded
from pgqueue.tasks.calls import Returned
from pgqueue.tasks.in_flight import InFlight
from pgqueue.tasks.journal import AlreadyRecorded, Begun, Flow, Journal, Pause, Record, Request, Settle, inside_step
from pgqueue.tasks.sealing import open_value, seal_value
from pgqueue.tasks.step_values import decode_value, encode_value

T = TypeVar("T")


class UndoCall(Protocol):
    """A call of a task that undoes a step, such as `refund.s(order_id)`, and the job that it would be."""

    def job(self) -> NewJob: ...


class StepHost(Protocol):
    """Keeps the steps of one job, in the database or in memory. `version`: of the task."""

    version: int
    task: str
    codec: Codec | None
    max_bytes: int
    in_database: bool

    def ask(self, request: Request) -> Any: ...
    async def aask(self, request: Request) -> Any: ...
    def transaction(
        self,
    ) -> AbstractContextManager[tuple["psycopg.Connection[Any]", Callable[[NewStep], RecordedStep]]]: ...
    def atransaction(
        self,
    ) -> AbstractAsyncContextManager[
        tuple["psycopg.AsyncConnection[Any]", Callable[[NewStep], Awaitable[RecordedStep]]]
    ]: ...
    def undo_text(self, call: UndoCall) -> str: ...
    def adding(
        self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None
    ) -> Callable[..., Any]: ...
    def aadding(
        self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None
    ) -> Callable[..., Awaitable[Any]]: ...
    def function_of(self, task: str) -> Callable[..., Any] | None: ...


@dataclass(frozen=True, slots=True)
class Body:
    """The function of a step, with what it is called with, and how the step is recorded."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    transaction: bool
    undo: UndoCall | None


class StepCalls:
    """The steps of one attempt, as the task calls them. One for each attempt, whichever context it is called by."""

    def __init__(self, journal: Journal, host: StepHost) -> None:
        self.journal = journal
        self._host = host
        self._in_flight = InFlight()

    def step(self, name: str, body: Body) -> Any:
        """Return what is recorded of a step, or else call its function and record what it returns."""
        _refuse_loop("step")
        with self._in_flight.counted():
            begun = self._follow(self.journal.beginning(name, "value"))
            used = False
            try:
                if begun.recorded is not None:
                    value = self._opened(begun.recorded, body.function)
                else:
                    value = self._run(begun, body)
                used = True
            finally:
                self.journal.leave(begun.base, used=used)
        return value

    async def astep(self, name: str, body: Body) -> Any:
        """The async twin of `step`."""
        with self._in_flight.counted():
            begun = await self._afollow(self.journal.beginning(name, "value"))
            used = False
            try:
                if begun.recorded is not None:
                    value = self._opened(begun.recorded, body.function)
                else:
                    value = await self._arun(begun, body)
                used = True
            finally:
                self.journal.leave(begun.base, used=used)
        return value

    def adding(self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None) -> Body:
        """Return the step that adds to the workflow of the job."""
        return Body(self._host.adding(part, after, name), (), {}, self._host.in_database, None)

    def aadding(self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None) -> Body:
        """The async twin of `adding`."""
        return Body(self._host.aadding(part, after, name), (), {}, self._host.in_database, None)

    def perform(self, flow: Flow[T]) -> T:
        """Answer the requests of a flow."""
        _refuse_loop("sleep")
        with self._in_flight.counted():
            return self._follow(flow)

    async def aperform(self, flow: Flow[T]) -> T:
        """The async twin of `perform`."""
        with self._in_flight.counted():
            return await self._afollow(flow)

    def _follow(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                try:
                    answer = self._answer(request)
                except BaseException as error:  # noqa: BLE001 - the flow ends its use of the name, and raises it again
                    request = flow.throw(error)
                else:
                    request = flow.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _afollow(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                try:
                    answer = await self._aanswer(request)
                except BaseException as error:  # noqa: BLE001 - the flow ends its use of the name, and raises it again
                    request = flow.throw(error)
                else:
                    request = flow.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def received(self, step: RecordedStep) -> Any:
        """Return what a wait has brought, None after its timeout."""
        if step.timed_out:
            return None
        base = step.name.partition("#")[0]
        text = None if step.value is None else open_value(self._host.codec, step.kind, base, step.value)
        return decode_value(step.name, text, None, recorded=True)

    def returned(self, step: RecordedStep) -> Any:
        """Return what the calls of a step have returned. Raises CallFailed."""
        return Returned(self._host.codec, self._host.function_of).read(step)

    def _run(self, begun: Begun, body: Body) -> Any:
        if inspect.iscoroutinefunction(body.function):
            raise InvalidStep(f"step {begun.full!r} has an async function: await ctx.astep(…) in an async task")
        undo = self._undo_text(body)
        if not body.transaction:
            with _inside(begun.full):
                returned = body.function(*body.args, **body.kwargs)
            step, value = self._new(begun, body, undo, returned)
            return self._noted(self._host.ask(Record(step)), body, value)
        try:
            with self._host.transaction() as (conn, record):
                with _inside(begun.full):
                    returned = body.function(conn, *body.args, **body.kwargs)
                step, value = self._new(begun, body, undo, returned)
                recorded = record(step)
        except AlreadyRecorded as found:
            return self._noted(found.step, body, None)
        return self._noted(recorded, body, value)

    async def _arun(self, begun: Begun, body: Body) -> Any:
        undo = self._undo_text(body)
        if not body.transaction:
            with _inside(begun.full):
                returned = await _awaited(body.function(*body.args, **body.kwargs))
            step, value = self._new(begun, body, undo, returned)
            return self._noted(await self._host.aask(Record(step)), body, value)
        try:
            async with self._host.atransaction() as (conn, record):
                with _inside(begun.full):
                    returned = await _awaited(body.function(conn, *body.args, **body.kwargs))
                step, value = self._new(begun, body, undo, returned)
                recorded = await record(step)
        except AlreadyRecorded as found:
            return self._noted(found.step, body, None)
        return self._noted(recorded, body, value)

    def _noted(self, recorded: RecordedStep, body: Body, value: Any) -> Any:
        """Keep what is recorded; return its value: the one given, unless another was there before."""
        self.journal.note(recorded)
        return value if recorded.fresh else self._opened(recorded, body.function)

    def _new(self, begun: Begun, body: Body, undo: str | None, returned: object) -> tuple[NewStep, Any]:
        """Return the step to record, and the value as a replay will return it."""
        host = self._host
        text = encode_value(begun.full, returned, host.max_bytes)
        value = decode_value(begun.full, text, body.function, recorded=False)
        if text is not None and host.codec is not None:
            text = seal_value(host.codec, "step", host.task, text)
        return NewStep(begun.full, "value", text, undo=undo, version=host.version), value

    def _opened(self, step: RecordedStep, function: Callable[..., Any]) -> Any:
        host = self._host
        text = None if step.value is None else open_value(host.codec, "step", host.task, step.value)
        return decode_value(step.name, text, function, recorded=True)

    def _undo_text(self, body: Body) -> str | None:
        return None if body.undo is None else self._host.undo_text(body.undo)

    def _answer(self, request: Request) -> Any:
        match request:
            case Pause(seconds):
                return time.sleep(seconds)
            case Settle():
                return self._in_flight.settle()
            case _:
                return self._host.ask(request)

    async def _aanswer(self, request: Request) -> Any:
        match request:
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Settle():
                return await self._in_flight.asettle()
            case _:
                return await self._host.aask(request)


@contextmanager
def _inside(name: str) -> Iterator[None]:
    token = inside_step.set(name)
    try:
        yield
    finally:
        inside_step.reset(token)


async def _awaited(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned


def _refuse_loop(verb: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(f"ctx.{verb}() in an event loop would block it: await its twin, such as ctx.astep()")

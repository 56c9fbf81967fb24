"""Enqueueing from an app, or from a client of it: a task by its name, or a function without a decorator."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeAlias, overload

from pgqueue.client.inserting import JobInserter
from pgqueue.jobs.job import Job, NewJob
from pgqueue.tasks.context import Context

P = ParamSpec("P")
Insertion: TypeAlias = tuple[JobInserter, NewJob]


class EnqueueVerbs:
    """`enqueue` and its async twin. Alone they use an own connection, which commits at once, or join
    `ctx.transaction()`; behind `app.using(conn, …)` they use that connection and those options."""

    @overload
    def enqueue(self, /, task: str, args: Mapping[str, Any] | None = None) -> Job: ...
    @overload
    def enqueue(
        self, function: Callable[Concatenate[Context, P], object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job: ...
    @overload
    def enqueue(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Job: ...
    def enqueue(self, /, *given: Any, **named: Any) -> Job:
        """Enqueue a task by name, `app.enqueue("shop.ship", {"order": 1})`, or a function of a module that
        `App(functions_from=…)` allows, `app.enqueue(ship, order=1)`, with the app's defaults.

        A task registered here has its arguments validated; another name waits for a worker that knows it. Raises
        InvalidArguments, and InvalidTask for a function that no worker would find, before anything is written.
        """
        inserter, new = self._insertion(given, named)
        return inserter.insert(new)

    @overload
    async def aenqueue(self, /, task: str, args: Mapping[str, Any] | None = None) -> Job: ...
    @overload
    async def aenqueue(
        self, function: Callable[Concatenate[Context, P], object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job: ...
    @overload
    async def aenqueue(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Job: ...
    async def aenqueue(self, /, *given: Any, **named: Any) -> Job:
        """The async twin of `enqueue`."""
        inserter, new = self._insertion(given, named)
        return await inserter.ainsert(new)

    def _insertion(self, given: Sequence[Any], named: Mapping[str, Any]) -> Insertion:
        """Return the job of a call, and who inserts it."""
        raise NotImplementedError

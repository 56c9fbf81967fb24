"""Celery's canvas: signatures, chains, groups and chords, which become one workflow of pgqueue when they are
applied."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Self, cast

from pgqueue.celery.building import Call, signature_of
from pgqueue.celery.options import CallOptions, check_names
from pgqueue.celery.parts import Adapter, AdapterTask, current_adapter
from pgqueue.celery.placing import Counter, OwnGroup, run_canvas
from pgqueue.celery.result import AsyncResult, GroupResult
from pgqueue.client.canvas.canvas import Canvas, Chain, Group
from pgqueue.errors import InvalidOption, InvalidWorkflow


class Part:
    """A part of a canvas: a signature, a chain, a group or a chord. `set`, `clone` and the links return a new one."""

    def __init__(self, *, app: Adapter | None = None, options: Mapping[str, Any] | None = None) -> None:
        self._app = app
        self.options: dict[str, Any] = dict(options or {})
        self._links: tuple[tuple[str, Part], ...] = ()

    @property
    def app(self) -> Adapter:
        """The app of its tasks: that of the first one, or else the current one."""
        found: Adapter = (
            self._app or next((part._app for part in self._parts() if part._app), None) or current_adapter()
        )
        return found

    def __or__(self, other: Any) -> "Part":
        """Return a chain of this and what comes next; a group and what comes next are a chord."""
        if not isinstance(other, Part):
            return NotImplemented
        joined: Part = chain(self, other)
        return joined

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Return the same with options of a call: `queue`, `countdown`, `expires`, `priority`, …"""
        return self._set(immutable, options)

    def link(self, callback: "Part") -> Self:
        """Return the same with a callback, which gets the result as its first argument."""
        return self._linked("s", callback)

    def link_error(self, errback: "Part") -> Self:
        """Return the same with an errback: it gets `(request, exc, traceback)` if it takes three arguments, else the id
        of the job that has failed for good."""
        return self._linked("f", errback)

    on_error = link_error

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Enqueue it, all or none, in the transaction that the app is bound to; return the result of its last job, or
        of the group at its end. `args` go before those of the first task."""
        app, whole = self.app, self._begun(tuple(args or ()), kwargs or {}, options)
        if app.conf.task_always_eager:
            return whole._eager(())
        conn = app.connection_for({name: options[name] for name in ("using", "transactional") if name in options})
        jobs, workflow = run_canvas(whole._built(app, fed=False), conn)
        return whole._result(app, Counter(jobs), workflow)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Enqueue it; arguments go before those of its first task."""
        return self.apply_async(args, kwargs)

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now, without a job."""
        return self._begun(tuple(args or ()), kwargs or {}, options)._eager(())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs)

    def canvas(self) -> Canvas[Any, Any]:
        """Return it as a canvas of pgqueue, for `ctx.replace`, workflows and batches."""
        return self._built(self.app, fed=False)

    def _built(self, app: Adapter, *, fed: bool) -> Canvas[Any, Any]:
        """Return the canvas of pgqueue. `fed`: it takes the result of what comes before."""
        made = self._made(app, fed)
        for when, callback in self._links:
            if when == "s":
                made = made.on_success(callback._built(app, fed=True))
            else:
                made = made.on_error(callback._as_errback()._built(app, fed=True))
        return made

    def _result(self, app: Adapter, jobs: Counter, workflow: int | None) -> Any:
        found = self._own_result(app, jobs, workflow)
        for _, callback in self._links:  # placed behind it
            callback._result(app, jobs, workflow)
        return found

    def _eager(self, fed: tuple[Any, ...]) -> Any:
        result = self._eagerly(fed)
        for when, callback in self._links:
            if when == "s" and result.successful():
                callback._eager((result.get(),))
            elif when == "f" and result.failed():
                callback._as_errback()._eager((result.id,))
        return result

    def _callbacks(self, when: str) -> "list[Part]":
        return [callback for at, callback in self._links if at == when]

    def _linked(self, when: str, callback: "Part") -> Self:
        if not isinstance(callback, Part):
            raise InvalidWorkflow(f"{callback!r:.100} is no callback: give task.s(…)")
        twin = copy(self)
        twin._links = (*self._links, (when, callback))
        return twin

    def _set(self, immutable: bool | None, options: Mapping[str, Any]) -> Self:
        if immutable is not None:
            raise InvalidOption(f"{self!r} cannot be immutable: set it on its signatures, task.si(…)")
        return self._with_options(options)

    def _with_options(self, options: Mapping[str, Any]) -> Self:
        """Return the same with options for all of its first jobs."""
        raise NotImplementedError

    def _begun(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """Return the same with more arguments for what runs first, and the options of `apply_async`."""
        rest = {name: value for name, value in options.items() if name not in ("link", "link_error")}
        check_names(rest, CallOptions.__annotations__, "apply_async")
        twin = self._with_options(rest)._with_first(args, kwargs)
        for name in ("link", "link_error"):
            for callback in _listed(options.get(name)):
                twin = twin.link(callback) if name == "link" else twin.link_error(callback)
        return twin

    def _as_errback(self) -> "Part":
        raise InvalidWorkflow(f"{self!r} is no errback: give task.s(…)")

    def _parts(self) -> Iterable["Part"]:
        return ()

    def _with_first(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        raise NotImplementedError

    def _made(self, app: Adapter, fed: bool) -> Canvas[Any, Any]:
        raise NotImplementedError

    def _own_result(self, app: Adapter, jobs: Counter, workflow: int | None) -> Any:
        raise NotImplementedError

    def _eagerly(self, fed: tuple[Any, ...]) -> Any:
        raise NotImplementedError


class Signature(Part):
    """One call of a task by its name. Unless it is immutable it takes the result of what comes before as its first
    argument."""

    def __init__(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        app: Adapter | None = None,
        options: Mapping[str, Any] | None = None,
        immutable: bool = False,
    ) -> None:
        given = dict(options or {})
        links = [
            (when, each)
            for when, name in (("s", "link"), ("f", "link_error"))
            for each in _listed(given.pop(name, None))
        ]
        check_names(given, CallOptions.__annotations__, f"a signature of {task}")
        super().__init__(app=app, options=given)
        self.task, self.args, self.kwargs, self.immutable = task, tuple(args or ()), dict(kwargs or {}), immutable
        self._links = tuple(links)
        self._is_errback = False

    def __repr__(self) -> str:
        given = [*(repr(each) for each in self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.task}({', '.join(given)})"

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.task

    @property
    def type(self) -> AdapterTask:
        """The task."""
        return self.app.tasks[self.task]

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with more arguments, which go before those it has, and options."""
        return self._with_options(options)._with_first(tuple(args or ()), kwargs or {})

    partial = clone

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task here and now, as a function."""
        whole = self._with_first(args, kwargs)
        return whole.type(*whole.args, **whole.kwargs)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Enqueue a job of it; arguments go before those it has."""
        whole = self.clone(args, kwargs)
        links = {"link": whole._callbacks("s"), "link_error": whole._callbacks("f")}
        given = whole.options | {name: callbacks for name, callbacks in links.items() if callbacks} | options
        return whole.type.apply_async(whole.args, whole.kwargs, **given)

    def _set(self, immutable: bool | None, options: Mapping[str, Any]) -> Self:
        twin = self._with_options(options)
        twin.immutable = self.immutable if immutable is None else immutable
        return twin

    def _with_options(self, options: Mapping[str, Any]) -> Self:
        check_names(options, CallOptions.__annotations__, f"a signature of {self.task}")
        twin = copy(self)
        twin.options = {**self.options, **options}
        return twin

    def _with_first(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        if (not args and not kwargs) or self.immutable:
            return self
        twin = copy(self)
        twin.args, twin.kwargs = (*args, *self.args), self.kwargs | dict(kwargs)
        return twin

    def _as_errback(self) -> Part:
        twin = copy(self)
        twin._is_errback = not self.immutable
        return twin

    def _made(self, app: Adapter, fed: bool) -> Canvas[Any, Any]:
        takes = fed and not self.immutable
        call = Call(app.tasks[self.task], self.args, self.kwargs, self.options, takes, self._is_errback)
        return signature_of(app, call)

    def _own_result(self, app: Adapter, jobs: Counter, workflow: int | None) -> Any:
        return AsyncResult(self.options.get("task_id") or str(jobs.next()), app=app, task=self.task)

    def _eagerly(self, fed: tuple[Any, ...]) -> Any:
        args = self.args if self.immutable else (*fed, *self.args)
        return self.type.apply(args, self.kwargs)


class _chain(Part):  # noqa: N801  # as Celery calls it
    """Steps one after the other; each gets the result of the one before it."""

    def __init__(self, *steps: Any, app: Adapter | None = None) -> None:
        super().__init__(app=app)
        given = steps[0] if len(steps) == 1 and not isinstance(steps[0], Part) else steps
        self.tasks: tuple[Part, ...] = tuple(_with_chords(_flat(_checked("a chain", given))))
        if not self.tasks:
            raise InvalidWorkflow("a chain of nothing cannot be used: give it one step or more")

    def __repr__(self) -> str:
        return " | ".join(repr(each) for each in self.tasks)

    def _parts(self) -> Iterable[Part]:
        return self.tasks

    def _with_options(self, options: Mapping[str, Any]) -> Self:
        return self._first(self.tasks[0]._with_options(options)) if options else self

    def _with_first(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        return self._first(self.tasks[0]._with_first(args, kwargs))

    def _first(self, part: Part) -> Self:
        twin = copy(self)
        twin.tasks = (part, *self.tasks[1:])
        return twin

    def _made(self, app: Adapter, fed: bool) -> Canvas[Any, Any]:
        return Chain(part._built(app, fed=fed or at > 0) for at, part in enumerate(self.tasks))

    def _own_result(self, app: Adapter, jobs: Counter, workflow: int | None) -> Any:
        found = None
        for part in self.tasks:
            result = part._result(app, jobs, workflow)
            if found is not None:
                _eldest(result).parent = found
            found = result
        return found

    def _eagerly(self, fed: tuple[Any, ...]) -> Any:
        result: Any = None
        for part in self.tasks:
            before, result = result, part._eager(fed)
            if before is not None:
                _eldest(result).parent = before
            if not result.successful():
                return result
            fed = (result.get(),)
        return result


class group(Part):  # noqa: N801  # as Celery calls it
    """Members that run side by side. What comes next gets the list of their results, in order."""

    def __init__(self, *members: Any, app: Adapter | None = None) -> None:
        super().__init__(app=app)
        given = members[0] if len(members) == 1 and not isinstance(members[0], Part) else members
        self.tasks: tuple[Part, ...] = tuple(_checked("a group", given))

    def __repr__(self) -> str:
        return f"group({', '.join(repr(each) for each in self.tasks)})"

    def __len__(self) -> int:
        return len(self.tasks)

    def _parts(self) -> Iterable[Part]:
        return self.tasks

    def _with_options(self, options: Mapping[str, Any]) -> Self:
        return self._each(part._with_options(options) for part in self.tasks) if options else self

    def _with_first(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        return self._each(part._with_first(args, kwargs) for part in self.tasks)

    def _linked(self, when: str, callback: Part) -> Self:
        if when == "s":
            raise InvalidWorkflow("link of a group cannot be used: a callback of all members is chord(group, callback)")
        return self._each(part.link_error(callback) for part in self.tasks)

    def _each(self, parts: Iterable[Part]) -> Self:
        twin = copy(self)
        twin.tasks = tuple(parts)
        return twin

    def _made(self, app: Adapter, fed: bool) -> Canvas[Any, Any]:
        return Group(part._built(app, fed=fed) for part in self.tasks)

    def _own_result(self, app: Adapter, jobs: Counter, workflow: int | None) -> Any:
        return GroupResult(str(workflow), [part._result(app, jobs, workflow) for part in self.tasks])

    def _eagerly(self, fed: tuple[Any, ...]) -> Any:
        return GroupResult(None, [part._eager(fed) for part in self.tasks])


class chord(_chain):  # noqa: N801  # as Celery calls it
    """A group and a body that runs after all of its members have succeeded: `chord(header, body)`,
    `chord(header)(body)`.

    Where a member has failed for good the body never runs; an errback of the body is called, and so is one of the
    chord."""

    def __init__(self, header: Any, body: Part | None = None, *, app: Adapter | None = None) -> None:
        Part.__init__(self, app=app)
        members = header if isinstance(header, group) else group(header)
        self.tasks = (members,) if body is None else (members, *_checked("the body of a chord", [body]))

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Enqueue it, with its body if it has none yet."""
        whole = chord(self.tasks[0], body, app=self._app) if isinstance(body, Part) else self
        if len(whole.tasks) < 2:
            raise InvalidWorkflow("a chord without a body cannot be used: give chord(header, body)")
        return whole.apply_async(**options)

    def _made(self, app: Adapter, fed: bool) -> Canvas[Any, Any]:
        if len(self.tasks) < 2:
            return self.tasks[0]._built(app, fed=fed)
        body = copy(self.tasks[1])
        errbacks = body._callbacks("f")
        body._links = tuple(link for link in body._links if link[0] == "s")
        header = OwnGroup(part._built(app, fed=fed) for part in cast(group, self.tasks[0]).tasks)
        made: Canvas[Any, Any] = Chain([header, body._built(app, fed=True)])
        for errback in errbacks:
            made = made.on_error(errback._as_errback()._built(app, fed=True))
        return made


def chain(*steps: Any, app: Adapter | None = None) -> Any:
    """Return a chain of steps, or of one iterable of them. A chain of one step is that step."""
    made = _chain(*steps, app=app)
    return made.tasks[0] if len(made.tasks) == 1 else made


def _flat(parts: Iterable[Part]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, _chain) and not isinstance(part, chord) and not part._links:
            yield from part.tasks
        else:
            yield part


def _with_chords(parts: Iterable[Part]) -> Iterator[Part]:
    """Make a chord of each group and what comes after it, as Celery does."""
    waiting: group | None = None
    for part in parts:
        if waiting is not None:
            yield chord(waiting, part)
            waiting = None
        elif isinstance(part, group):
            waiting = part
        else:
            yield part
    if waiting is not None:
        yield waiting


def _eldest(result: Any) -> Any:
    """Return the first of the results from which this one comes."""
    while result.parent is not None:
        result = result.parent
    return result


def _checked(where: str, given: Any) -> Iterator[Part]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidWorkflow(f"{where} of {given!r:.100} cannot be used: give signatures, such as task.s(…)")
    for each in given:
        if not isinstance(each, Part):
            raise InvalidWorkflow(f"{where}: {each!r:.100} is no signature: give task.s(…), a chain or a group")
        yield each


def _listed(callbacks: Any) -> list[Part]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]

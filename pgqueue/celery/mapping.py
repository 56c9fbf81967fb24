"""Many calls of one task in few jobs: `task.map`, `task.starmap`, `task.chunks`; and `signature(…)`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pgqueue.celery.canvas import Part, Signature, group
from pgqueue.celery.parts import Adapter
from pgqueue.celery.placing import Counter
from pgqueue.client.canvas.canvas import Canvas
from pgqueue.errors import InvalidOption


class chunks(Part):  # noqa: N801  # as Celery calls it
    """Calls of one task with each of many tuples of arguments, so many in a job: `task.chunks(zip(a, b), 100)`."""

    def __init__(self, task: Signature, it: Iterable[Sequence[Any]], n: int) -> None:
        if type(n) is not int or n < 1:
            raise InvalidOption(f"chunks of {n!r:.100} calls cannot be used: give 1 or more")
        super().__init__(app=task._app)
        self._group = group(list(_chunks(task, it, n)), app=task._app)

    def group(self) -> group:
        """Return the jobs as a group."""
        return self._group

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Enqueue the jobs."""
        return self._group.apply_async(args, kwargs, **options)

    def _built(self, app: Adapter, *, fed: bool) -> Canvas[Any, Any]:
        return self._group._built(app, fed=False)

    def _result(self, app: Adapter, jobs: Counter, workflow: int | None) -> Any:
        return self._group._result(app, jobs, workflow)

    def _eager(self, fed: tuple[Any, ...]) -> Any:
        return self._group._eager(())


def xmap(task: Signature, it: Iterable[Any]) -> Signature:
    """Return one job that calls a task with each value: `task.map(values)`."""
    return _mapping("celery.map", task, list(it))


def xstarmap(task: Signature, it: Iterable[Sequence[Any]]) -> Signature:
    """Return one job that calls a task with each tuple of arguments: `task.starmap(tuples)`."""
    return _mapping("celery.starmap", task, [list(each) for each in it])


def signature(
    task: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> Signature:
    """Return a call of a task, given as such or by its name; a signature is returned as it is.

    `immutable`, `app`, and the options of a call as `options=` or by their names.
    """
    if isinstance(task, Signature):
        return task
    app, immutable = options.pop("app", None), options.pop("immutable", False)
    given = options.pop("options", None) or {}
    return Signature(
        getattr(task, "name", task), args, kwargs, app=app, options={**given, **options}, immutable=immutable
    )


def _mapping(name: str, task: Signature, values: list[Any]) -> Signature:
    options = {"queue": task.options.get("queue") or task.app.queue_of(task.task), **task.options}
    given = {name_: value for name_, value in options.items() if value is not None}
    return Signature(name, (), {"task": task.task, "it": values}, app=task._app, options=given, immutable=True)


def _chunks(task: Signature, it: Iterable[Sequence[Any]], n: int) -> Iterator[Signature]:
    left = iter(it)
    while part := list(islice(left, n)):
        yield xstarmap(task, part)

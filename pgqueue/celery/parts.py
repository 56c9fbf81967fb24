"""What the modules of the adapter know of each other: the app, its tasks, and the app that is the current one."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pgqueue.app import App
from pgqueue.celery.conf import Settings
from pgqueue.client.task import Task as CoreTask
from pgqueue.errors import ConfigError
from pgqueue.tasks.call_shape import CallShape


class AdapterTask(Protocol):
    """A task of the adapter. `shape`: how its calls are stored; `core`: the task of pgqueue that runs it."""

    name: str
    queue: str | None
    priority: int | None
    expires: Any
    ignore_result: bool | None
    pydantic: bool
    autoretry_for: tuple[type[BaseException], ...]
    throws: tuple[type[BaseException], ...]

    @property
    def shape(self) -> CallShape: ...
    @property
    def core(self) -> CoreTask[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...
    @property
    def apply_async(self) -> Callable[..., Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Adapter(Protocol):
    """The `Celery` object as tasks, canvases and results see it."""

    @property
    def conf(self) -> Settings: ...
    @property
    def pgqueue(self) -> App: ...
    @property
    def tasks(self) -> Mapping[str, AdapterTask]: ...
    def connection_for(self, options: Mapping[str, Any]) -> object: ...
    def queue_of(self, task: str, args: Any = (), kwargs: Any = None) -> str | None: ...
    def route_of(self, task: str, args: Any = (), kwargs: Any = None) -> dict[str, Any]: ...


class _Current:
    adapter: Any = None


def set_current(adapter: object) -> None:
    """Make an app the one that shared tasks and bare results belong to: the last one that was made, unless told."""
    _Current.adapter = adapter


def current_adapter() -> Any:
    """Return the current app. Raises ConfigError where none was made."""
    if _Current.adapter is None:
        raise ConfigError("no Celery app was made yet: import the module with app = Celery(…) first")
    return _Current.adapter

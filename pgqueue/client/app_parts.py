"""The parts of an app that client verbs use."""

from typing import Protocol

from pgqueue.client.backend import Backend
from pgqueue.client.depths import Depths
from pgqueue.client.enqueue_hooks import EnqueueHooks
from pgqueue.client.joining import Binding
from pgqueue.client.operation_hooks import OperationHook
from pgqueue.client.routes import Routes
from pgqueue.client.waiting import Waits
from pgqueue.events import Listeners
from pgqueue.queries import Queries
from pgqueue.tasks.registry import Tasks


class AppParts(Protocol):
    """The parts of an app that client verbs use. `App` has them; rooms below it do not know `App`."""

    tasks: Tasks
    listeners: Listeners
    enqueue_hooks: EnqueueHooks
    operation_hooks: list[OperationHook]
    queue: str
    routes: Routes
    max_attempts: int
    retention: dict[str, int | None]
    max_depth: dict[str, int]
    max_args_bytes: int

    @property
    def name(self) -> str: ...
    @property
    def binding(self) -> Binding | None: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def depths(self) -> Depths: ...
    @property
    def origin(self) -> object: ...
    @property
    def queries(self) -> Queries: ...
    @property
    def waits(self) -> Waits: ...

"""What a client needs of its app."""

from typing import Protocol

from pgqueue.client.backend import Backend
from pgqueue.client.depths import Depths
from pgqueue.client.waiting import Waits
from pgqueue.events import Listeners
from pgqueue.queries import Queries
from pgqueue.tasks.registry import Tasks


class AppParts(Protocol):
    """What the verbs need of an app."""

    backend: Backend
    tasks: Tasks
    listeners: Listeners
    queue: str
    max_attempts: int
    retention: dict[str, int | None]
    max_depth: dict[str, int]
    depths: Depths
    max_args_bytes: int

    @property
    def queries(self) -> Queries: ...
    @property
    def waits(self) -> Waits: ...

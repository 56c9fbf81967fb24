"""What a worker gets from the process in which it runs: connections, threads, and how often it looks by itself."""

from typing import Protocol

from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty


class Hears(Protocol):
    """Receives the notifications of one schema."""

    def listening(self) -> None: ...
    def hear(self, payload: str) -> None: ...


class Host:
    """The host of a worker that has its process for itself."""

    def link(self, app: App, name: str) -> Link:
        """Return a link of the worker to its database."""
        return Link(app.database, f"pgqueue worker {name}")

    def shares_listener(self, hears: Hears) -> bool:
        """Whether the process listens for the worker; otherwise it listens by itself."""
        return False

    def poll_seconds(self, given: float) -> float:
        """Return the seconds between two looks for jobs without a notification."""
        return given

    def watch(self, duty: Duty) -> Duty:
        """Return a duty that the worker will run."""
        return duty


OWN = Host()

"""What an access to some queues leaves of the dashboard: these queues, their jobs, and what is done to them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from pgqueue.app import App
from pgqueue.client.reviving import leaves
from pgqueue.client.steps import OWN_CONNECTION, StepRunner
from pgqueue.client.troubles import troubles_of
from pgqueue.dashboard.filters import read_id
from pgqueue.dashboard.look import Look
from pgqueue.dashboard.pulse import Pulse
from pgqueue.dashboard.request import Request
from pgqueue.dashboard.routes import DEEDS, SHOWERS, shape_of
from pgqueue.errors import NotFound
from pgqueue.jobs.job import Job

PAGES = frozenset(
    {"queues", "queues/{}", "queues/{}/drain", "jobs", "jobs/{}", "jobs/{}/edit", "preview/{}", "operations/{}"}
)
ROOMS = frozenset({"queues", "jobs"})
_BACK = ("jobs/{}/redrive", "jobs/{}/retry")
_FILTERED = ("jobs", "preview/")  # pages whose address has a filter


class Scope:
    """The queues of one access. Whatever else there is, is not there for it."""

    def __init__(self, queues: Collection[str]) -> None:
        self.queues = frozenset(queues)

    def request(self, request: Request) -> Request:
        """Return a request as it is meant here: the first page is that of the queues, and a filter names one of them.

        Raises NotFound for a filter of another queue.
        """
        path = request.path.strip("/")
        if not path:
            return replace(request, path="/queues")
        if path != _FILTERED[0] and not path.startswith(_FILTERED[1]):
            return request
        asked = request.asked("queue") or min(self.queues, default="")
        self._check(asked)
        query: Mapping[str, Sequence[str]] = {**request.query, "queue": [asked]}
        return replace(request, query=query)

    def pulse(self, pulse: Pulse, late_after: float) -> Pulse:
        """Return what a reading says of these queues."""
        queues = [each for each in pulse.queues if each.queue in self.queues]
        return replace(pulse, queues=queues, signs=(), troubles=troubles_of(queues, (), late_after))

    def check_page(self, look: Look) -> None:
        """Raise NotFound unless the page is about these queues."""
        shape, name = shape_of(look.request.path, SHOWERS)
        if shape not in PAGES:
            raise NotFound("There is no such page.")
        if shape == "operations/{}":
            found = look.ask(look.queries.operations.list(1, read_id(name)))
            self._check(None if not found else found[0].filter.get("queue"))
        self._check_named(look.app.using(look.conn).get, shape, name)

    def check_deed(self, get: Callable[[int], Job], path: str) -> bool:
        """Return whether a form is about these queues. Raises NotFound for a job or a queue that is not."""
        shape, name = shape_of(path, DEEDS)
        if not shape.startswith(("jobs/{}/", "queues/{}/", "preview/")):
            return False
        self._check_named(get, shape, name)
        return True

    def refusal(self, app: App, request: Request) -> str | None:
        """Return why a form that brings a job back may not: its workflow would bring back jobs of other queues."""
        shape, name = shape_of(request.path, DEEDS)
        if shape not in _BACK and not (shape == "jobs/{}/edit" and request.form.get("then", "").strip() == "redrive"):
            return None
        if StepRunner(app, OWN_CONNECTION).perform(leaves(app, [read_id(name)], self.queues)):
            return "the job comes back with its workflow, which has jobs in other queues that would run again"
        return None

    def _check_named(self, get: Callable[[int], Job], shape: str, name: str) -> None:
        if shape.startswith("queues/{}"):
            self._check(name)
        elif shape.startswith("jobs/{}"):
            try:
                queue = get(read_id(name)).queue
            except NotFound:
                queue = None
            self._check(queue)

    def _check(self, queue: object) -> None:
        if queue not in self.queues:
            raise NotFound(f"Not among your queues: {', '.join(sorted(self.queues))}.")

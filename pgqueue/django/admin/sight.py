"""What a member of staff sees and may do in the admin: as on the dashboard, by the same setting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import psycopg
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from pgqueue import db
from pgqueue.app import App
from pgqueue.client.joining import apart
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.asgi import checked
from pgqueue.dashboard.look import looking
from pgqueue.dashboard.redaction import Redaction
from pgqueue.dashboard.verbs import begun
from pgqueue.django.access import staff
from pgqueue.django.backends import naming_manage_py
from pgqueue.django.mounted import mounted
from pgqueue.errors import PgqueueError
from pgqueue.queries import Query
from pgqueue.queries.operations import Operation

T = TypeVar("T")
VIA = "admin"
SLOW = "The database did not answer within two seconds. Narrow what is asked, or try again."


class Unseen(Exception):
    """Why a page has nothing to show, in words for whoever looks."""


class Sight(NamedTuple):
    """The app, what is hidden of its jobs, and what one person may do there."""

    app: App
    redaction: Redaction
    access: Access
    read_only: bool

    @property
    def recorded(self) -> dict[str, Any]:
        """The options by which an operation says who asked for it."""
        return {"by": self.access.who, "via": VIA}

    def read(self, query: Query[T]) -> T:
        """Run a statement that only reads, within two seconds, apart from the transaction of the request."""
        with self.looking() as conn:
            return db.run(conn, query)

    @contextmanager
    def looking(self) -> Iterator[db.Connection]:
        """Give a connection to read on. Raises Unseen where the database does not answer, or has no tables."""
        try:
            with apart(self.app), naming_manage_py(), looking(self.app) as conn:
                yield conn
        except psycopg.errors.QueryCanceled:
            raise Unseen(SLOW) from None
        except (PgqueueError, psycopg.Error) as error:
            raise Unseen(str(error)) from None

    def operate(self, verb: Callable[..., Operation], *given: Any, **options: Any) -> Operation | None:
        """Do a verb in the name of this person. What takes long goes on behind the page, and then is not done yet."""
        return begun(lambda watch: partial(verb, *given, on_batch=watch, **self.recorded)(**options))


def sight_of(request: HttpRequest) -> Sight:
    """Return what whoever asks sees. Where PGQUEUE["access"] says who may do what, it holds here too: Django's own
    permissions never give more.

    Raises PermissionDenied for somebody whom it lets not see all queues: the dashboard has what is left for them.
    """
    here = mounted()
    if here.access is staff:
        access: Access | None = Access.operate(request.user.get_username())
    else:
        access = checked(here.access(request))
    if access is None or access.queues is not None:
        raise PermissionDenied
    settings = here.dashboard.settings
    return Sight(here.dashboard.app, Redaction(settings.redact), access, settings.read_only)

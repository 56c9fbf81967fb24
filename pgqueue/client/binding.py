"""The connection of a request: verbs that name none run on it, so that handlers need not pass it on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgqueue.client.joining import Binding, blocks_here, joining
from pgqueue.errors import NoTransaction


class BindVerbs:
    """`bind` and `bound` of an app."""

    binding: Binding | None = None

    @property
    def origin(self) -> object:
        """The app whose transactions its verbs join."""
        return self

    def bind(self, current: Callable[[], object], *, required: bool = False) -> None:
        """Let verbs that name no connection join the transaction of the request in which they are called.

        `current()` returns the connection or session of this request, as `using` takes it, or None outside of one:
        Flask-SQLAlchemy's `db.session`, a `scoped_session`, `lambda: django.db.connection`. What is enqueued there
        commits or rolls back with it; outside of a request it commits at once, or raises NoTransaction with
        `required=True`. `using(OWN_CONNECTION)` stays out of it. An async session goes with the async verbs. A block of
        `ctx.transaction()` or `bound` goes first. A second call replaces the first one.
        """
        self.binding = Binding(current, required)

    @contextmanager
    def bound(self, conn: object) -> Iterator[None]:
        """Let verbs inside this block that name no connection run on `conn`, in its transaction.

        For a request: `with app.bound(session): yield session` in a dependency. It holds for what is called from the
        block in the same thread or asyncio task, and for threads that frameworks start with a copy of its context. It
        raises NoTransaction at its end where it held for nothing: it began in a context that no handler sees, as that
        of a dependency of FastAPI that is no `async def`.
        """
        with joining(self, conn) as block:
            yield
            if block not in blocks_here():
                raise NoTransaction(
                    "app.bound(…) ends in another context than it began in, so the verbs in between did not join its "
                    "transaction: make what opens the block async def, or give using(conn) to the verbs"
                )

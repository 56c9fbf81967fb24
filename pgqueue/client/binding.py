"""The connection of a request: verbs that name none run on it, so that handlers need not pass it on."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from pgqueue.client.joining import Binding, joining


class BindVerbs:
    """`bind` and `bound` of an app."""

    binding: Binding | None = None

    def bind(self, current: Callable[[], object], *, required: bool = False) -> None:
        """Let verbs that name no connection join the transaction of the request in which they are called.

        `current()` returns the connection or session of this request, as `using` takes it, or None outside of one:
        Flask-SQLAlchemy's `db.session`, a `scoped_session`, `lambda: django.db.connection`. What is enqueued there
        commits or rolls back with it; outside of a request it commits at once, or raises NoTransaction with
        `required=True`. `using(OWN_CONNECTION)` stays out of it. An async session goes with the async verbs. A block of
        `ctx.transaction()` or `bound` goes first. A second call replaces the first one.
        """
        self.binding = Binding(current, required)

    def bound(self, conn: object) -> AbstractContextManager[None]:
        """Let verbs inside this block that name no connection run on `conn`, in its transaction.

        For a request: `with app.bound(session): yield session` in a dependency. It holds for what is called from the
        block in the same thread or asyncio task, and for threads that frameworks start with a copy of its context.
        """
        return joining(self, conn)

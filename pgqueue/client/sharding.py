"""Shards: one app over several schemas, each with its own jobs, and the mapping from a tenant to a schema."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeAlias
from uuid import UUID

from pgqueue import db
from pgqueue.client.backend import Backend
from pgqueue.client.depths import Depths
from pgqueue.client.joining import Binding
from pgqueue.client.waiting import Waits
from pgqueue.codecs import Codec
from pgqueue.config import check_schema
from pgqueue.db.source import GivenDsn, GivenPassword
from pgqueue.errors import InvalidOption, UnknownShard
from pgqueue.queries import Queries

GivenShards: TypeAlias = Iterable[str] | Mapping[str, GivenDsn | None]
ShardKey: TypeAlias = str | int | UUID


class Shards:
    """The schemas among which the keys of an app are divided, and the DSN of those that lie in another database."""

    def __init__(self, given: GivenShards | None) -> None:
        if isinstance(given, str):
            raise InvalidOption(f"shards={given!r:.100} cannot be used: give a list of schemas, or {{schema: DSN}}")
        dsns = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given or ())
        self._dsns: dict[str, GivenDsn | None] = {check_schema(name): dsn for name, dsn in dsns.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The schemas, in the order in which they were given."""
        return tuple(self._dsns)

    def dsn(self, name: str) -> GivenDsn | None:
        """Return the DSN of a schema; None where it lies in the app's own database."""
        return self._dsns.get(name)

    def of(self, key: ShardKey) -> str:
        """Return the schema of a key, by rendezvous: of all schemas the one whose hash with the key is the greatest.

        The order of the list means nothing. A schema that joins takes about 1/n of the keys, from each of the others;
        one that leaves hands its keys to all others; no other key moves. Raises InvalidOption for another type, and
        UnknownShard without any schema.
        """
        if isinstance(key, bool) or not isinstance(key, str | int | UUID):
            raise InvalidOption(f"shard key {key!r:.100} cannot be used: give a text, a whole number or a UUID")
        if not self._dsns:
            raise UnknownShard(
                'this app has no shards: make it with App(shards=["shop_0", "shop_1"]), or say app.on(…)'
            )
        text = str(key)
        return max(self._dsns, key=lambda name: (_weight(name, text), name))


def _weight(name: str, key: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


class ShardBackend(Backend):
    """The backend of another schema in the database of `first`, of which it uses the connections."""

    def __init__(self, first: Backend, queries: Queries) -> None:
        self._first = first
        super().__init__(None, queries, pgbouncer=first.pgbouncer, listen_dsn=first.listen_dsn)

    @property
    def pools(self) -> db.Pools:
        """The connections of the first schema."""
        return self._first.pools

    @pools.setter
    def pools(self, pools: db.Pools) -> None:
        self._first.pools = pools

    @property
    def dsn(self) -> str:
        """The connection string of the first schema."""
        return self._first.dsn

    @dsn.setter
    def dsn(self, dsn: str) -> None:
        self._first.dsn = dsn

    @property
    def known_dsn(self) -> str | None:
        """As of the first schema."""
        return self._first.known_dsn

    @property
    def told_dsn(self) -> str | None:
        """As of the first schema."""
        return self._first.told_dsn

    @property
    def database(self) -> db.Database:
        """The database of the first schema."""
        return self._first.database

    @property
    def listen_database(self) -> db.Database | None:
        """Where connections that listen for notifications of the first schema lead."""
        return self._first.listen_database

    def close(self) -> None:
        """Close the connections of waits and locks. The pools are those of the first schema, which goes on."""
        self.close_waits()


class Sharded:
    """The parts of an app that its views on other schemas have for themselves, or take from it.

    `_root` is the app that was made; a view's is not the view. In the jobs of a schema, and in a block of `current`,
    the app that was made stands for that schema's view, so that `task.enqueue(…)` stays in the schema of its job.
    """

    _root: Any  # an app; a mixin cannot name the class that it is mixed into
    _views: dict[str, Any]
    _shards: Shards
    _password: GivenPassword | None
    codec: Codec | None
    _own_name: str
    _own_schema: str
    _own_backend: Backend
    _own_depths: Depths
    _own_binding: Binding | None = None
    _is_elsewhere = False  # in another database than the app that was made

    @property
    def _acting(self) -> Self:
        views = _views_here.get()
        if not views:  # the hot path: most apps have one schema
            return self
        view: Self = views.get(self, self)
        return view

    @property
    def name(self) -> str:
        """The name of the app. It distinguishes the schedules of several apps in one schema."""
        name: str = self._root._own_name
        return name

    @name.setter
    def name(self, name: str) -> None:
        self._root._own_name = name

    @property
    def schema(self) -> str:
        """The schema of its tables."""
        return self._acting._own_schema

    @property
    def backend(self) -> Backend:
        """The database behind it, and everything through which it reaches that."""
        return self._acting._own_backend if _views_here.get() else self._own_backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self._acting._own_backend = backend

    @property
    def queries(self) -> Queries:
        """The statements, with the names of the schema in them."""
        return self.backend.queries

    @property
    def waits(self) -> Waits:
        """The waits for jobs to end."""
        return self.backend.waits

    @property
    def database(self) -> db.Database:
        """Where own connections lead."""
        return self.backend.database

    @property
    def listen_database(self) -> db.Database | None:
        """Where connections that listen for notifications lead. None: workers can only poll."""
        return self.backend.listen_database

    @property
    def depths(self) -> Depths:
        """How deep its queues with a `max_depth` are."""
        return self._acting._own_depths

    @property
    def binding(self) -> Binding | None:
        """Where the connection of a request is found. A view in the same database has that of the app."""
        return self.origin._own_binding

    @binding.setter
    def binding(self, binding: Binding | None) -> None:
        self.origin._own_binding = binding

    @property
    def origin(self) -> Self:
        """The app whose transactions its verbs join: all views in one database have the same."""
        acting = self._acting
        origin: Self = acting if acting._is_elsewhere else acting._root
        return origin

    def stands_for(self) -> Self:
        """Return the view for which it stands in a block of `current`; itself elsewhere."""
        return self._acting

    @property
    def is_one_of_several(self) -> bool:
        """Whether it has shards, or is a view: the same job id may then be that of several jobs."""
        return bool(self.shards) or self._root is not self

    @property
    def shards(self) -> tuple[str, ...]:
        """The schemas among which `shard` divides keys."""
        return self._shards.names

    def shard(self, key: ShardKey) -> Self:
        """Return the app as it is in the schema of a tenant: `app.shard(tenant.id).enqueue("shop.bill")`.

        The schema is always the same one for a key, whatever the process, platform or order of `App(shards=…)`; the
        text `7` and the number 7 are one key. When a schema joins n others, one key in n + 1 moves to it, and no other
        key moves; jobs that are there stay where they are. Raises InvalidOption for a key of another type, and
        UnknownShard where the app has no shards.
        """
        return self._view(self._shards.of(key))

    def _view(self, schema: str) -> Self:
        root = self._root
        view: Self | None = root._views.get(schema)
        if view is None:
            dsn, queries, first = self._shards.dsn(check_schema(schema)), Queries(schema, self.codec), root._own_backend
            made: Self = object.__new__(type(root))
            vars(made).update(vars(root))
            made._is_elsewhere = dsn is not None
            backend: Backend = ShardBackend(first, queries)
            if dsn is not None:
                backend = Backend(dsn, queries, password=self._password, pgbouncer=first.pgbouncer)
                made._own_binding = None  # it joins no transaction of the first database
            made._lie_in(schema, backend)
            view = root._views.setdefault(schema, made)  # another thread may have been faster
        return view

    @property
    def _backends(self) -> list[Backend]:
        """The backends that end with it: of the app that was made, those of its views, too."""
        views = [*self._views.values()] if self._root is self else []
        return [*(view._own_backend for view in views), self.backend]

    def _lie_in(self, schema: str, backend: Backend) -> None:
        """Use the tables of a schema, by all verbs."""
        raise NotImplementedError

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let the app stand for this view in the block: `with app.on("acme").current(): charge.enqueue(7)`.

        It holds for what is called from the block in the same thread or asyncio task. Jobs of a schema run in such a
        block of their own.
        """
        token = _views_here.set({**(_views_here.get() or {}), self._root: self})
        try:
            yield
        finally:
            _views_here.reset(token)


_views_here: ContextVar[Mapping[Any, Any] | None] = ContextVar("pgqueue_views", default=None)  # by app

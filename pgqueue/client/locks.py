"""Named locks as operators use them: seen, and broken."""

import builtins

from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, Steps, verb
from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, UnknownLock
from pgqueue.jobs.patterns import serves
from pgqueue.queries.locks import HeldLock


class Locks:
    """The verbs on named locks: `app.locks`. Each has an async twin with an `a`. `app.lock(…)` takes one."""

    def __init__(self, app: AppParts) -> None:
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)

    @verb
    def list(self, pattern: str = "*") -> Steps[builtins.list[HeldLock]]:
        """Return the locks that are held; those whose keys match a pattern, in which each `*` stands for any text."""
        check_name("lock", pattern)
        found: builtins.list[HeldLock] = yield self._app.queries.locks.list()
        return [lock for lock in found if serves([pattern], lock.key)]

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def release(self, key: str, *, token: int | None = None) -> Steps[HeldLock]:
        """Release a lock, whoever holds it; with `token`, only if it is held under that one. Return what it was.

        The next taker gets it at once, while the holder may still work: stop the holder first, if you can. It finds out
        when its lock is next renewed, after a third of its time to live, or at the end of its block. Raises
        UnknownLock.
        """
        check_name("lock", key)
        if token is not None and (type(token) is not int or not 1 <= token < 2**63):
            raise InvalidOption(f"token {token!r:.100} cannot be used: give the token of a lock, a whole number from 1")
        broken: HeldLock | None = yield self._app.queries.locks.break_(key, token)
        if broken is None:
            under = "" if token is None else f" with token {token}"
            raise UnknownLock(f"nobody holds a lock {key!r:.210}{under}: `pgqueue locks list` lists those that are")
        return broken

    arelease = release.twin

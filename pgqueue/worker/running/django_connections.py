"""Django's connections of a thread, which must not carry anything from one task to the next."""

import logging
import sys
from collections.abc import Callable
from typing import Any

log = logging.getLogger("pgqueue.worker")


def call_with_fresh(function: Callable[[], Any]) -> Any:
    """Call a function as Django serves a request: connections too old or broken are closed before and after."""
    _close_old()
    try:
        return function()
    finally:
        _close_old()


def _close_old() -> None:
    try:
        apps: Any = getattr(sys.modules.get("django.apps"), "apps", None)  # None while another thread imports it
        if apps is None or not apps.ready:  # imported, but not set up: it has no connections
            return
        database: Any = sys.modules["django.db"]
        database.close_old_connections()
        for conn in database.connections.all(initialized_only=True):
            if conn.in_atomic_block:  # the task has left a block open, in which Django closes nothing
                conn.close()
                del database.connections[conn.alias]
    except Exception as error:  # noqa: BLE001 - the outcome of the task does not depend on it
        log.warning("connections of Django were not closed: %s", type(error).__name__)

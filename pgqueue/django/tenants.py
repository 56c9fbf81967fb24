"""Tenants of django-tenants: a job carries the schema of the tenant in which it was enqueued, and runs there.

All tenants share one queue. So one worker serves them all, a new tenant needs no tables of pgqueue's, and what is read
of the queue, such as the dashboard, shows all of them.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db import connections

from pgqueue.jobs.verdicts import Fail

TENANT = "tenant"  # the header


def current_tenant() -> str | None:
    """Return the schema of the tenant that is active here; None for the public one, and without django-tenants."""
    if not apps.is_installed("django_tenants"):
        return None
    utils = _utils()
    schema: str = connections[utils.get_tenant_database_alias()].schema_name
    return None if schema == utils.get_public_schema_name() else schema


@contextmanager
def inside(schema: str | None) -> Iterator[None]:
    """Activate the tenant of a job in this thread, and then what was active before. Raises Fail if it is gone."""
    if schema is None or not apps.is_installed("django_tenants"):
        yield
        return
    utils = _utils()
    with utils.schema_context(utils.get_public_schema_name()):
        tenant = utils.get_tenant_model().objects.filter(schema_name=schema).first()
    if tenant is None:
        raise Fail(f"no tenant has the schema {schema!r} any more")
    with utils.tenant_context(tenant):
        yield


def _utils() -> Any:
    return importlib.import_module("django_tenants.utils")

"""What the examples of the docs presuppose: a Django project, the event loop of anyio, the tables of orders."""

import os

import django
import psycopg
import pytest
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

parts = conninfo_to_dict(os.environ["PGQUEUE_DSN"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts["dbname"],
            "USER": parts.get("user", ""),
            "PASSWORD": parts.get("password", ""),
            "HOST": parts.get("host", ""),
            "PORT": parts.get("port", ""),
        }
    },
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF="urls",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def tables():
    with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as conn:
        conn.execute("create table orders (id int primary key, email text not null)")
        conn.execute(
            "create table orders_order (id bigint primary key generated always as identity, email text not null)"
        )
        yield
        left = conn.execute(
            "select (select count(*) from pgqueue.job), (select count(*) from pgqueue.transition),"
            " (select count(*) from pgqueue.schedule), (select count(*) from orders_order),"
            " (select count(*) from orders)"
        ).fetchone()
        assert left == (0, 0, 0, 0, 1)  # the order that one test commits on purpose

"""Django as a project uses it: settings made once in a process, the connection pointed at the database of each test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.db import connections
from psycopg.conninfo import conninfo_to_dict


@contextmanager
def django_on(dsn: str) -> Iterator[Any]:
    """Point `connections["default"]` at a database; close it at the end."""
    if not settings.configured:
        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}},
            USE_TZ=True,
            SECRET_KEY="of the tests",
            ALLOWED_HOSTS=["*"],
            INSTALLED_APPS=[
                *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")),
                "pgqueue.django",
                "pgqueue.django.admin",
            ],
            TEMPLATES=[
                {
                    "BACKEND": "django.template.backends.django.DjangoTemplates",
                    "APP_DIRS": True,
                    "OPTIONS": {
                        "context_processors": [
                            "django.template.context_processors.request",
                            "django.contrib.auth.context_processors.auth",
                            "django.contrib.messages.context_processors.messages",
                        ]
                    },
                }
            ],
            STATIC_URL="/static/",
            MIDDLEWARE=[
                "django.middleware.security.SecurityMiddleware",
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.common.CommonMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware",
                "django.middleware.clickjacking.XFrameOptionsMiddleware",
            ],
            PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
            ROOT_URLCONF="tests.edges.dashboard.django_urls",
        )
        django.setup()
    parts = conninfo_to_dict(dsn)
    wrapper = connections["default"]
    wrapper.settings_dict |= {
        "NAME": parts.pop("dbname"), "USER": parts.pop("user", ""), "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""), "PORT": parts.pop("port", ""), "OPTIONS": parts,
    }  # fmt: skip
    try:
        yield wrapper
    finally:
        wrapper.close()

"""A Django project of its own, in whichever Python and Django run it: `django_alone.py DSN PATH…` opens each page of
the dashboard as a member of staff, pauses a queue, and prints which versions it has seen."""

import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.urls import include, path
from psycopg.conninfo import conninfo_to_dict

import pgqueue

PREFIX = "/staff/jobs/"
urlpatterns = [path(PREFIX[1:], include("pgqueue.django.urls"))]


def configure(dsn: str) -> None:
    """Make the settings of a small project on this database."""
    parts = conninfo_to_dict(dsn)
    database = {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.pop("dbname"), "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""), "HOST": parts.pop("host", ""), "PORT": parts.pop("port", ""),
        "OPTIONS": parts,
    }  # fmt: skip
    settings.configure(
        DATABASES={"default": database},
        SECRET_KEY="of the tests",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=[
            *(f"django.contrib.{name}" for name in ("auth", "contenttypes", "sessions")),
            "pgqueue.django",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        ROOT_URLCONF=__name__,
        PGQUEUE={"app": pgqueue.App(dsn), "title": "shop"},
    )
    django.setup()


def main(dsn: str, paths: list[str]) -> None:
    """Open the pages, and do one thing there."""
    configure(dsn)
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User
    from django.core.checks import run_checks
    from django.test import Client

    from pgqueue.dashboard.guard import token_of

    assert run_checks() == []
    root = User.objects.create_superuser("six", password="x")
    staff, nobody = Client(), Client()
    staff.force_login(root)
    for each in paths:
        answer = staff.get(PREFIX + each)
        assert answer.status_code == 200, (each, answer.content[-400:])
        assert b'class="sentence' in answer.content, each
        assert nobody.get(PREFIX + each).status_code == 404, each
    token = token_of(staff.cookies["pgqueue-form"].value)
    for verb in ("pause", "resume"):
        done = staff.post(f"{PREFIX}queues/email/{verb}", {"form_token": token}, headers={"Sec-Fetch-Site": "none"})
        assert done.status_code == 403, verb  # not from a page of the dashboard
    form = {"form_token": token, "why": "in a newer Django"}
    for verb in ("pause", "resume"):
        done = staff.post(
            f"{PREFIX}queues/email/{verb}",
            "&".join(f"{name}={value}" for name, value in form.items()),
            content_type="application/x-www-form-urlencoded",
            headers={"Sec-Fetch-Site": "same-origin"},
        )
        assert done.status_code == 303, (verb, done.content[-400:])
    settings.PGQUEUE["app"].close()
    print(f"Django {django.get_version()} on Python {sys.version.split()[0]}: {len(paths)} pages")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

"""`manage.py pgqueue …`: pgqueue's command line, with the app and database of the project."""

import argparse
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand

from pgqueue.cli import main
from pgqueue.django.backends import MIGRATE, migrates

SITE = "pgqueue.django.site:app"
_DJANGO_S = ("--settings", "--pythonpath")


class Command(BaseCommand):
    """Passes its arguments on: `manage.py pgqueue work -c 8`, `manage.py pgqueue status --json`."""

    help = "Run a command of pgqueue: work, schedule, status, jobs, dead, … See pgqueue --help."
    requires_system_checks = ()

    def add_arguments(self, parser: Any) -> None:
        """Take everything as it is."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command; Django has read its own options, the two that name the settings, by now."""
        self.handle(arguments=list(_without_django_s(argv[2:])))

    def handle(self, *_: Any, arguments: list[str], **__: Any) -> None:
        """Run a command, with the app of the project unless `-A` or PGQUEUE_APP names another."""
        os.environ.setdefault("PGQUEUE_APP", SITE)
        _tell_children_where()
        main(arguments, migrate=MIGRATE if migrates() else None)


def _tell_children_where() -> None:
    """Let the processes that a command starts, as `dev` does, find the project where manage.py has found it."""
    given = os.environ.get("PYTHONPATH", "")
    if sys.path[0] not in given.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], given]))


def _without_django_s(arguments: list[str]) -> Any:
    given = iter(arguments)
    for argument in given:
        if argument in _DJANGO_S:
            next(given, None)
        elif not argument.startswith(tuple(f"{name}=" for name in _DJANGO_S)):
            yield argument

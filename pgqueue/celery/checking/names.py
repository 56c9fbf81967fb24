"""Names of Celery and its companions: where each is in pgqueue.celery, and what to use for those that are not there."""

import ast
import re
from types import ModuleType

from pgqueue import celery
from pgqueue.celery import exceptions, result, signals, states

_CANVAS = {"Signature", "chain", "chord", "chunks", "group", "signature", "subtask", "xmap", "xstarmap"}
_HERE = {  # modules of Celery, and what of them can be imported from where
    "celery": ("pgqueue.celery", set(celery.__all__)),
    "celery.app": ("pgqueue.celery", {"Celery", "shared_task"}),
    "celery.app.base": ("pgqueue.celery", {"Celery"}),
    "celery.app.task": ("pgqueue.celery", {"Task"}),
    "celery.canvas": ("pgqueue.celery", _CANVAS),
    "celery.exceptions": ("pgqueue.celery.exceptions", {name for name in vars(exceptions) if name[0].isupper()}),
    "celery.result": ("pgqueue.celery.result", {name for name in vars(result) if name.endswith(("Result", "Set"))}),
    "celery.schedules": ("pgqueue.celery.schedules", {"ParseException", "crontab", "schedule"}),
    "celery.signals": (
        "pgqueue.celery.signals",
        {name for name, each in vars(signals).items() if isinstance(each, signals.Signal)},
    ),
    "celery.states": ("pgqueue.celery.states", {name for name in vars(states) if name.isupper()}),
    "celery.task": ("pgqueue.celery", {"Task"}),
    "celery.utils.log": ("pgqueue.celery", {"get_task_logger"}),
}
_INSTEAD = {
    "celery.current_app": "pgqueue.celery.get_current_app()",
    "celery.current_task": "self, with bind=True",
    "celery.schedules.solar": "a schedule that a task of yours makes each day",
    "celery.contrib.abortable": "self.request.context.cancelled, and result.revoke(terminate=True)",
    "celery.contrib.testing": "pgqueue.testing",
    "celery.contrib.pytest": "pgqueue.testing",
    "celery.contrib.rdb": "pgqueue dev, and a debugger of yours in an eager run",
    "celery.beat": "app.pgqueue.schedules",
    "celery.bin": "the command `pgqueue`",
    "celery.worker": "the command `pgqueue work`",
    "celery.bootsteps": "hooks of app.pgqueue: on_worker_start, middleware, around_attempt",
    "celery.events": "@app.pgqueue.on(…), and SQL over pgqueue.transition",
    "celery.backends": "AsyncResult: results are kept with their jobs",
    "celery.concurrency": "nothing: def tasks run in threads, those with a time limit in child processes",
    "celery.app.control": "app.control.revoke, and the commands `pgqueue workers`, `pgqueue status`",
    "celery.utils": "the standard library",
    "kombu": "the names of queues as text: queue='mail'",
    "billiard": "multiprocessing",
    "django_celery_beat": "schedules, which are rows: app.pgqueue.schedules",
    "django_celery_results": "nothing: results are kept with their jobs",
    "flower": "the dashboard: pgqueue web",
    "celery_once": "@app.task(pgqueue={'unique': pgqueue.Unique(…)})",
    "celery_singleton": "@app.task(pgqueue={'unique': pgqueue.Unique(…)})",
}
_OF_CELERY = tuple({name.partition(".")[0] for name in (*_HERE, *_INSTEAD)})
_NEW_NAME = re.compile(r"pgqueue\.(?=celery(\.|$))")
# The import lines that step 2 of docs/moving-from-celery.md changes; a test runs it, and finds no other line changed.
_CHANGED_BY_THE_PAGE = re.compile(
    r"\s*(from celery(\.utils\.log|\.app|\.app\.task|\.app\.base|\.canvas|\.task)? import"
    r"|from celery\.(exceptions|result|schedules|signals|states) import"
    r"|import celery( as .*|\s*(#.*)?)$)"
)


def in_celery(name: str) -> str:
    """Return the name that has in Celery what a name says, which may be the new one: of `pgqueue.celery.Task` it is
    `celery.Task`."""
    return _NEW_NAME.sub("", name, count=1) if _NEW_NAME.match(name) else name


def is_of_celery(name: str) -> bool:
    """Whether a name is Celery's, under its own name or the new one, or that of one that stands beside it."""
    return in_celery(name).partition(".")[0] in _OF_CELERY


def is_changed_by_the_page(line: str, column: int) -> bool:
    """Whether the import that begins at a column of a line is changed by the page's commands."""
    return not line[:column].strip() and _CHANGED_BY_THE_PAGE.match(line) is not None


def is_there(full: str) -> bool:
    """Whether a name of Celery's is there when `celery` is pgqueue.celery; what a class has is not looked at."""
    owner: object = celery
    for part in full.split(".")[1:]:
        if not isinstance(owner, ModuleType):
            return True
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def module_here(module: str, name: str | None) -> str | None:
    """Return the module from which a name of a module of Celery's is imported here; None where it is not there."""
    here = _HERE.get(module)
    if here is not None and (name is None or name in here[1]):
        return here[0]
    if name is not None and f"{module}.{name}" in _HERE:  # from celery import signals
        return "pgqueue.celery"
    return None


def remedy_for(module: str, name: str | None) -> str:
    """Return what to use instead of a name that is not where it is written."""
    here = None if name is None else module_here(module, name)
    if here is not None:
        return f"from {here} import {name}"
    full = module if name is None else f"{module}.{name}"
    while full:
        if full in _INSTEAD:
            return f"use {_INSTEAD[full]}"
        full = full.rpartition(".")[0]
    return "it has no counterpart: write what it does with the verbs of app.pgqueue"


class Imports(ast.NodeVisitor):
    """The names that a module has from Celery, or from pgqueue.celery: `Celery` is `celery.Celery` in both cases."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if is_of_celery(alias.name):
                root = alias.name.partition(".")[0]
                self.names[alias.asname or root] = in_celery(alias.name) if alias.asname else root

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if node.level == 0 and is_of_celery(full := f"{node.module}.{alias.name}"):
                self.names[alias.asname or alias.name] = in_celery(full)

    def imported(self, node: ast.AST) -> bool:
        """Whether an expression begins with one of these names; an app may be called `celery`, too."""
        return self.imported(node.value) if isinstance(node, ast.Attribute) else getattr(node, "id", "") in self.names

    def full(self, node: ast.AST) -> str:
        """Return the full name that an expression has by these imports: `signals.task_failure` is
        `celery.signals.task_failure`; the name as it stands where it is none of Celery's."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return in_celery(f"{self.full(node.value)}.{node.attr}")
        return ""

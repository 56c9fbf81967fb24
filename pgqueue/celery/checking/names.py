"""Names of Celery and its companions: where each is in pgqueue.celery, and what to use for those that are not there."""

import ast

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


def is_of_celery(module: str) -> bool:
    """Whether a module is Celery's, or one that stands beside it."""
    return module.partition(".")[0] in _OF_CELERY


def module_here(module: str, name: str | None) -> str | None:
    """Return the module from which a name of a module of Celery's is imported here; None where it is not there."""
    here = _HERE.get(module)
    if here is not None and (name is None or name in here[1]):
        return here[0]
    if name is not None and f"{module}.{name}" in _HERE:  # from celery import signals
        return "pgqueue.celery"
    return None


def remedy_for(module: str, name: str | None) -> str:
    """Return what to use instead of a name that is not there."""
    full = module if name is None else f"{module}.{name}"
    while full:
        if full in _INSTEAD:
            return f"use {_INSTEAD[full]}"
        full = full.rpartition(".")[0]
    return "it has no counterpart: write what it does with the verbs of app.pgqueue"


class Imports(ast.NodeVisitor):
    """The names that a module has from Celery: `Celery` is `celery.Celery`."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if is_of_celery(alias.name):
                self.names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0 and node.module and is_of_celery(node.module):
            for alias in node.names:
                self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def full(self, node: ast.AST) -> str:
        """Return the full name that an expression has by these imports: `signals.task_failure` is
        `celery.signals.task_failure`; the name as it stands where it is none of Celery's."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.full(node.value)}.{node.attr}"
        return ""

"""Celery's names over pgqueue: in a code base for Celery, change `from celery import …` to `from pgqueue.celery import
…`.

No Celery is needed, or imported. docs/moving-from-celery.md says what keeps its meaning, and what changes it.
"""

import logging

from pgqueue.celery import exceptions, schedules, signals, states
from pgqueue.celery.app import Celery
from pgqueue.celery.canvas import Signature, chain, chord, group
from pgqueue.celery.decorating import shared_task
from pgqueue.celery.mapping import chunks, signature, xmap, xstarmap
from pgqueue.celery.parts import current_adapter
from pgqueue.celery.result import AsyncResult, EagerResult, GroupResult
from pgqueue.celery.schedules import crontab, schedule
from pgqueue.celery.task import Task

subtask = signature


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger of a module; each line that a task writes carries its job, task, queue and attempt."""
    return logging.getLogger(name)


def get_current_app() -> Celery:
    """Return the app that shared tasks belong to. Raises ConfigError where none was made."""
    found: Celery = current_adapter()
    return found


__all__ = [
    "AsyncResult",
    "Celery",
    "EagerResult",
    "GroupResult",
    "Signature",
    "Task",
    "chain",
    "chord",
    "chunks",
    "crontab",
    "exceptions",
    "get_current_app",
    "get_task_logger",
    "group",
    "schedule",
    "schedules",
    "shared_task",
    "signals",
    "signature",
    "states",
    "subtask",
    "xmap",
    "xstarmap",
]

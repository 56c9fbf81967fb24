"""What the options of tasks and calls, and the settings, become: by the tables of the adapter itself."""

import ast
from typing import Any

from pgqueue.celery import conf, options
from pgqueue.celery.checking.finding import Kind

Verdict = tuple[Kind, str, str, str]  # kind, id, what, remedy
_PRIORITY: Verdict = (
    Kind.DIFFERS,
    "priority",
    "priority= means two things in Celery: the highest number runs first with RabbitMQ, 0 does with Redis",
    "a broker_url that is kept says which; else set conf.priority_order = 'high' or 'low'",
)
_OF_TASK: dict[str, Verdict] = {
    "rate_limit": (
        Kind.DIFFERS, "global-limit", "rate_limit is that of the whole fleet, in Celery of each worker",
        "multiply it by your workers, or give pgqueue={'rate_scope': 'worker'}",
    ),
    "time_limit": (
        Kind.DIFFERS, "child-process", "a task with a time limit runs in a child process, others in threads",
        "it shares no memory with other tasks; connections are opened in the child",
    ),
    "soft_time_limit": (
        Kind.DIFFERS, "child-process", "a task with a soft time limit runs in a child process, others in threads",
        "it shares no memory with other tasks; connections are opened in the child",
    ),
    "priority": _PRIORITY,
}  # fmt: skip


def literal(node: ast.AST | None) -> Any:
    """Return the value of a literal; None for any other expression."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def of_task(name: str, value: ast.AST) -> Verdict | None:
    """Return what becomes of an option of a task, or an attribute of a class of tasks; None where it moves."""
    if name == "acks_late" and literal(value) is False:
        return (
            Kind.DIFFERS,
            "late-acks",
            "acks_late=False: a job is always acknowledged late",
            "make the task idempotent",
        )
    if (name in _OF_TASK and literal(value) is not None) or name in ("rate_limit", "priority"):
        return _OF_TASK.get(name)
    return _refused(name, value, options.TaskOptions.__annotations__, "a task")


def of_call(name: str, value: ast.AST) -> Verdict | None:
    """Return what becomes of an option of a call; None where it moves."""
    if name == "priority":
        return _PRIORITY
    if name == "ignore_result" and literal(value) is not None:
        return Kind.CHANGE, "option", "ignore_result= in a call has no place", "give it to the task"
    if name == "task_id" and str(literal(value) or "x").isdecimal():
        return Kind.CHANGE, "option", "task_id of digits alone is that of a job", "begin it with a letter"
    return _refused(name, value, options.CallOptions.__annotations__, "a call")


def of_setting(name: str, value: ast.AST) -> Verdict | None:
    """Return what becomes of a setting; None where it moves."""
    known = conf.current_name(name)
    given = literal(value)
    if known in ("task_serializer", "result_serializer", "accept_content"):
        texts = {given} if isinstance(given, str) else set(given or ())
        if texts - {"json", "application/json"}:
            return Kind.CHANGE, "serializer", f"{known}: arguments and results are JSON", "pass the ids of rows"
    elif known in conf.ELSEWHERE:
        return Kind.CHANGE, "setting", f"{known} has no place", f"use {conf.ELSEWHERE[known]}"
    elif known in conf.ALWAYS and given is not None and given is not conf.ALWAYS[known][0]:
        return Kind.DIFFERS, "late-acks", f"{known}={given!r} means nothing", conf.ALWAYS[known][1]
    elif known == "broker_url" and isinstance(given, str) and not conf.is_dsn(given):
        return Kind.DIFFERS, "broker", "the broker is not used", "set PGQUEUE_DSN, or broker_url='postgresql://…'"
    elif known == "result_backend":
        return Kind.DIFFERS, "broker", "the result backend is not used: results are kept with their jobs", "take it out"
    elif known in ("task_default_rate_limit", "task_time_limit", "task_soft_time_limit"):
        return _OF_TASK[known.removeprefix("task_").removeprefix("default_")]
    elif known == "task_default_priority":
        return _PRIORITY
    elif not conf.is_known(known):
        return Kind.CHANGE, "setting", f"{known} is no setting that is known here", "take it out, or keep it elsewhere"
    return None


def _refused(name: str, value: ast.AST, known: Any, where: str) -> Verdict | None:
    if name == "serializer" and literal(value) not in (None, "json"):
        return Kind.CHANGE, "serializer", "arguments are JSON", "pass the ids of rows"
    if name in options.NO_PLACE:
        return Kind.CHANGE, "option", f"{name}= of {where} has no place", f"use {options.NO_PLACE[name]}"
    if name not in known:
        return Kind.CHANGE, "option", f"{where} has no option {name}", "attributes of your own belong to a class, base="
    return None

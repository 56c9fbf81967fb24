"""Tasks as a Django project has them; imported while TASKS has a backend of pgqueue."""

from typing import Any

from django.db import connection

from pgqueue import Cancel, Retry
from pgqueue.django.interface import base
from pgqueue.django.task_class import task

RAN: list[Any] = []


@base.task
def add(first: int, second: int = 2, *, third: int = 3) -> list[int]:
    RAN.append(first)
    return [first, second, third]


@base.task
async def anything(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"args": args, "kwargs": kwargs}


@base.task
def by_position(first: Any, /) -> Any:
    return first


@task(max_attempts=3, retry=[0.01, 0.01], tags=["shaky"], no_retry_on=KeyError)
def shaky(fails: int) -> str:
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pgqueue.attempt where error is not null")
        failed = cursor.fetchone()[0]
    if failed < fails:
        raise ValueError(f"failure {failed + 1}")
    return "at last"


@task(max_attempts=3, retry=[0.01, 0.01])
def verdict(name: str) -> None:
    if name == "cancel":
        raise Cancel("not wanted")
    if name == "exit":
        raise SystemExit("out")
    raise Retry("again", delay=0.01)


@task(max_attempts=3, retry=[0.01])
def no_json() -> Any:
    RAN.append("worked")
    return object()


@base.task(takes_context=True)
def attempt_of(context: Any, text: str) -> list[Any]:
    return [text, context.attempt, context.task_result.id, context.task_result.status, context.job.job_id]


@task(takes_context=True, max_attempts=2, retry=[0.01])
async def second_attempt(context: Any) -> list[Any]:
    if context.attempt == 1:
        raise ValueError("first")
    return [context.attempt, [error.exception_class_path for error in context.task_result.errors]]


@task(takes_context=True, max_attempts=1)
def once(context: Any, note: str, fail: bool) -> None:
    with context.job.transaction(using="default", result=note) as conn:
        conn.cursor().execute("insert into effect values (%s)", [note])
        add.enqueue(1)
        if fail:
            raise ConnectionError("card reader")


@task(ordered="key", backend="default")
def in_order(key: str) -> None: ...

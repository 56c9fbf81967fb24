"""Calls in Celery's words that a type checker must accept."""

from typing import Any, assert_type

from pgqueue.celery import AsyncResult, Celery, Task, chain, chord, group, shared_task

app = Celery("shop", broker="postgresql://")


class Patient(Task):
    """Options of several tasks."""

    max_retries = 5
    autoretry_for = (OSError,)


@app.task
def plain(order_id: int, to: str = "x") -> dict[str, int]:
    return {"a": order_id}


@app.task(bind=True, base=Patient, queue="mail", retry_backoff=True)
def bound(self: Task, order_id: int) -> str:
    if self.request.retries > 3:
        raise self.retry(countdown=5, exc=OSError())
    return str(order_id)


@shared_task(rate_limit="10/m", time_limit=30)
def shared(*numbers: int) -> int:
    return sum(numbers)


@shared_task(bind=True)
def shared_bound(self: Any, name: str) -> None: ...


assert_type(plain.delay(1, to="a"), AsyncResult[dict[str, int]])
assert_type(plain.delay(1).get(timeout=5), dict[str, int])
assert_type(bound.delay(order_id=1), AsyncResult[str])
assert_type(shared.delay(1, 2), AsyncResult[int])
assert_type(bound.apply_async((1,), countdown=5, queue="a", priority=3), AsyncResult[str])
assert_type(plain(1), dict[str, int])
shared_bound.delay("ann")
chain(plain.s(1), bound.si(2)).apply_async()
chord([plain.s(n) for n in range(3)], shared.s())()
group(plain.s(n) for n in range(3)).apply_async(countdown=1)
app.send_task("shop.other", kwargs={"a": 1}, queue="b")

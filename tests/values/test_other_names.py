"""Who types the name that Celery, RQ or Dramatiq has for a thing is told ours; `hasattr` works as ever."""

import copy
import pickle
from typing import Any

import pytest

from pgqueue import App, Context, InvalidInput, PgqueueError, Task, UnknownVerb, chain, testing
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.other_names import OF_APP, OF_CANVAS, OF_CONTEXT, OF_JOB, OF_QUEUES, OF_TASK
from tests.values.test_lifecycle import NOW

app = App("postgresql://nowhere", name="other names")


@app.task(name="send")
def send(n: int) -> int:
    return n


JOB = Job(1, "send", "default", 0, JobState.PENDING, "pending", {}, (), NOW, NOW, 0, 1)
THINGS: dict[str, tuple[Any, dict[str, str]]] = {
    "a task": (send, OF_TASK),
    "a bound task": (send.using(priority=1), OF_TASK),
    "an app": (app, OF_APP),
    "a job": (JOB, OF_JOB),
    "queues": (app.queues, OF_QUEUES),
    "a signature": (send.s(1), OF_CANVAS),
    "a chain": (chain(send.s(1), send.si(2)), OF_CANVAS),
}


@pytest.mark.parametrize("kind", THINGS)
def test_the_name_of_another_library_is_answered_with_ours(kind: str) -> None:
    thing, names = THINGS[kind]
    for name, instead in names.items():
        with pytest.raises(UnknownVerb) as raised:
            getattr(thing, name)
        assert isinstance(raised.value, (PgqueueError, InvalidInput))
        assert isinstance(raised.value, AttributeError)
        assert str(raised.value).endswith(f"has no {name!r}, a name of other job queues: here it is {instead}")
        assert raised.value.name == name
        assert not hasattr(thing, name)
        assert getattr(thing, name, 7) == 7


@pytest.mark.parametrize("kind", THINGS)
def test_any_other_name_is_a_plain_attribute_error(kind: str) -> None:
    thing, _ = THINGS[kind]
    with pytest.raises(AttributeError, match="has no attribute 'enqeue'") as raised:
        thing.enqeue()
    assert not isinstance(raised.value, PgqueueError)
    assert (raised.value.name, raised.value.obj) == ("enqeue", thing)


def test_what_exists_is_told_under_no_other_name() -> None:
    for thing, names in THINGS.values():
        assert [name for name in names if name in dir(thing)] == []


def test_delay_of_a_task_names_enqueue() -> None:
    with pytest.raises(UnknownVerb, match=r"a task has no 'delay', .*: here it is enqueue\(…\)$"):
        send.delay(1)  # type: ignore[attr-defined]  # type checkers refuse it, too


def test_a_context_names_the_verdict_that_retries() -> None:
    @app.task(name="retries")
    def retries(ctx: Context) -> None:
        ctx.retry(countdown=3)  # type: ignore[attr-defined]

    with pytest.raises(UnknownVerb, match=r"the context has no 'retry', .* raise pgqueue\.Retry\(delay=…\)$"):
        retries(testing.context(retries))
    assert [name for name in OF_CONTEXT if hasattr(testing.context(retries), name)] == []


@pytest.mark.parametrize("base", [App, Job, Context, Task])
def test_an_attribute_error_within_a_property_comes_through(base: type) -> None:
    class Own(base):
        @property
        def shown(self) -> str:
            return self.inner.text  # type: ignore[no-any-return]

        @property
        def inner(self) -> Any:
            return None

    own = Own.__new__(Own)
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'text'"):
        own.shown  # noqa: B018  # reading it is what is tested
    assert getattr(own, "shown", 7) == 7
    with pytest.raises(AttributeError, match="has no attribute 'enqeue'"):
        own.enqeue  # noqa: B018


def test_the_answer_is_copied_and_pickled() -> None:
    with pytest.raises(UnknownVerb) as raised:
        send.delay(1)  # type: ignore[attr-defined]
    for again in (pickle.loads(pickle.dumps(raised.value)), copy.copy(raised.value)):
        assert (type(again), str(again), again.name) == (UnknownVerb, str(raised.value), "delay")


def test_jobs_and_signatures_are_copied_and_pickled_as_ever() -> None:
    assert copy.copy(JOB) == copy.deepcopy(JOB) == pickle.loads(pickle.dumps(JOB)) == JOB
    assert copy.copy(send.s(1)).task == "send"
    assert isinstance(send, Task)

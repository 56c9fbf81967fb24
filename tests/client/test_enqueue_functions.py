"""Enqueueing functions without a decorator: those of modules that the app allows, and no other ones."""

import asyncio
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App, ConfigError, InvalidArguments, InvalidOption, InvalidTask
from pgqueue.worker import Worker
from tests.client import plain_functions
from tests.client.plain_functions import Shop, add, double, nameless, outer, spread, told
from tests.conftest import drain, scalar, work
from tests.harness import Conn, insert_job

MODULE = "tests.client.plain_functions"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def app_of(dsn: str, **options: Any) -> App:
    return App(dsn, functions_from=(MODULE,), **options)


def test_a_worker_runs_functions_of_a_module_that_it_allows(dsn: str, conn: Conn) -> None:
    caller, worker = app_of(dsn, max_attempts=3), app_of(dsn)
    jobs = [
        caller.enqueue(add, 1, to=2),
        asyncio.run(_aenqueue(caller, double, 4)),
        caller.using(queue="bulk").enqueue(told, task="x"),
    ]
    assert [job.task for job in jobs] == [f"{MODULE}.add", f"{MODULE}.double", f"{MODULE}.told"]
    assert (jobs[0].args, jobs[2].queue) == ({"n": 1, "to": 2}, "bulk")
    drain(worker, conn, queues=["default", "bulk"])
    assert [worker.get(job.id).result for job in jobs] == [3, 8, f"{MODULE}.told x 3"]
    caller.close(), worker.close()


async def _aenqueue(app: App, function: Callable[[int], Any], n: int) -> Any:
    try:
        return await app.aenqueue(function, n)
    finally:
        await app.backend.pools.aclose()


def test_a_function_joins_the_transaction_of_a_connection_that_is_lent(dsn: str, conn: Conn, connect: Any) -> None:
    app, lent = app_of(dsn), connect()
    app.using(lent, priority=7).enqueue(add, 1)
    assert scalar(lent, "select priority from pgqueue.job_live") == 7
    lent.rollback()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    app.close()


def test_routes_and_wrong_arguments_are_as_for_any_task(dsn: str, conn: Conn) -> None:
    app = app_of(dsn, routes={f"{MODULE}.a*": "mail"})
    assert app.enqueue(add, 1).queue == "mail"
    assert app.enqueue(f"{MODULE}.add", {"n": 1}).queue == "mail"
    with pytest.raises(InvalidArguments):
        app.enqueue(add, "much")  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments):  # by its name as well
        app.enqueue(f"{MODULE}.add", {"n": "much"})
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 2
    app.close()


def test_a_task_of_the_app_is_enqueued_as_its_own_verb_does(dsn: str) -> None:
    app = app_of(dsn)
    task = app.task(name="mine", queue="own")(add)
    assert (app.enqueue(task, 1).task, app.enqueue(task, 1).queue) == ("mine", "own")
    with pytest.raises(InvalidTask, match="cannot be enqueued"):
        app_of(dsn).enqueue(task, 1)
    app.close()


REFUSED = {
    "a lambda": (nameless, "would not find"),
    "a nested function": (outer(), "would not find"),
    "a method": (Shop.open, "would not find"),
    "a bound method": (Shop().open, "a method has an object"),
    "a partial": (partial(add, 1), "cannot be enqueued"),
    "a class": (Shop, "cannot be enqueued"),
    "a builtin": (len, "cannot be enqueued"),
    "a private one": (plain_functions._private, "private"),
    "one of another module": (textwrap.dedent, "textwrap is no module of App"),
    "one with numbers": (spread, "has no name to store"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_worker_would_find_is_refused_before_anything_is_written(dsn: str, conn: Conn, what: str) -> None:
    app, (function, why) = app_of(dsn), REFUSED[what]
    with pytest.raises(InvalidTask, match=why):
        app.enqueue(function)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    app.close()


def test_without_allowed_modules_no_function_is_enqueued(app: App) -> None:
    with pytest.raises(InvalidTask, match=f"{MODULE} is no module of App.*which allows none"):
        app.enqueue(add, 1)


@pytest.mark.parametrize(
    "name",
    [
        f"{MODULE}.getpid", f"{MODULE}.dedent", f"{MODULE}._private", f"{MODULE}.Shop", f"{MODULE}.Shop.open",
        f"{MODULE}.spread", f"{MODULE}.missing", "textwrap.dedent", "antigravity.fly",
    ],
)  # fmt: skip
def test_a_row_can_name_nothing_but_the_functions_of_allowed_modules(dsn: str, conn: Conn, name: str) -> None:
    app = app_of(dsn)
    insert_job(conn, task=name, args="{}")
    asyncio.run(work(app, lambda: scalar(conn, "select waits_for from pgqueue.job_live") == "task"))
    assert name not in app.tasks.names()
    assert "antigravity" not in sys.modules
    app.close()


def test_a_parked_job_runs_where_its_module_is_allowed(dsn: str, conn: Conn) -> None:
    stranger, app = App(dsn), app_of(dsn)
    job = app.enqueue(add, 1)
    asyncio.run(work(stranger, lambda: scalar(conn, "select waits_for from pgqueue.job_live") == "task"))
    asyncio.run(work(app, lambda: app.get(job.id).state == "succeeded"))
    assert app.get(job.id).result == 2
    stranger.close(), app.close()


def test_the_tasks_of_an_app_list_the_functions_that_can_be_tasks(dsn: str) -> None:
    app = app_of(dsn)
    assert app.tasks.names() == [f"{MODULE}.{name}" for name in ("add", "double", "outer", "told")]
    assert [task.name for task in app.tasks] == app.tasks.names()


@pytest.mark.parametrize("given", ["shop.jobs", ["shop jobs"], [""], [1], [".jobs"], None, {"shop": 1}])
def test_modules_that_cannot_be_named_are_refused_where_they_are_given(given: Any) -> None:
    with pytest.raises(InvalidOption, match="functions_from"):
        App(functions_from=given)


def test_a_worker_whose_allowed_module_is_broken_does_not_start(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_jobs.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="functions_from: importing broken_jobs failed with ZeroDivisionError"):
        Worker(App(dsn, functions_from=["broken_jobs"]))


def test_threads_that_ask_while_a_module_is_imported_both_see_its_functions(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_jobs.py").write_text("from tests.client import plain_functions as p\np.held()\ndef f(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    importing, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(plain_functions, "held", lambda: (importing.set(), go_on.wait(20)), raising=False)
    app = App(dsn, functions_from=["slow_jobs"])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(app.tasks.names)
        assert importing.wait(20)
        second = pool.submit(app.tasks.names)
        with pytest.raises(TimeoutError):
            second.result(0.2)  # it waits for the same import
        go_on.set()
        assert first.result(20) == second.result(20) == ["slow_jobs.f"]


def test_a_module_that_can_be_imported_at_last_has_its_functions(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_jobs.py").write_text("from tests.client.plain_functions import late\ndef f(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = App(dsn, functions_from=["late_jobs"])
    with pytest.raises(ConfigError, match="importing late_jobs failed with ImportError"):
        app.tasks.names()
    monkeypatch.setattr(plain_functions, "late", None, raising=False)
    assert app.tasks.names() == ["late_jobs.f"]


def test_a_function_may_be_the_dead_letter_task_and_goes_where_its_route_says(
    dsn: str, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "burying.py").write_text("def tell(job_id, task, queue, reason, error, fingerprint): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = App(dsn, functions_from=["burying", MODULE], dead_letter_task="burying.tell", routes={"burying.*": "letters"})
    app.enqueue(add, 1)
    target = "select headers::jsonb -> '$dead_letter_task' ->> 'queue' from pgqueue.job_live"
    assert scalar(conn, target) == "letters"
    app.close()

"""docs/dead-letters.md: its samples run, together, as one app."""

import re
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App
from tests.client.test_dead import add_dead
from tests.conftest import drain, scalar
from tests.harness import Conn
from tests.worker.test_dead_letter_task import failing

PAGE = (Path(__file__).parents[2] / "docs" / "dead-letters.md").read_text()


@pytest.fixture
def page(app: App) -> dict[str, Any]:
    """What the samples define, and `paged`: what they have said."""
    paged: list[str] = []
    names: dict[str, Any] = {"app": app, "page": paged.append, "paged": paged, "__name__": "shop"}
    for sample in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(sample, "dead-letters.md", "exec"), names)
    return names


def test_the_task_and_the_function_of_the_page_tell_of_a_dead_letter(
    app: App, conn: Conn, page: dict[str, Any]
) -> None:
    job = failing(app, "shop.fail").enqueue()
    drain(app, conn, queues=["default", "ops"])
    assert page["paged"] == [
        f"job {job.id} of shop.fail: exhausted, TimeoutError, attempt 1",
        f"job {job.id} of shop.fail is a dead letter: TimeoutError",
    ]


def test_the_replay_of_the_page_takes_at_most_its_limit_and_loses_none(
    app: App, conn: Conn, page: dict[str, Any]
) -> None:
    """The form that pops an entry and then sends it loses what is popped when its process dies."""
    add_dead(conn, 9001, 9150, task="shop.send", args='{"order_id": 1}')
    add_dead(conn, 9151, task="other")
    assert page["replay_dead_letters"](limit=100) == 100
    assert scalar(conn, "select count(*) from pgqueue.job_live where task = 'shop.send'") == 100
    assert page["replay_dead_letters"]() == 50
    assert scalar(conn, "select array_agg(task::text) from pgqueue.dead_letter") == ["other"]


def test_the_rule_of_the_page_names_tasks_that_fail_too_often(app: App, conn: Conn, page: dict[str, Any]) -> None:
    activity = (
        "insert into pgqueue.activity (worker_id, task, queue, outcome, jobs, run_seconds, wait_seconds, run_counts,"
        " wait_counts) values (gen_random_uuid(), %s, 'q', %s, %s, 0, 0, '{}', '{}')"
    )
    for task, outcome, jobs in [
        ("bad", "succeeded", 30), ("bad", "failed", 4), ("bad", "retried", 6),
        ("fine", "succeeded", 96), ("fine", "failed", 4),
        ("rare", "failed", 19),
    ]:  # fmt: skip
        conn.execute(activity, (task, outcome, jobs))
    page["watch_failures"]()
    assert page["paged"] == ["25% of 40 attempts of bad failed in the last hour"]

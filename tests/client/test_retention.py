"""Jobs with retention=0, which keep no row after success."""

from datetime import timedelta
from typing import Any

import pytest

from pgqueue import App, InvalidOption, Keep
from tests.conftest import drain, scalar
from tests.harness import Conn

LEFT = """select (select count(*) from pgqueue.job_live) + (select count(*) from pgqueue.job_finished)
               + (select count(*) from pgqueue.transition)"""


@pytest.mark.parametrize("where", ["task", "queue"])
def test_nothing_is_kept_of_what_succeeds(app: App, conn: Conn, where: str) -> None:
    ran = []
    app.retention = {"bulk": 0}

    @app.task(name="t", queue="bulk" if where == "queue" else "default", retention=0 if where == "task" else None)
    def t(n: int) -> None:
        ran.append(n)

    t.enqueue_many({"n": n} for n in range(3))
    drain(app, conn, queues=["default", "bulk"])
    assert sorted(ran) == [0, 1, 2]
    assert scalar(conn, LEFT) == 0


def test_failures_are_kept_with_their_errors(app: App, conn: Conn) -> None:
    @app.task(name="t", retention=0, retry=[0.01])
    def t() -> None:
        raise KeyError("no")

    job = t.enqueue()
    drain(app, conn)
    dead = app.get(job.id)
    assert (dead.state, dead.reason, dead.error and dead.error.type) == ("failed", "exhausted", "KeyError")
    moves = conn.execute("select from_state, to_state, error ->> 'type' from pgqueue.transition order by at").fetchall()
    assert moves == [("running", "pending", "KeyError"), ("running", "failed", "KeyError")]


@pytest.mark.parametrize("kept", [1, -1, 0.0, False, "0"])
def test_only_all_or_nothing_can_be_kept(app: App, kept: object) -> None:
    with pytest.raises(InvalidOption, match="cannot be used: give 0"):
        app.task(retention=kept)  # type: ignore[call-overload]


def test_the_rules_of_an_app_are_read() -> None:
    app = App(
        retention={
            "succeeded": "7d", "cancelled": timedelta(days=1), "failed": None, "ticks": "forever", "activity": 3600,
            "queues": {"bulk": "1h", "tenant-*": {"failed": "2w"}, "none": 0}, "tasks": {"audit.*": "90m"},
        }
    )  # fmt: skip
    assert app.retention == {"none": 0}
    assert [(rule.name, rule.queue, rule.task, rule.seconds) for rule in app.retention_rules] == [
        ("succeeded", "*", "*", 604800), ("cancelled", "*", "*", 86400), ("failed", "*", "*", None),
        ("ticks", "*", "*", None), ("activity", "*", "*", 3600), ("succeeded", "bulk", "*", 3600),
        ("cancelled", "bulk", "*", 3600), ("failed", "tenant-*", "*", 1209600), ("succeeded", "*", "audit.*", 5400),
        ("cancelled", "*", "audit.*", 5400),
    ]  # fmt: skip


@pytest.mark.parametrize(("most", "age"), [(0, "7d"), (True, "7d"), (10, "forever"), (10, "soon")])
def test_a_number_of_jobs_has_an_age_as_well(most: int, age: str) -> None:
    with pytest.raises(InvalidOption, match="cannot be"):
        Keep(most, age)


def test_a_queue_by_its_bare_name_keeps_nothing() -> None:
    app = App(retention={"bulk": 0, "other": None})
    assert (app.retention, app.retention_rules) == ({"bulk": 0, "other": None}, [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"suceeded": "7d"}, "did you mean succeeded"),
        ({"failed": Keep(10, "7d")}, "Keep counts succeeded and cancelled jobs alone: give an age for failed"),
        ({"tasks": {"a": {"failed": Keep(10, "7d")}}}, "give an age for failed"),
        ({"bulk": "1h"}, "queues stand in 'queues'"),
        ({"succeeded": 0}, "give a text such as '7d'"),
        ({"succeeded": "7 days"}, "give a text such as '7d'"),
        ({"succeeded": True}, "give a text such as '7d'"),
        ({"succeeded": "999999999w"}, "give a text such as '7d'"),
        ({"tasks": {"t": 0}}, "give a text such as '7d'"),
        ({"queues": {"*": "1d"}}, "give the ages of all jobs by state"),
        ({"queues": {"tenant-*": 0}}, "give a text such as '7d'"),
        ({"queues": {"a b": "1d"}}, "queue name 'a b' cannot be used"),
        ({"queues": {"bulk": {"ticks": "1d"}}}, "retention of bulk has no 'ticks'"),
        ({"queues": "bulk"}, "give a mapping of names to ages"),
        ("7d", "give a mapping such as"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        App(retention=given)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("succeded", "1d"), "it takes succeeded, cancelled"),
        (("ticks", "1d", "bulk"), "has no rules by queue or task"),
        (("succeeded", "soon"), "give a text such as '7d'"),
    ],
)
def test_a_rule_that_cannot_hold_is_not_set(app: App, arguments: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        app.pruning.set(*arguments)
    assert {rule.set_by for rule in app.pruning.rules()} == {"default"}

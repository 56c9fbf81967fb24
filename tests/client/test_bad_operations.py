"""Bad input to the verbs of operators: one line that names the thing and the remedy, before anything is written."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgqueue import App, InvalidOption, PgqueueError, Task
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job_filter import JobFilter
from tests.conftest import scalar, shown

HALF = "\ud800"  # half a character: UTF-8 has no bytes for it
NONSENSE: list[object] = [
    "", "a\0b", HALF, "x" * 5000, -1, 2**70, True, 1.5, math.nan, b"x", [], [1.5], {}, {"a": math.inf}, {"a": "\0"},
    {"a": [HALF]}, {1: 2}, {"a": object()}, object(), datetime(2026, 1, 1),
]  # fmt: skip
DEAD, JOBS = DeadFilter(task="nothing"), JobFilter(task="nothing")

WRITTEN = """select (select count(*) from pgqueue.operation) + (select count(*) from pgqueue.queue)
    + (select count(*) from pgqueue.transition) + (select count(*) from pgqueue.setting)"""


def refused(conn: psycopg.Connection[Any], name: str, verb: Callable[..., object], *args: Any, **options: Any) -> None:
    """Expect an error of ours in one short line that has the name, and nothing written."""
    before = scalar(conn, WRITTEN)
    with pytest.raises(PgqueueError) as caught:
        verb(*args, **options)
    message = str(caught.value)
    assert name in message, message
    assert len(message) < 500, message
    assert "\n" not in message, message
    assert scalar(conn, WRITTEN) == before


@pytest.mark.parametrize("field", ["task", "queue", "tag", "error", "group"])
@pytest.mark.parametrize("given", NONSENSE, ids=shown)
def test_a_text_of_a_filter_is_a_text_that_postgres_can_store(field: str, given: object) -> None:
    with pytest.raises(InvalidOption, match=f"^{field}=.* cannot be used: give a text of 1 to 1000 characters"):
        DeadFilter(**{field: given})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", NONSENSE, ids=shown)
def test_the_arguments_of_a_filter_are_json_that_postgres_can_store(given: object) -> None:
    for kind in (DeadFilter, JobFilter):
        with pytest.raises(InvalidOption, match=r"^args cannot be used: give "):
            kind(args=given)  # type: ignore[arg-type]


def test_an_error_quotes_no_argument(app: App, conn: psycopg.Connection[Any]) -> None:
    for ask in (
        lambda: DeadFilter(args={"card": {"4111 1111"}}),
        lambda: app.dead.edit(1, {0: "4111 1111"}),  # type: ignore[dict-item]
        lambda: conn.execute("""select pgqueue.redrive(args => '["4111 1111"]')"""),
    ):
        with pytest.raises((InvalidOption, psycopg.Error)) as raised:
            ask()
        assert "4111" not in str(raised.value)


def test_the_text_of_an_escape_is_no_nul(app: App, ship: Task[[int], int]) -> None:
    """Only an odd number of backslashes makes one in JSON."""
    job = app.using().enqueue("elsewhere", {"text": r"\u0000 and \\u0000"})
    assert [found.id for found in app.jobs.list(JobFilter(args={"text": r"\u0000 and \\u0000"}))] == [job.id]


@pytest.mark.parametrize("given", NONSENSE, ids=shown)
def test_the_ids_of_a_filter_are_ids(given: object) -> None:
    with pytest.raises(InvalidOption, match=r"^ids.* give "):
        JobFilter(ids=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["since", "until"])
@pytest.mark.parametrize("given", NONSENSE, ids=shown)
def test_the_times_of_a_filter_have_a_zone(field: str, given: object) -> None:
    with pytest.raises(InvalidOption, match=f"^{field}=.* cannot be used: give a datetime with a timezone") as caught:
        JobFilter(**{field: given})  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


def test_a_filter_keeps_ids_and_arguments_as_an_operation_stores_them() -> None:
    chosen = JobFilter(ids=range(1, 3), args={"tenant": 7})
    assert JobFilter.of_json({"ids": [1, 2], "args": {"tenant": 7}}) == chosen
    assert chosen.as_json() == '{"args": {"tenant": 7}, "ids": [1, 2]}'


def test_verbs_on_dead_letters_take_a_filter_of_dead_letters(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in (None, "task='*'", JOBS, 5):
        for verb in (app.dead.redrive, app.dead.list, app.dead.preview):
            refused(conn, "give a DeadFilter", verb, given)
        refused(conn, "give a DeadFilter", app.dead.discard, given, reason="nobody wants them")


@pytest.mark.parametrize("given", ["email", [], [""], [7], 7, ["tenant-*"]], ids=shown)
def test_queues_within_which_jobs_come_back_are_names(app: App, conn: psycopg.Connection[Any], given: object) -> None:
    refused(conn, "cannot be used", app.dead.redrive, DeadFilter(task="t"), within=given)
    refused(conn, "cannot be used", app.jobs.retry, JobFilter(task="t"), within=given)


def test_verbs_on_jobs_take_a_filter_of_jobs(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in (None, {"task": "*"}, DEAD):
        for verb in (app.jobs.cancel, app.jobs.retry, app.jobs.promote, app.jobs.list):
            refused(conn, "give a JobFilter", verb, given)
        refused(conn, "give a JobFilter", app.jobs.preview, "cancel", given)


def test_a_kind_of_preview_is_a_verb(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in (*NONSENSE, "redrive"):
        refused(conn, "give cancel, retry, promote or edit", app.jobs.preview, given, JOBS)


def test_lists_have_a_limit_and_a_page(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in NONSENSE:
        for verb in (app.dead.groups, app.operations.list):
            refused(conn, "limit=", verb, given)
        refused(conn, "limit=", app.dead.preview, DEAD, given)
        refused(conn, "limit=", app.jobs.preview, "retry", JOBS, given)
        for lists, chosen in ((app.dead, DEAD), (app.jobs, JOBS)):
            refused(conn, "limit=", lists.list, chosen, given)
            refused(conn, "before=", lists.list, chosen, 10, given)


def test_an_operation_and_a_dead_letter_are_named_by_ids(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in NONSENSE:
        for verb in (app.operations.get, app.operations.stop, app.operations.resume):
            refused(conn, "operation", verb, given)
        refused(conn, "job" if type(given) is not int or given > 0 else "dead letter", app.dead.edit, given, {"n": 1})
        refused(conn, "job" if type(given) is not int or given > 0 else "dead letter", app.dead.annotate, given, "x")


def test_changes_are_names_with_values(app: App, conn: psycopg.Connection[Any]) -> None:
    job = app.using(delay=3600).enqueue("elsewhere", {"n": 1})
    for given in NONSENSE:
        for edit in (app.edit, app.dead.edit):
            refused(conn, "", edit, job.id, given)
        refused(conn, "", app.jobs.edit, JOBS, given)


def test_what_an_operation_notes_of_itself_is_checked(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in NONSENSE:
        refused(conn, "on_batch=", app.dead.redrive, DEAD, on_batch=given)
        refused(conn, "via", app.jobs.cancel, JOBS, via=given)
        refused(conn, "reason", app.dead.discard, DEAD, reason=given)
        if given != "":
            refused(conn, "reason", app.queues.pause, "bulk", reason=given)


def test_queues_and_workers_are_named_by_text(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in NONSENSE:
        refused(conn, "worker" if isinstance(given, str) else "quiet", app.workers.quiet, given)
        if not isinstance(given, str):
            refused(conn, "pattern", app.queues.list, given)


def test_a_pause_ends_in_a_year_that_postgres_takes(app: App, conn: psycopg.Connection[Any]) -> None:
    for year in (1800, 9500):
        refused(conn, "give a year from 1900 to 9000", app.queues.pause, "bulk", until=datetime(year, 1, 1, tzinfo=UTC))


def test_a_rate_is_a_number_of_jobs_a_second(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in (*NONSENSE, 0, 0.0001, 100_001, 2**1100):
        if given != 1.5:
            refused(conn, "give 0.001 to 100000 jobs a second", app.dead.redrive, DEAD, rate=given)


def test_a_redrive_gives_as_many_attempts_as_a_task_may_have(app: App, conn: psycopg.Connection[Any]) -> None:
    for given in (*NONSENSE, 0, 1_000_001):
        refused(conn, "give 1 to 1000000", app.dead.redrive, DEAD, attempts=given)

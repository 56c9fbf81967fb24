"""No setting of a session, its role or its database changes what a statement reads or writes."""

import re
from typing import Any

import psycopg
import pytest

from pgqueue import App, Unique, db
from pgqueue.jobs.job import NewJob
from pgqueue.schedules.plan import Every
from pgqueue.schedules.schedule import Schedule
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, new_job
from tests.statements.test_queries import PLANS, SAMPLES, TICK, fill

ODD = {
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "datestyle": "German, DMY",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "-15",
    "intervalstyle": "sql_standard",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "timezone": "Asia/Kathmandu",
    "transform_null_equals": "on",
    "xmlbinary": "hex",
}
OPTIONS = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in ODD.items())
READ = ["jobs.get", "jobs.list", "schedules.read", "schedules.lock", "schedules.declaration", "waits.read_jobs"]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_statement_runs_under_odd_settings(tx: Conn, name: str) -> None:
    fill(tx)
    configure(tx, ODD)
    db.run(tx, SAMPLES[name](QUERIES))


@pytest.mark.parametrize("name", READ)
def test_odd_settings_change_nothing_that_is_read(tx: Conn, name: str) -> None:
    job = NewJob("t", "{}", "q", 0, 3)
    schedules = [Schedule("s", Every(86399.123456789), job, jitter=1.0000000001), *PLANS[1:]]
    db.run(tx, QUERIES.schedules.declare([(schedule, TICK) for schedule in schedules]))
    tx.execute("insert into pgqueue.job_live (id, task, queue, args) values (1, 't', 'q', '{\"n\": 1.5e300}')")
    configure(tx, {"timezone": ODD["timezone"]})  # a time is read with the zone of its session
    as_usual = stripped(db.run(tx, SAMPLES[name](QUERIES)))
    configure(tx, ODD)
    assert stripped(db.run(tx, SAMPLES[name](QUERIES))) == as_usual


def configure(conn: Conn, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        conn.execute("select set_config(%s, %s, true)", (name, value))


def stripped(found: Any) -> str:
    """What was read, without the moment at which."""
    found = found if isinstance(found, list) else [found]
    return repr([(one.schedule, one.args) if hasattr(one, "schedule") else one for one in found])


BACKSLASHES = re.compile(r"(?<!E)'[^']*\\[^']*'")


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_no_literal_has_a_backslash_unless_it_says_so(name: str) -> None:
    """Where standard_conforming_strings is off, a backslash escapes in every literal; in E'…' it always does."""
    assert BACKSLASHES.findall(SAMPLES[name](QUERIES).sql.decode()) == []


def test_no_literal_of_a_function_has_a_backslash_unless_it_says_so(tx: Conn) -> None:
    bodies = tx.execute("select proname, prosrc from pg_proc where pronamespace = 'pgqueue'::regnamespace").fetchall()
    assert [(name, BACKSLASHES.findall(body)) for name, body in bodies if BACKSLASHES.search(body)] == []


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_lists_that_may_hold_nulls_are_sent_in_binary(name: str) -> None:
    query = SAMPLES[name](QUERIES)
    sparse = [key for key, value in query.params.items() if isinstance(value, list) and None in value]
    assert [key for key in sparse if f"%({key})b".encode() not in query.sql] == []


def test_what_is_null_in_a_batch_stays_null(tx: Conn) -> None:
    configure(tx, ODD)
    jobs = [new_job(), new_job(delay=60.0), new_job(run_at=TICK)]
    first, second, third = db.run(tx, QUERIES.jobs.enqueue(jobs))
    assert (second.run_at - first.run_at).total_seconds() == 60
    assert third.run_at == TICK


def test_a_key_is_the_same_whatever_the_settings(emptied_dsn: str) -> None:
    app = App(emptied_dsn)
    job = app.using(unique_key="k\\e'y", unique=Unique(window=60)).enqueue("t", {})
    app.close()
    call = "select pgqueue.enqueue('t', unique_key => %s, unique_window => '1 minute')"
    for options in ("", OPTIONS):
        with psycopg.connect(emptied_dsn, autocommit=True, options=options) as conn:
            assert scalar(conn, call, "k\\e'y") == job.id

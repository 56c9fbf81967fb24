"""What a target sends, and how its job goes on after each answer."""

import json
import logging
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pgqueue import App, InvalidArguments, InvalidOption, Job
from pgqueue.http import Secret, Target, target, verify
from pgqueue.http.addresses import Addresses
from pgqueue.http.answers import retry_after
from pgqueue.http.requests import Checks, Secrets
from pgqueue.testing import Jobs
from tests.edges.http.conftest import NEW, OLD, TOKEN
from tests.edges.http.hook_server import HookServer, certificate_for, serving


def test_a_request_is_signed_and_the_job_has_the_status(
    app: App, jobs: Jobs, hooks: Target, server: HookServer
) -> None:
    server.will_answer(202, {}, b"thanks")
    job = hooks.enqueue(f"{server.url}?a=1", body={"type": "order.paid", "data": {"id": 7, "name": "é"}})
    assert jobs.drain().succeeded == 1
    (got,) = server.received
    assert (got.method, got.path) == ("POST", "/hook?a=1")
    assert json.loads(got.body) == {"type": "order.paid", "data": {"id": 7, "name": "é"}}
    assert got.headers["content-type"] == "application/json"
    for secret in (OLD, NEW):
        assert verify(got.body, got.headers, secret) == got.headers["idempotency-key"]
    assert app.get(job.id).result == {"status": 202, "body": None}
    assert job.args["body"]["data"]["id"] == 7


def test_a_url_is_sent_whole_and_an_address_of_six_has_its_brackets(
    jobs: Jobs, hooks: Target, server: HookServer
) -> None:
    hooks.enqueue(f"{server.url};v=2?a=1;b")
    hooks.enqueue(f"http://[::ffff:127.0.0.1]:{server.port}/?a")
    assert jobs.drain().succeeded == 2
    whole, six = server.received
    assert (whole.path, whole.headers["host"]) == ("/hook;v=2?a=1;b", f"127.0.0.1:{server.port}")
    assert (six.path, six.headers["host"]) == ("/?a", f"[::ffff:7f00:1]:{server.port}")


def test_a_secret_that_the_kept_part_of_an_answer_would_halve_is_not_kept(
    app: App, jobs: Jobs, server: HookServer
) -> None:
    echo = target(app, "echo", secrets={"p": TOKEN}, allow=["127.0.0.0/8"], plain_http=True, keep_response=20)
    server.will_answer(200, {}, f"you sent {TOKEN}, thanks".encode())
    job = echo.enqueue(server.url, headers={"authorization": Secret("p")})
    assert jobs.drain().succeeded == 1
    assert app.get(job.id).result == {"status": 200, "body": "you sent …, thanks"}


def test_a_job_is_in_the_transaction_of_its_caller(jobs: Jobs, hooks: Target, server: HookServer) -> None:
    with jobs.conn.transaction(force_rollback=True):
        hooks.using(jobs.conn).enqueue(server.url)
    assert (jobs.drain().total, server.received) == (0, [])
    with jobs.conn.transaction():
        hooks.using(jobs.conn).enqueue(server.url)
    assert (jobs.drain().succeeded, len(server.received)) == (1, 1)


def test_each_attempt_has_the_same_id_and_a_signature_of_its_own_time(
    jobs: Jobs, hooks: Target, server: HookServer
) -> None:
    server.will_answer(500)
    hooks.using(idempotency_key="order.7").enqueue(server.url, "PUT", body="as it is")
    assert jobs.drain(with_scheduled=True).succeeded == 1
    first, second = server.received
    assert [first.body, second.body] == [b"as it is"] * 2
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == first.headers["idempotency-key"]
    assert "." not in first.headers["webhook-id"]
    assert verify(second.body, second.headers, OLD).startswith("msg_")
    assert second.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_target_without_a_secret_signs_nothing(app: App, jobs: Jobs, server: HookServer) -> None:
    plain = target(app, "plain", allow=["127.0.0.1/32"], plain_http=True)
    plain.enqueue(server.url, "GET")
    assert jobs.drain().succeeded == 1
    assert not {name for name in server.received[0].headers if name.startswith("webhook-")}
    assert server.received[0].headers["idempotency-key"].startswith("pgqueue-")


def test_a_secret_in_a_header_is_sent_and_stands_in_no_row_and_no_line_of_the_log(
    app: App, jobs: Jobs, server: HookServer, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = target(
        app, "webhook", secrets=lambda name: {"partner": TOKEN, "sign": OLD}[name], sign="sign",
        allow=["127.0.0.0/8"], plain_http=True, retry=[60], keep_response=1000,
    )  # fmt: skip
    server.will_answer(503, {}, f"not with {TOKEN}\x00".encode())
    server.will_answer(200, {}, f"hello {TOKEN}".encode())
    with caplog.at_level(logging.DEBUG):
        job = hooks.enqueue(server.url, headers={"Authorization": Secret("partner"), "X-Kind": "order"})
        assert jobs.drain(with_scheduled=True).succeeded == 1
    assert [got.headers["authorization"] for got in server.received] == [TOKEN] * 2
    assert server.received[0].headers["x-kind"] == "order"
    assert app.get(job.id).result == {"status": 200, "body": "hello …"}
    (error,) = app.get(job.id).errors
    assert error.message == "127.0.0.1 answered 503: not with …\ufffd"
    rows = jobs.conn.execute(
        "select row_to_json(j)::text from pgqueue.job j union all select row_to_json(t)::text from pgqueue.transition t"
    ).fetchall()
    assert len(rows) > 4
    for secret in (TOKEN, "s3cr3t", OLD, OLD.removeprefix("whsec_")):
        assert secret not in str(rows)
        assert secret not in caplog.text
    assert server.url not in caplog.text


def test_what_may_pass_is_retried(app: App, jobs: Jobs, hooks: Target, server: HookServer) -> None:
    statuses = [408, 429, 500, 502, 503, 504, 404, 401, 409]
    for status in statuses:
        server.will_answer(status)
    made = [hooks.enqueue(server.url) for _ in statuses]
    assert jobs.drain().retried == len(statuses)
    assert [_error(jobs, job) for job in made] == [f"127.0.0.1 answered {status}" for status in statuses]
    assert jobs.drain(with_scheduled=True).succeeded == len(statuses)


def test_what_will_not_pass_is_given_up(jobs: Jobs, hooks: Target, server: HookServer) -> None:
    statuses = [410, 400, 413, 422, 501, 301, 302, 307, 304]
    for status in statuses:
        server.will_answer(status, {"Location": server.url})
    made = [hooks.enqueue(server.url) for _ in statuses]
    assert jobs.drain(with_scheduled=True).failed == len(server.received) == len(statuses)
    assert [_error(jobs, job) for job in made] == [f"127.0.0.1 answered {status}" for status in statuses]


def test_a_target_names_the_statuses_that_are_permanent(app: App, jobs: Jobs, server: HookServer) -> None:
    hooks = target(app, "webhook", allow=["127.0.0.0/8"], plain_http=True, permanent={404})
    for status in (404, 410):
        server.will_answer(status)
        hooks.enqueue(server.url)
    assert (drained := jobs.drain()).failed == drained.retried == 1


def _error(jobs: Jobs, job: Job) -> str:
    found: str = jobs.conn.execute(
        "select error->>'message' from pgqueue.transition where job_id = %s and error is not null", [job.id]
    ).fetchone()[0]  # type: ignore[index]
    return found


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "90"}, 90),
        ({"Retry-After": "5"}, 60),  # not before the policy: the attempts would be used up
        ({"Retry-After": "99999999"}, 86_400),
        ({"Retry-After": "soon"}, 60),
        ({"Retry-After": "Tue, 01 Jan 2030 00:02:00 GMT", "Date": "Tue, 01 Jan 2030 00:00:00 GMT"}, 120),
    ],
)
def test_a_job_comes_back_when_the_receiver_says(
    jobs: Jobs, hooks: Target, server: HookServer, headers: dict[str, str], seconds: int
) -> None:
    server.will_answer(429, headers)
    job = hooks.enqueue(server.url)
    assert jobs.drain().retried == 1
    waits = jobs.conn.execute(
        "select extract(epoch from j.run_at - t.at) from pgqueue.job_live j"
        " join pgqueue.transition t on t.job_id = j.id where j.id = %s and t.reason is not null",
        [job.id],
    ).fetchall()
    assert [round(wait) for (wait,) in waits] == [seconds]


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("120", 120), ("0", 0), ("-1", None), ("1.5", None), ("", None), ("\u0661", None), ("Tue, 99 Foo", None)],
)
def test_retry_after_is_seconds_or_a_date(asked: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": asked}) == seconds


def test_a_date_is_counted_from_now_where_the_answer_has_none() -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3000 < (retry_after({"retry-after": in_an_hour}) or 0) <= 3600
    assert retry_after({"retry-after": "Tue, 01 Jan 2019 00:00:00 GMT"}) == 0


def test_a_receiver_that_is_down_is_tried_again(app: App, jobs: Jobs, hooks: Target, server: HookServer) -> None:
    job = hooks.enqueue("http://127.0.0.1:1/hook?token=x")
    assert jobs.drain().retried == 1
    assert "127.0.0.1 cannot be reached: ConnectError" in _error(jobs, job)
    assert "token" not in _error(jobs, job)


def test_a_receiver_that_does_not_answer_is_tried_again(app: App, jobs: Jobs, server: HookServer) -> None:
    hooks = target(app, "webhook", allow=["127.0.0.0/8"], plain_http=True, timeout=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hooks.enqueue(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert jobs.drain().retried == 1


def test_only_the_beginning_of_an_answer_is_read(app: App, jobs: Jobs, server: HookServer) -> None:
    hooks = target(app, "webhook", allow=["127.0.0.0/8"], plain_http=True, keep_response=10)
    server.will_answer(200, {}, b"x" * 5_000_000)
    server.will_answer(200, {"Content-Length": "1000"}, b"cut short")
    jobs_made = [hooks.enqueue(server.url), hooks.enqueue(server.url)]
    assert jobs.drain().succeeded == 2
    assert [app.get(job.id).result["body"] for job in jobs_made] == ["x" * 10, "cut short"]


def test_redirects_are_followed_within_an_origin_where_that_is_asked(app: App, jobs: Jobs, server: HookServer) -> None:
    options: Any = {"secrets": {"partner": TOKEN, "shop": OLD}, "sign": "shop", "allow": ["127.0.0.0/8"]}
    hooks = target(app, "webhook", **options, plain_http=True, redirects=2)
    server.will_answer(307, {"Location": "/moved"})
    server.will_answer(308, {"Location": f"http://127.0.0.1:{server.port}/again"})
    hooks.enqueue(server.url, headers={"Authorization": Secret("partner"), "X-Shop": "eu"}, body=[1])
    assert jobs.drain().succeeded == 1
    assert [(got.path, got.body) for got in server.received] == [
        ("/hook", b"[1]"),
        ("/moved", b"[1]"),
        ("/again", b"[1]"),
    ]
    for got in server.received:
        assert verify(got.body, got.headers, OLD)
        assert (got.headers["authorization"], got.headers["x-shop"]) == (TOKEN, "eu")
    for _ in range(3):
        server.will_answer(307, {"Location": "/round"})
    hooks.enqueue(server.url)
    assert jobs.drain().failed == 1


def test_another_origin_gets_nothing_of_a_request_that_is_redirected_to_it(
    app: App, jobs: Jobs, server: HookServer
) -> None:
    signed = target(
        app, "signed", secrets={"shop": OLD}, sign="shop", allow=["127.0.0.0/8"], plain_http=True, redirects=2
    )
    plain = target(app, "plain", allow=["127.0.0.0/8"], plain_http=True, redirects=2)
    with serving() as other:
        locations = (f"http://127.0.0.1:{other.port}/?t=x", f"//localhost:{server.port}/", "http://10.0.0.1/")
        for sender in (signed, plain):
            for location in (*locations, "ftp://example.com/", "http://user:pass@example.com/"):
                server.will_answer(307, {"Location": location})
                job = sender.enqueue(server.url, headers={"X-Api-Key": "k"})
                assert jobs.drain().failed == 1
                if location == locations[0]:
                    assert _error(jobs, job) == (
                        f"127.0.0.1 redirects to another origin, http://127.0.0.1:{other.port}: "
                        "enqueue the URL there if it is right"
                    )
        assert (other.received, len(server.received)) == ([], 10)


@pytest.mark.parametrize(
    ("url", "location", "leads"),
    [
        ("http://a.example/x", "https://a.example/x", True),
        ("http://a.example/x", "https://A.example:443/y?z=1", True),
        ("https://a.example/x", "y", True),
        ("https://a.example/x", "https://a.example:443/y", True),
        ("https://a.example/x", "http://a.example/x", False),
        ("https://a.example/x", "https://a.example:8443/x", False),
        ("https://a.example/x", "https://www.a.example/x", False),
        ("http://a.example:8080/x", "https://a.example:8080/x", False),
        ("http://a.example/x", "https://b.example/x", False),
    ],
)
def test_a_redirect_leads_to_the_same_origin_or_to_tls_on_the_same_host(url: str, location: str, leads: bool) -> None:
    checks = Checks(Secrets({}), Addresses(), plain_http=True)
    if leads:
        assert urlsplit(checks.redirected(url, location)).hostname == "a.example"
    else:
        with pytest.raises(ValueError, match="another origin"):
            checks.redirected(url, location)


def test_a_certificate_is_verified_and_so_is_the_name_in_it(app: App, jobs: Jobs, tmp_path: Path) -> None:
    authority = certificate_for("localhost", tmp_path)
    default = target(app, "default", allow=["127.0.0.0/8", "::1/128"], retry=[60])
    own = target(
        app, "own", allow=["127.0.0.0/8", "::1/128"], retry=[60], tls=ssl.create_default_context(cafile=authority)
    )
    with serving(authority) as server:
        unknown = default.enqueue(f"https://localhost:{server.port}/")
        misnamed = own.enqueue(f"https://127.0.0.1:{server.port}/")
        known = own.enqueue(f"https://localhost:{server.port}/")
        assert (drained := jobs.drain()).retried == 2
        assert (drained.succeeded, len(server.received)) == (1, 1)
    assert "self-signed certificate" in _error(jobs, unknown)
    assert "IP address mismatch" in _error(jobs, misnamed)
    assert app.get(known.id).state == "succeeded"


def test_a_context_that_does_not_verify_is_refused(app: App) -> None:
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(InvalidOption, match="that verifies"):
        target(app, "careless", tls=careless)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"url": "http://example.com/"}, "without TLS"),
        ({"url": "https://user:pass@example.com/"}, "with a user or password"),
        ({"url": "ftp://example.com/"}, "no URL that can be called"),
        ({"url": "https://shop..example/"}, "no name server knows"),
        ({"url": f"https://{'a' * 64}.example/"}, "no name server knows"),
        ({"method": "TRACE"}, "method"),
        ({"headers": {"Authorization": "Bearer x"}}, "would stand in the job"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "not printable"),
        ({"headers": {"X A": "a"}}, "no name of a header"),
        ({"headers": {"X-A": "a", "x-a": "b"}}, "given twice"),
        ({"headers": {"Webhook-Id": "a"}}, "set by pgqueue"),
        ({"headers": {"Host": "a"}}, "set by pgqueue"),
        ({"headers": {"X-A": Secret("missing")}}, "no secret is named 'missing'"),
        ({"sign": "missing"}, "no secret is named 'missing'"),
        ({"body": object()}, "body"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is_written(
    app: App, jobs: Jobs, call: dict[str, Any], said: str
) -> None:
    hooks = target(app, "webhook", secrets={"a": OLD})
    with pytest.raises(InvalidArguments, match=said):
        hooks.enqueue(**({"url": "https://example.com/"} | call))
    assert jobs.all() == []


@pytest.mark.parametrize(
    "options",
    [
        {"secrets": {"a": "short"}, "sign": "a"}, {"secrets": {}, "sign": "a"}, {"secrets": "whsec_"},
        {"redirects": -1}, {"redirects": True}, {"keep_response": 65_537}, {"permanent": {200}}, {"permanent": {"x"}},
        {"tls": True},
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_used_is_refused(app: App, options: Any) -> None:
    with pytest.raises(InvalidOption):
        target(app, "webhook", **options)


def test_a_target_is_tried_for_three_days_unless_it_says_otherwise(app: App) -> None:
    settings = target(app, "webhook", queue="hooks").task.spec
    waits = [settings.retry.delay(attempt) for attempt in range(1, settings.max_attempts)]
    assert (settings.timeout, settings.queue, len(waits)) == (20, "hooks", 10)
    assert 2.5 < sum(waits) / 86_400 < 4
    assert target(app, "short", retry=[1, 2]).task.spec.max_attempts == 3


def test_plain_sql_makes_the_same_job(app: App, jobs: Jobs, hooks: Target, server: HookServer) -> None:
    args = {"url": server.url, "headers": {"X-Token": {"secret": "partner"}}, "body": {"id": 1}}
    jobs.conn.execute("select pgqueue.enqueue('webhook', %s)", [json.dumps(args)])
    jobs.conn.execute("select pgqueue.enqueue('webhook', %s)", [json.dumps({"url": "http://10.0.0.1/"})])
    drained = jobs.drain()
    assert (drained.succeeded, drained.failed) == (1, 1)
    assert server.received[0].headers["x-token"] == TOKEN

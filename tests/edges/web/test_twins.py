"""The same routes in three frameworks: Starlette, Flask and Django, by WSGI and by ASGI, answer alike."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import httpx
import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from django.urls import include, path
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount, Route

import pgqueue.django
import pgqueue.flask
from pgqueue import App, ConfigError, InvalidOption, Job, answers, web
from pgqueue.answers import JobAnswers, SignedIds, gone
from tests.conftest import drain
from tests.django_site import django_on
from tests.edges.web.clients import events
from tests.harness import Conn

SECRET = "a secret of thirty-two characters"
Ask = Callable[..., httpx.Response]
Build = Callable[..., Ask]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def over_asgi(api: Any) -> Ask:
    def ask(method: str, place: str, **headers: str) -> httpx.Response:
        async def body() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
                return await client.request(method, place, headers=headers)

        return asyncio.run(body())

    return ask


def over_wsgi(site: Any) -> Ask:
    client = httpx.Client(transport=httpx.WSGITransport(site), base_url="http://test")
    return lambda method, place, **headers: client.request(method, place, headers=headers)


def starlette(app: App, start: Callable[[], Job], ids: SignedIds | None, **options: Any) -> Ask:
    def begin(request: Any) -> Any:
        return web.accepted(request, start(), ids=ids)

    mounted = Mount("/jobs", web.router(app, ids=ids, **options))
    return over_asgi(Starlette(routes=[mounted, Route("/start", begin, methods=["POST"])]))


def flask(app: App, start: Callable[[], Job], ids: SignedIds | None, **options: Any) -> Ask:
    site = Flask("site")
    site.register_blueprint(pgqueue.flask.blueprint(app, ids=ids, **options), url_prefix="/jobs")
    site.post("/start")(lambda: pgqueue.flask.accepted(start(), ids=ids))
    return over_wsgi(site.wsgi_app)


def urls(app: App, start: Callable[[], Job], ids: SignedIds | None, **options: Any) -> None:
    module = ModuleType("tests_urls_of_jobs")
    module.urlpatterns = [  # type: ignore[attr-defined]
        path("jobs/", include(pgqueue.django.job_urls(app, ids=ids, **options))),
        path("start", lambda request: pgqueue.django.accepted(start(), ids=ids)),
    ]
    sys.modules["tests_urls_of_jobs"] = module


def django_wsgi(*given: Any, **options: Any) -> Ask:
    urls(*given, **options)
    return over_wsgi(WSGIHandler())


def django_asgi(*given: Any, **options: Any) -> Ask:
    urls(*given, **options)
    return over_asgi(ASGIHandler())


@pytest.fixture(params=[starlette, flask, django_wsgi, django_asgi], ids=lambda each: each.__name__)
def build(request: pytest.FixtureRequest, dsn: str) -> Iterator[Build]:
    with ExitStack() as stack:
        if "django" in request.param.__name__:
            stack.enter_context(django_on(dsn))
            stack.enter_context(
                override_settings(ROOT_URLCONF="tests_urls_of_jobs", MIDDLEWARE=[], ALLOWED_HOSTS=["test"])
            )
        yield request.param


def may(request: Any, job: Job) -> bool:
    return bool(request.headers.get("x-user") == job.args["owner"])


def test_each_framework_answers_alike(build: Build, app: App, conn: Conn) -> None:
    @app.task(name="build", max_attempts=1)
    def make(owner: str, fails: bool = False) -> int:
        if fails:
            raise LookupError("card 4711")
        return 3

    ask = build(app, lambda: make.enqueue("ann"), None, authorize=may)
    begun = ask("POST", "/start")
    place = begun.headers["location"]
    assert (begun.status_code, begun.headers["retry-after"]) == (202, "1")
    assert begun.json() == {"job_id": 1, "status": "pending", "poll_url": "/jobs/1"}
    for other in ("/jobs/1", "/jobs/2", "/jobs/x"):
        refused = ask("GET", other, **{"x-user": "bob"})
        assert (refused.status_code, refused.json()) == (404, {"detail": "no such job"})
    assert ask("DELETE", "/jobs/1", **{"x-user": "bob"}).status_code == 404
    waiting = ask("GET", place, **{"x-user": "ann"})
    assert (waiting.json()["status"], waiting.headers["retry-after"]) == ("pending", "1")
    bad, unwanted = make.enqueue("ann", fails=True), make.using(delay=60).enqueue("ann")
    drained = ask("POST", f"/jobs/{unwanted.id}/cancel", **{"x-user": "ann"})
    assert (drained.status_code, drained.json()["status"]) == (200, "cancelled")
    drain(app, conn)
    done = ask("GET", place, **{"x-user": "ann"})
    assert (done.json()["result"], done.json()["error"], done.headers["cache-control"]) == (3, None, "no-store")
    failed = ask("GET", f"/jobs/{bad.id}", **{"x-user": "ann"})
    assert (failed.json()["result"], failed.json()["error"]) == (None, {"type": "LookupError"})
    assert "4711" not in failed.text
    late = ask("DELETE", place, **{"x-user": "ann"})
    assert (late.status_code, late.json()) == (409, {"detail": "job 1 has already succeeded"})


def test_each_framework_streams_the_changes_to_the_end(build: Build, app: App, conn: Conn) -> None:
    @app.task(name="build")
    def make(owner: str) -> int:
        return 3

    ask = build(app, lambda: make.enqueue("ann"), None, authorize=may, max_streams=1)
    job = make.enqueue("ann")
    drain(app, conn)
    for _ in range(2):  # a stream that has ended makes room for the next
        stream = ask("GET", f"/jobs/{job.id}/events", **{"x-user": "ann"})
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = events(stream.text)
        assert [kind for kind, _ in told] == ["status", "end"]
        assert told[0][1]["result"] == 3
    assert ask("GET", f"/jobs/{job.id}/events", **{"x-user": "ann", "last-event-id": "end"}).status_code == 204
    assert ask("GET", f"/jobs/{job.id}/events", **{"x-user": "bob"}).status_code == 404


def test_a_signed_id_is_a_right_and_a_guess_is_none(build: Build, app: App, conn: Conn) -> None:
    @app.task(name="build")
    def make() -> int:
        return 3

    ids = SignedIds(SECRET)
    ask = build(app, make.enqueue, ids)
    first, second = (ask("POST", "/start").json() for _ in range(2))
    token = first["job_id"]
    assert token == ids.sign(1)
    assert ask("GET", first["poll_url"]).json()["job_id"] == token
    signature = token.partition(".")[2]
    for guess in ("1", "1.", f"2.{signature}", f"1.{signature[:-1]}", SignedIds("x" * 32).sign(1), f"{token}é"):
        assert ask("GET", f"/jobs/{guess}").status_code == 404, guess
        assert ask("DELETE", f"/jobs/{guess}").status_code == 404, guess
    assert ask("DELETE", second["poll_url"]).json()["status"] == "cancelled"


def test_a_secret_is_replaced_without_breaking_ids_that_are_out() -> None:
    old = SignedIds(SECRET)
    new = SignedIds(b"another secret of many characters", SECRET)
    assert (new.read(old.sign(7)), new.read(new.sign(7)), old.read(new.sign(7))) == (7, 7, None)
    assert SECRET not in repr(new)
    with pytest.raises(InvalidOption, match="16 bytes or more"):
        SignedIds("short")


def test_an_id_that_is_signed_for_one_schema_is_none_in_another() -> None:
    shop = App("postgresql://nowhere", shards=["acme", "initech"])
    acme, initech = shop.on("acme"), shop.on("initech")
    ids = SignedIds(SECRET, scope=lambda: shop.schema)
    with acme.current():
        token = ids.sign(17)
        assert ids.read(token) == 17
    with initech.current():
        assert ids.read(token) is None
    for one in (shop, acme):
        with pytest.raises(InvalidOption, match="each schema has a job 1"):
            pgqueue.flask.blueprint(one, ids=SignedIds(SECRET))


def test_a_stream_stays_in_the_schema_in_which_it_was_asked_for(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, looked, job = App("postgresql://nowhere", shards=["acme"]), list[str](), app.enqueue("nobody's")

    def again(self: JobAnswers, job: Job) -> Job:
        looked.append(self.app.schema)
        return gone(job)

    monkeypatch.setattr(JobAnswers, "find", lambda self, text: job)
    monkeypatch.setattr(JobAnswers, "again", again)
    monkeypatch.setattr(answers, "LOOK_SECONDS", 0.0)
    site = Flask("site")
    site.register_blueprint(pgqueue.flask.blueprint(shop, authorize=lambda request, job: True), url_prefix="/jobs")

    def of_acme(environ: Any, start_response: Any) -> Any:
        with shop.on("acme").current():
            return site.wsgi_app(environ, start_response)

    assert "succeeded" in over_wsgi(of_acme)("GET", "/jobs/1/events").text
    assert looked == ["acme"]


def test_ids_that_can_be_guessed_need_a_decision(app: App) -> None:
    with pytest.raises(InvalidOption, match="can be guessed: give authorize=…, ids="):
        pgqueue.flask.blueprint(app)
    with pytest.raises(InvalidOption, match="can be guessed"):
        pgqueue.django.job_urls(app)


def test_a_stream_without_an_event_loop_waits_for_changes_and_gives_its_place_back(app: App, conn: Conn) -> None:
    @app.task(name="build")
    def make(owner: str) -> int:
        return 3

    site = Flask("site")
    site.register_blueprint(pgqueue.flask.blueprint(app, authorize=may, max_streams=1), url_prefix="/jobs")
    job = make.enqueue("ann")
    client = site.test_client()
    with client.get(f"/jobs/{job.id}/events", headers={"x-user": "ann"}) as stream:
        parts = iter(stream.response)
        assert b'"status": "pending"' in next(parts)  # type: ignore[operator]
        full = client.get(f"/jobs/{job.id}/events", headers={"x-user": "ann"})
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        drain(app, conn)
        assert b'"status": "succeeded"' in next(parts)  # type: ignore[operator]
        assert next(parts, None) is None
    with client.get(f"/jobs/{job.id}/events", headers={"x-user": "ann"}) as again:
        assert again.status_code == 200


def test_without_the_routes_accepted_says_what_to_add(app: App) -> None:
    site = Flask("site")
    job = app.enqueue("nobody's")
    with site.test_request_context("/"), pytest.raises(ConfigError, match="no blueprint 'pgqueue_jobs' is registered"):
        pgqueue.flask.accepted(job)

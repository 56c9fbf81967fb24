"""The dashboard in a Django project: the session says who looks, staff alone may, and permissions say what they do."""

import re
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import httpx
import pytest
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.test import Client, RequestFactory, override_settings
from django.urls import reverse

from pgqueue.dashboard import VERBS, Access
from pgqueue.django.access import staff
from pgqueue.django.mounted import mounted
from tests.conftest import scalar
from tests.django_site import django_on
from tests.edges.dashboard.conftest import HOST, SAME_SITE, dashboard_token
from tests.edges.dashboard.paths import DEEDS, pages_of
from tests.edges.dashboard.scene import Shop
from tests.edges.dashboard.served import CHROMIUM, browser, serving
from tests.harness import Conn

PREFIX = "/staff/jobs/"
PEOPLE: dict[str, dict[str, bool]] = {
    "root": {"is_staff": True, "is_superuser": True},
    "alice": {"is_staff": True},
    "rita": {"is_staff": True},
    "carl": {"is_staff": False},
    "fired": {"is_staff": True, "is_active": False},
}
LogIn = Callable[[str | None], httpx.Client]


@pytest.fixture(scope="module", autouse=True)  # a process that runs one of these tests alone has Django's settings too
def site(shop: Shop, kept_database: str) -> Iterator[Shop]:
    """The Django site on the shop's database: its tables, its people, and what they may."""
    with django_on(kept_database), override_settings(PGQUEUE={"app": shop.app, "title": "shop"}):
        call_command("migrate", verbosity=0)
        from django.contrib.auth.models import Permission, User

        for name, rights in PEOPLE.items():
            User.objects.create_user(name, password="x", **rights)
        User.objects.get(username="alice").user_permissions.add(
            Permission.objects.get(content_type__app_label="pgqueue", codename="change_job")
        )
        yield shop


@pytest.fixture
def log_in(site: Shop) -> Iterator[LogIn]:
    """Return a browser in which somebody has logged in, or nobody."""
    browsers: list[httpx.Client] = []

    def browse(name: str | None) -> httpx.Client:
        browsers.append(
            httpx.Client(
                transport=httpx.WSGITransport(get_wsgi_application()), base_url=HOST, cookies=_session_of(name)
            )
        )
        return browsers[-1]

    yield browse
    for each in browsers:
        each.close()


def _session_of(name: str | None) -> dict[str, str]:
    from django.contrib.auth.models import User

    if name is None:
        return {}
    client = Client()
    client.force_login(User.objects.get(username=name))
    return {"sessionid": client.cookies["sessionid"].value}


def _send(browser: httpx.Client, path: str, headers: dict[str, str] = SAME_SITE, **form: str) -> httpx.Response:
    """Send a form as the page has it that the browser has just loaded."""
    browser.get(PREFIX)
    token = dashboard_token(browser.cookies["pgqueue-form"])
    return browser.post(f"{PREFIX}{path}", data={"form_token": token, **form}, headers=headers)


def test_staff_see_every_page_and_each_link_stays_below_the_prefix(log_in: LogIn, site: Shop) -> None:
    rita = log_in("rita")
    for path in pages_of(site):
        answer = rita.get(PREFIX + path)
        assert answer.status_code == 200, (path, answer.text[-300:])
        assert 'class="sentence bad"' in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        for link in re.findall(r'(?:href|src)="([^"#]+)"', answer.text):
            assert urlsplit(urljoin(HOST + PREFIX + path, unescape(link))).path.startswith(PREFIX), (path, link)
    (style,) = re.findall(r'href="\./(-/static/dashboard\.css[^"]+)"', rita.get(PREFIX).text)
    assert rita.get(PREFIX + style).headers["content-type"].startswith("text/css")
    assert rita.head(PREFIX).content == b""
    assert rita.get(PREFIX.rstrip("/")).headers["location"] == PREFIX
    assert reverse("pgqueue:dashboard") == PREFIX
    assert rita.get("/").text == "the shop"


@pytest.mark.parametrize("who", [None, "carl", "fired"])
def test_for_anybody_else_every_path_is_the_same_404(log_in: LogIn, site: Shop, who: str | None) -> None:
    browser = log_in(who)
    answers = {
        (answer.status_code, answer.text)
        for answer in (
            *(browser.get(PREFIX + path) for path in (*pages_of(site), "nope", "-/stale", "-/static/dashboard.css")),
            *(browser.post(PREFIX + path, headers=SAME_SITE) for path in DEEDS),
        )
    }
    assert answers == {(404, "not found\n")}


def test_staff_without_the_permission_change_nothing(log_in: LogIn, site: Shop) -> None:
    rita = log_in("rita")
    for path in pages_of(site):
        assert 'method="post"' not in rita.get(PREFIX + path).text, path
    for path in DEEDS:
        assert _send(rita, path).status_code == 403, path


def test_staff_with_the_permission_do_what_a_form_asks(log_in: LogIn, conn: Conn) -> None:
    alice = log_in("alice")
    answer = _send(alice, "queues/media/pause", why="a test")
    assert (answer.status_code, answer.headers["location"]) == (303, "../../queues/media?said=paused")
    assert "Paused by alice" in alice.get(f"{PREFIX}queues/media").text
    rows = "select count(*) from pgqueue.operation where kind = 'pause' and actor = 'alice' and via = 'dashboard'"
    assert scalar(conn, rows) == 1
    assert _send(alice, "queues/media/resume").status_code == 303


def test_a_form_from_another_site_or_another_browser_does_nothing(log_in: LogIn, conn: Conn) -> None:
    alice = log_in("alice")
    alice.get(PREFIX)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
        assert _send(alice, "queues/email/pause", headers).status_code == 403
    answer = alice.post(f"{PREFIX}queues/email/pause", data={"form_token": dashboard_token("x")}, headers=SAME_SITE)
    assert answer.status_code == 403
    assert scalar(conn, "select count(*) from pgqueue.queue where name = 'email' and paused_at is not null") == 0


def test_below_a_path_that_captures_something_it_is_the_same_dashboard(log_in: LogIn) -> None:
    rita = log_in("rita")
    text = rita.get("/tenants/acme/jobs/queues").text
    assert "<title>Queues · shop</title>" in text
    for link in re.findall(r'(?:href|src)="([^"#]+)"', text):
        assert urlsplit(urljoin(f"{HOST}/tenants/acme/jobs/queues", unescape(link))).path.startswith("/tenants/acme/")
    assert rita.get("/tenants/acme/jobs/").status_code == 200


def test_behind_a_proxy_the_host_is_the_one_that_django_is_told(log_in: LogIn) -> None:
    alice = log_in("alice")
    headers = {"X-Forwarded-Host": "public.example", "Origin": "https://public.example"}
    assert _send(alice, "queues/email/pause", headers).status_code == 403  # whoever asks may say so
    with override_settings(USE_X_FORWARDED_HOST=True, ALLOWED_HOSTS=["*"]):
        assert _send(alice, "queues/email/pause", headers).status_code == 303
        assert _send(alice, "queues/email/resume", headers).status_code == 303
        evil = headers | {"Origin": "https://evil.example"}
        assert _send(alice, "queues/email/pause", evil).status_code == 403


def test_django_has_nothing_to_say_against_it(site: Shop) -> None:
    from django.apps import apps
    from django.core.checks import run_checks

    assert run_checks([apps.get_app_config("pgqueue")]) == []


def test_what_is_hidden_is_shown_to_whoever_has_the_permission_for_it(log_in: LogIn, site: Shop) -> None:
    path = f"jobs/{site.ids['declined']}/reveal"
    assert _send(log_in("alice"), path).status_code == 403
    assert "tok_4242" in _send(log_in("root"), path).text


def test_under_asgi_it_is_the_same_dashboard(site: Shop) -> None:
    cookies = _session_of("alice")

    async def ask() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(get_asgi_application())
        async with httpx.AsyncClient(transport=transport, base_url=HOST, cookies=cookies) as alice:
            seen = await alice.get(f"{PREFIX}queues")
            form = {"form_token": dashboard_token(alice.cookies["pgqueue-form"])}
            paused = await alice.post(f"{PREFIX}queues/email/pause", data=form, headers=SAME_SITE)
            await alice.post(f"{PREFIX}queues/email/resume", data=form, headers=SAME_SITE)
            alice.cookies.clear()
            return seen, paused, await alice.get(PREFIX)

    seen, paused, nobody = anyio.run(ask)
    assert (seen.status_code, paused.status_code, nobody.status_code) == (200, 303, 404)
    assert 'data-live="poll"' in seen.text


def test_the_project_itself_says_who_may_do_what(log_in: LogIn, site: Shop) -> None:
    given = {"app": site.app, "access": lambda request: Access.read("everybody"), "title": "ours"}
    with override_settings(PGQUEUE=given):
        text = log_in(None).get(PREFIX).text
    assert "everybody" in text
    assert "<title>Now · ours</title>" in text
    with override_settings(PGQUEUE=given | {"access": lambda request: True}):
        assert log_in("root").get(PREFIX).status_code == 404


def test_the_permissions_say_what_the_staff_may(site: Shop) -> None:
    from django.contrib.auth.models import User

    def access(name: str) -> Access | None:
        request = RequestFactory().get(PREFIX)
        request.user = User.objects.get(username=name)
        return staff(request)

    found = {name: access(name) for name in PEOPLE}
    assert found == {
        "root": Access("root", VERBS), "alice": Access.operate("alice"), "rita": Access.read("rita"),
        "carl": None, "fired": None,
    }  # fmt: skip


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_in_a_browser_staff_see_every_page_and_pause_a_queue(site: Shop, conn: Conn) -> None:
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    said, elsewhere = list[str](), list[str]()
    sessions = {name: _session_of(name) for name in ("alice", "rita", None)}
    with serving(get_asgi_application()) as address, browser() as chromium:

        def open_as(name: str | None) -> Any:
            context = chromium.new_context()
            context.add_cookies(
                [{"name": key, "value": value, "url": address} for key, value in sessions[name].items()]
            )
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on(
                "request",
                lambda request: None if request.url.startswith(root) else elsewhere.append(request.url),
            )
            return page

        root = address.rstrip("/") + PREFIX
        alice = open_as("alice")
        for path in pages_of(site):
            assert alice.goto(root + path).status == 200, path
        alice.goto(f"{root}queues/critical")
        alice.click("summary >> text=Pause")
        alice.fill("input[name='why']", "in a browser")
        alice.click("button >> text=Pause queue critical")
        alice.wait_for_selector("text=Paused by alice")
        alice.click("button >> text=Resume")
        alice.wait_for_selector("text=Resumed.")
        rita = open_as("rita")
        rita.goto(f"{root}queues/critical")
        assert rita.is_visible("h1 >> text=critical")
        assert not rita.is_visible("text=Pause…")
        assert said == []
        assert elsewhere == []
        assert open_as(None).goto(root).status == 404
    rows = "select count(*) from pgqueue.operation where actor = 'alice' and options ->> 'why' = 'in a browser'"
    assert scalar(conn, rows) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "does not name the app"),
        ({}, "does not name the app"),
        ({"app": "shop.tasks"}, "write module:name"),
        ({"app": "no_such_module:app"}, "there is no module no_such_module"),
        ({"app": "tests.edges.dashboard.paths:app"}, "tests.edges.dashboard.paths has no app"),
        ({"app": "tests.edges.dashboard.paths:DEEDS"}, "is a tuple, and not a pgqueue.App"),
        ({"app": "x:y", "acess": 1}, "has no part acess"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(given: object, says: str) -> None:
    with override_settings(PGQUEUE=given), pytest.raises(ImproperlyConfigured, match=re.escape(says)):
        mounted()


def test_the_sample_of_the_docs_mounts_it(log_in: LogIn, site: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "dashboard.md").read_text()
    _, code = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    sample, tasks = ModuleType("sample_of_the_docs"), ModuleType("shop.tasks")
    exec(compile(code, "dashboard.md", "exec"), vars(sample))
    vars(tasks)["app"] = site.app
    for module in (sample, tasks, ModuleType("shop")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    given = {name: vars(sample)[name] for name in ("PGQUEUE", "INSTALLED_APPS")}
    rita = log_in("rita")
    with override_settings(ROOT_URLCONF=sample.__name__, **given):
        assert reverse("pgqueue:dashboard") == "/jobs/"
        assert "<title>Queues · pgqueue</title>" in rita.get("/jobs/queues").text
        assert rita.get(f"{PREFIX}queues").status_code == 404


def test_parts_of_the_setting_are_checked_too(site: Shop) -> None:
    for more, says in (({"access": 7}, "a function of the request"), ({"late_after": -1}, "late_after")):
        with override_settings(PGQUEUE={"app": site.app} | more), pytest.raises(ImproperlyConfigured, match=says):
            mounted()


def test_without_the_middleware_of_users_the_error_names_it() -> None:
    with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
        staff(RequestFactory().get(PREFIX))

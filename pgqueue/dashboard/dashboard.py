"""The dashboard itself: a request and an access go in, a response comes out. It knows no server and no framework."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg

from pgqueue.app import App
from pgqueue.client.joining import apart
from pgqueue.dashboard import guard
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.examinations import Examinations
from pgqueue.dashboard.filters import check_filter
from pgqueue.dashboard.look import Look, Page, looking
from pgqueue.dashboard.pulse import Pulse, PulseReader
from pgqueue.dashboard.readings import Readers, Unread
from pgqueue.dashboard.redaction import Redaction
from pgqueue.dashboard.rendering import render, static_file, version_of
from pgqueue.dashboard.request import Request, Response
from pgqueue.dashboard.routes import Deed, deed_of, shower_of
from pgqueue.dashboard.scope import ROOMS as OF_QUEUES
from pgqueue.dashboard.scope import Scope
from pgqueue.dashboard.settings import DashboardSettings
from pgqueue.dashboard.verbs import SAID, Act, Done
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.errors import Conflict, DatabaseNotReady, InvalidInput, NotFound, PgqueueError

log = logging.getLogger("pgqueue.dashboard")
STATIC, STALE, EVENTS = "/-/static/", "/-/stale", "/-/events"
HTML = ("Content-Type", "text/html; charset=utf-8")
ROOMS = (
    ("Now", ""), ("Queues", "queues"), ("Jobs", "jobs"), ("Failures", "failures"), ("Workflows", "workflows"),
    ("Tasks", "tasks"), ("Schedules", "schedules"), ("Limits", "limits"), ("Workers", "workers"),
    ("Database", "database"), ("Operations", "operations"),
)  # fmt: skip


class Dashboard:
    """The pages of one app. `streams`: whether the server that it runs in can send events."""

    def __init__(self, app: App, settings: DashboardSettings, *, streams: bool) -> None:
        self.app = app
        self.settings = settings
        self.pulse = PulseReader(app, settings.late_after)
        self._streams = streams
        self._redaction = Redaction(settings.redact)
        self._readers = Readers()
        self._examinations = Examinations(app, self._readers.threads)

    def answer(self, request: Request, access: Access | None) -> Response:
        """Answer a request of somebody. Whoever has no access gets the same answer for every path."""
        if access is None:
            return plain(404, "not found")
        if request.path == "":
            return _redirect(f"{request.root.rpartition('/')[2] or '.'}/")
        if request.path.startswith(STATIC):
            return _static(request.path.removeprefix(STATIC), request)
        if request.method not in ("GET", "HEAD", "POST"):
            return plain(405, "use GET or POST", ("Allow", "GET, HEAD, POST"))
        try:
            with apart(self.app):  # a page is no part of the transaction of its request
                return self._answer(request, access)
        except DatabaseNotReady as error:
            return self._broken(request, access, str(error))
        except DATABASE_ERRORS as error:
            return self._broken(request, access, brief(error))

    def _answer(self, request: Request, access: Access) -> Response:
        pulse = self.pulse.now()
        if self.settings.read_only or pulse.read_only:
            access = access.without_verbs()
        if access.queues is not None:
            scope = Scope(access.queues)
            pulse = scope.pulse(pulse, self.settings.late_after)
            try:
                request = scope.request(request)
            except NotFound as error:
                return self._sorry(request, access, pulse, 404, str(error))
        if request.path == STALE:
            body = json.dumps({"versions": pulse.versions}).encode()
            return Response(200, body, (*guard.HEADERS, ("Content-Type", "application/json")))
        if request.method == "POST":
            return self._do(request, access, pulse)
        return self._show(request, access, pulse)

    def _show(
        self, request: Request, access: Access, pulse: Pulse, wrong: str | None = None, revealed: str | None = None
    ) -> Response:
        """Answer with the page of a path; `revealed`: with another one, that hides nothing."""
        found = shower_of(revealed or request.path)
        if found is None:
            return self._sorry(request, access, pulse, 404, "There is no such page.")
        show, name = found
        try:
            check_filter(access, self._redaction, request.asked, request.query)
            with looking(self.app) as conn:
                look = Look(
                    self.app, request, access, self._redaction, pulse, conn, self.settings, self._readers, wrong
                )
                if revealed is not None:
                    asked = replace(request, path=f"/{revealed}")
                    look = replace(look, request=asked, redaction=self._redaction.revealing())
                if access.queues is not None:
                    Scope(access.queues).check_page(look)
                page = show(look, name)
        except NotFound as error:
            return self._sorry(request, access, pulse, 404, str(error))
        except InvalidInput as error:
            return self._sorry(request, access, pulse, 400, str(error))
        except psycopg.errors.QueryCanceled:
            words = "The database did not answer this page within two seconds. Narrow what is asked, or try again."
            return self._sorry(request, access, pulse, 503, words)
        page = self._examined(page)
        if revealed is not None:
            page = replace(page, values=page.values | {"said": SAID["revealed"]})
        return self._page(request, access, pulse, page, wrong)

    def _examined(self, page: Page) -> Page:
        """Put what the doctor found into the pages that show it: it is not read on the connection of the page."""
        if page.template == "database.html":
            report, seconds = self._examinations.report()
            return replace(page, values=page.values | {"report": report, "examined": seconds})
        if page.template == "now.html":
            found = self._examinations.soon()
            seen = dict(zip(("report", "examined"), found if isinstance(found, tuple) else (None, None), strict=True))
            why = found.why if isinstance(found, Unread) else None
            return replace(page, values=page.values | seen | {"unexamined": why})
        return page

    def _do(self, request: Request, access: Access, pulse: Pulse) -> Response:
        """Do what a form asks, and answer with the way to the page on which to go on."""
        found = deed_of(request.path)
        if found is None:
            return self._sorry(request, access, pulse, 404, "There is nothing to be done under this address.")
        deed, name = found
        if not access.may(deed.verb):
            return self._sorry(request, access, pulse, 403, f"You may not {deed.verb} here.")
        if (why := guard.refusal(request)) is not None:
            return self._sorry(request, access, pulse, 403, f"Nothing was done: {why}.")
        return self._done(request, access, pulse, deed, name)

    def _done(self, request: Request, access: Access, pulse: Pulse, deed: Deed, name: str) -> Response:
        try:
            check_filter(access, self._redaction, request.asked, request.query)
            if access.queues is not None and not Scope(access.queues).check_deed(self.app.get, request.path):
                return self._sorry(request, access, pulse, 403, "You may not do that here.")
            if access.queues is not None and (why := Scope(access.queues).refusal(self.app, request)) is not None:
                return self._sorry(request, access, pulse, 403, f"Nothing was done: {why}.")
            done = _do(Act(self.app, request, access), deed, name)
        except DatabaseNotReady:
            raise
        except (InvalidInput, Conflict) as error:
            if shower_of(request.path) is not None:
                return self._show(request, access, pulse, str(error))
            return self._sorry(request, access, pulse, 409 if isinstance(error, Conflict) else 400, str(error))
        except NotFound as error:
            return self._sorry(request, access, pulse, 404, str(error))
        except PgqueueError as error:
            return self._sorry(request, access, pulse, 400, str(error))
        self.pulse.forget()
        log.info("%s: %s %s by %s", self.settings.title, deed.verb, name or request.path, access.who)
        if deed.verb == "reveal":
            return self._show(request, access, pulse, revealed=done.page)
        return _redirect(f"{request.base}{done.page}?said={done.said}")

    def _sorry(self, request: Request, access: Access, pulse: Pulse, status: int, words: str) -> Response:
        return self._page(request, access, pulse, Page("sorry.html", "Not here", {"words": words}, status), None)

    def _page(self, request: Request, access: Access, pulse: Pulse, page: Page, wrong: str | None) -> Response:
        key = request.cookies.get(guard.COOKIE) or guard.new_key()
        values = self._common(request, access, page.title) | {
            "pulse": pulse, "token": guard.token_of(key), "wrong": wrong,
            "said": SAID.get(request.asked("said") or ""),
            "versions": json.dumps(pulse.versions),
            "read_only": self.settings.read_only or pulse.read_only,
        }  # fmt: skip
        headers = (*guard.HEADERS, HTML, guard.cookie(key, secure=request.secure))
        return Response(page.status if wrong is None else 422, render(page.template, values | page.values), headers)

    def _broken(self, request: Request, access: Access, why: str) -> Response:
        """Answer without the database. The script of a page that is open shows a banner, and keeps the page."""
        log.warning("the dashboard cannot read the database: %s", why)
        body = render("broken.html", self._common(request, access, "No answer") | {"why": why})
        return Response(503, body, (*guard.HEADERS, HTML, ("Retry-After", "2")))

    def _common(self, request: Request, access: Access, title: str) -> dict[str, Any]:
        rooms = ROOMS if access.queues is None else [room for room in ROOMS if room[1] in OF_QUEUES]
        again = request.method != "POST" or shower_of(request.path) is not None  # whether the script can fetch it again
        live = ("events" if self._streams else "poll") if again else None
        return {
            "base": request.base, "here": request.path.strip("/").partition("/")[0], "rooms": rooms, "access": access,
            "title": title, "site": self.settings.title, "live": live,
            "request": request, "version_of": version_of, "late_after": self.settings.late_after,
        }  # fmt: skip


def _do(act: Act, deed: Deed, name: str) -> Done:
    """Do what a form asks, and leave the row of an operation."""
    if deed.of is None:
        return deed.do(act, name)
    kind = act.request.path.rpartition("/")[2]
    return act.record(kind, {deed.of: name}, partial(deed.do, act, name))


def plain(status: int, words: str, *headers: tuple[str, str]) -> Response:
    """Return an answer of one line of text."""
    return Response(status, f"{words}\n".encode(), (*guard.HEADERS, ("Content-Type", "text/plain"), *headers))


def _redirect(where: str) -> Response:
    return Response(303, b"", (*guard.HEADERS, ("Location", where)))


def _static(name: str, request: Request) -> Response:
    """Answer with a file. Its address has a mark of its content, so a browser may keep it."""
    file = static_file(name)
    if file is None or request.method not in ("GET", "HEAD"):
        return plain(404, "not found")
    kept: Mapping[str, str] = dict(guard.HEADERS) | {"Cache-Control": "private, max-age=31536000, immutable"}
    if request.asked("v") != version_of(name):
        kept = dict(guard.HEADERS)
    return Response(200, file[0], (*kept.items(), ("Content-Type", file[1])))

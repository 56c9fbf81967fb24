"""Everything that a job carries is hostile: it is shown as text, and does nothing."""

import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import pytest
from markupsafe import escape

from pgqueue.dashboard.request import slug
from tests.edges.dashboard.conftest import Browser
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn

EVIL = """</script><img src=x onerror=alert(1)>"'{{7*7}}${7*7}\u202egpj.exe\u0007"""
SHOWN = "\\u202egpj.exe\\x07"


class Tags(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("img", "iframe", "object", "embed", "base", "style") or any(name.startswith("on") for name in given):
            self.bad.append(f"{tag} {given}")
        if tag == "script" and "/static/" not in (given.get("src") or ""):
            self.bad.append(f"{tag} {given}")
        for name in ("href", "src", "action"):
            where = given.get(name)
            if where and not where.startswith((".", "#")):
                self.bad.append(f"{tag} {name}={where}")


@pytest.fixture(scope="module")
def evil(shop: Shop, kept_database: str) -> dict[str, Any]:
    """A dead letter, a waiting job, a schedule, a worker, an operation and activity whose every text is evil."""
    import psycopg

    error = {"type": EVIL, "message": EVIL, "traceback": f'  File "{EVIL}", line 1, in {EVIL}\n    {EVIL}\n'}
    ids: dict[str, Any] = {}
    with psycopg.connect(kept_database, autocommit=True, options="-c search_path=") as conn:
        from psycopg.types.json import Jsonb

        args = {EVIL: EVIL, "url": "javascript:alert(1)", "big": "x" * 1_000_000, "n": 2**60 + 1}
        ids["dead"] = _one(
            conn,
            "insert into pgqueue.dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at,"
            " attempt, max_attempts, lease, reason, error) values (nextval('pgqueue.job_id'), %s, %s, 0, %s, %s, %s,"
            " now(), now(), 1, 1, 1, %s, %s) returning id",
            [EVIL, EVIL, Jsonb(args), [EVIL, "javascript:alert(1)"], Jsonb({"h": EVIL}), EVIL, Jsonb(error)],
        )
        ids["live"] = _one(
            conn,
            "insert into pgqueue.job_live (task, queue, args, tags) values (%s, %s, %s, %s) returning id",
            [EVIL, EVIL, Jsonb(args), [EVIL]],
        )
        conn.execute(
            "insert into pgqueue.queue (name, paused_at, paused_by, paused_reason) values (%s, now(), %s, %s)",
            [EVIL, EVIL, EVIL],
        )
        conn.execute(
            "insert into pgqueue.operation (kind, filter, options, actor, via) values ('cancel', %s, %s, %s, %s)",
            [Jsonb({"task": EVIL}), Jsonb({}), EVIL, EVIL],
        )
        conn.execute(
            "insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, lost_at,"
            " death, release) values (gen_random_uuid(), 'worker', %s, 1, %s, %s, '{}', 1, 30, now(), %s, %s)",
            [EVIL, EVIL, [EVIL], EVIL, EVIL],
        )
        conn.execute(
            "insert into pgqueue.activity values (now(), gen_random_uuid(), %s, %s, 'failed', 1, 1, 1, '{1}', '{1}')",
            [EVIL, EVIL],
        )
    return ids


def _one(conn: Conn, statement: str, values: list[Any]) -> Any:
    row = conn.execute(statement, values).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row[0]


def test_no_text_of_a_job_becomes_markup(browse: Callable[..., Browser], evil: dict[str, Any]) -> None:
    browser = browse()
    name = slug(EVIL)
    pages = [
        "", "queues", f"queues/{name}", "jobs", f"jobs/{evil['dead']}", f"jobs/{evil['live']}",
        f"jobs/{evil['dead']}/edit", f"jobs/{evil['live']}/edit", "failures", "tasks", f"tasks/{name}",
        f"tasks/{name}/enqueue", "workers", "operations", "database", f"preview/redrive?group={name}",
    ]  # fmt: skip
    for path in pages:
        text = browser.page(path)
        tags = Tags()
        tags.feed(text)
        assert not tags.bad, (path, tags.bad)
        assert path.endswith("/edit") or len(text) < 400_000, path  # a form has all that it sends
        assert "$49" not in text
    assert SHOWN in unescape(browser.page(f"tasks/{name}"))
    assert str(2**60 + 1) in browser.page(f"jobs/{evil['dead']}/edit")


def test_a_form_sends_a_text_back_exactly_as_it_was(browse: Callable[..., Browser], shop: Shop) -> None:
    odd = "line\nbreaks \u202e \t and <b> &amp; \u200b"
    job = shop.app.using(delay=3600).enqueue("media.transcode", {"video": odd})
    text = browse().page(f"jobs/{job.id}/edit")
    found = re.search(r'name="arg:video" value="([^"]*)"', text)
    assert found is not None
    assert unescape(found[1]) == odd


def test_names_of_every_kind_are_one_part_of_a_path() -> None:
    from pgqueue.dashboard.request import unslug

    for name in ("a/b", "..", ".", "~", "a~2Fb", "%2F", "é\u202e", "a?b#c", "x y", EVIL):
        assert "/" not in slug(name)
        assert "%" not in slug(name)
        assert slug(name) not in (".", "..")
        assert unslug(slug(name)) == name


@pytest.mark.parametrize("name", [EVIL, "\x00", "\ud800", "$codec", "a.b", "x" * 2000])
def test_an_argument_of_any_name_is_text(browse: Callable[..., Browser], name: str) -> None:
    query = urlencode({f"arg.{name}": EVIL, "state": "failed"}, errors="surrogatepass")
    answer = browse().get(f"jobs?{query}")
    assert answer.status_code in (200, 400)
    tags = Tags()
    tags.feed(answer.text)
    assert tags.bad == []
    if name == EVIL:
        assert SHOWN in answer.text
        assert f'name="arg.{escape(EVIL)}"' in answer.text


def test_an_address_that_is_odd_is_only_not_found(browse: Callable[..., Browser]) -> None:
    for path in (
        "jobs/--",
        "jobs/99999999999999999999",
        "operations/x",
        "workflows/x",
        "-/static/",
        "preview/x",
        "a/b/c/d",
    ):
        assert browse().get(path).status_code in (400, 404), path
    assert browse().get(f"jobs?arg={'a' * 5000}").status_code == 400

"""Jobs, dead letters and schedules in Django's admin."""

import json
import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.test import Client, override_settings
from psycopg.types.json import Jsonb

from pgqueue import App
from pgqueue.dashboard import Access
from tests.conftest import scalar
from tests.django_site import django_on
from tests.harness import Conn

PEOPLE = {  # what each may, beside looking at nothing
    "root": None,
    "viola": ["view_job", "view_deadletter", "view_schedule"],
    "charles": ["view_job", "change_job", "change_deadletter", "change_schedule"],
    "norma": [],
}
JOBS, DEAD, SCHEDULES = ("/admin/pgqueue_admin/" + name for name in ("job/", "deadletter/", "schedule/"))
EMPTY = b"""
delete from pgqueue.job_live; delete from pgqueue.job_finished; delete from pgqueue.dead_letter;
delete from pgqueue.schedule; delete from pgqueue.operation"""
OPERATIONS = "select array_agg(array[kind, actor, via] order by id) from pgqueue.operation"
BURY = """
insert into pgqueue.dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,
    max_attempts, lease, reason, error, fingerprint)
select nextval('pgqueue.job_id'), %(task)s, 'email', 0, %(args)s, '{}', '{}', now(), now(), 1, 1, 1, 'failed',
       %(error)s, %(group)s
from generate_series(1, %(many)s) returning id"""


@pytest.fixture(scope="module")
def people(kept_database: str) -> Iterator[None]:
    with django_on(kept_database):
        call_command("migrate", verbosity=0)
        from django.contrib.auth.models import Permission, User

        for name, rights in PEOPLE.items():
            user = User.objects.create_user(name, password="x", is_staff=True, is_superuser=rights is None)
            ours = Permission.objects.filter(content_type__app_label="pgqueue_admin", codename__in=rights or ())
            user.user_permissions.set(ours)
        yield


@pytest.fixture
def app(people: None, kept_database: str) -> Iterator[App]:
    app = App(kept_database)

    @app.task(name="send")
    def send(order_id: int = 0, password: str = "") -> None: ...

    with (
        django_on(kept_database),
        override_settings(PGQUEUE={"app": app}, ROOT_URLCONF="tests.edges.django.admin_urls"),
    ):
        yield app
    app.close()


@pytest.fixture
def conn(app: App) -> Iterator[Conn]:
    with psycopg.connect(app.dsn, autocommit=True, options="-c search_path=") as conn:
        conn.execute(EMPTY)
        yield conn


@pytest.mark.parametrize("every", [False, True])
def test_a_dump_of_the_project_has_nothing_of_ours(app: App, every: bool) -> None:
    out = StringIO()
    call_command("dumpdata", all=every, stdout=out)
    models = {each["model"] for each in json.loads(out.getvalue())}
    assert "auth.user" in models
    assert not {model for model in models if model.startswith("pgqueue")}


def log_in(name: str) -> Client:
    from django.contrib.auth.models import User

    client = Client()
    client.force_login(User.objects.get(username=name))
    return client


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code, answer.headers)
    return str(answer.content.decode())


def act(client: Client, path: str, action: str, *keys: object, **form: str) -> str:
    """Send the form of an action as its page has it; return the page on which it goes on."""
    sent = {"action": action, "index": "0", "_selected_action": [str(key) for key in keys], **form}
    answer = client.post(path, sent, follow=True)
    assert answer.status_code == 200, answer.status_code
    return str(answer.content.decode())


def bury(conn: Conn, group: str = "card", many: int = 1, task: str = "send", **more: Any) -> list[int]:
    given = {"task": task, "args": {"order_id": 7}, "error": {"type": "ValueError", "message": "no"}} | more
    given |= {name: Jsonb(given[name]) for name in ("args", "error")}
    return [row[0] for row in conn.execute(BURY, given | {"group": group, "many": many})]


def rows_of(text: str) -> list[int]:
    return [int(found) for found in re.findall(r'name="_selected_action" value="(\d+)"', text)]


def test_a_list_has_what_fits_and_the_next_page_begins_at_a_key(app: App, conn: Conn) -> None:
    jobs = [app.enqueue("send", {"order_id": n}).id for n in range(120)]
    other = scalar(conn, "select pgqueue.enqueue('other.task', '{}', queue => 'bulk')")
    root = log_in("root")
    first = page(root, JOBS)
    assert rows_of(first) == [other, *jobs[:20:-1]]
    (after,) = re.findall(r'href="(\?after=\d+)" rel="next"', first)
    rest = page(root, JOBS + after)
    assert (rows_of(rest), 'rel="next"' in rest) == (jobs[20::-1], False)
    for asked in ("queue=bulk", "task=other.*", "q=other.*", f"q={other}", "state=pending&queue=bulk"):
        assert rows_of(page(root, f"{JOBS}?{asked}")) == [other], asked
    assert rows_of(page(root, f"{JOBS}?state=failed")) == []
    assert rows_of(page(root, f"{JOBS}?queue=no-such")) == []
    assert "tate=&#x27;odd&#x27; cannot be used" in page(root, f"{JOBS}?state=odd")


def test_no_list_counts_or_skips_rows(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    bury(conn, many=120)
    root = log_in("root")
    seen: list[str] = []
    execute = psycopg.Cursor.execute

    def watched(cursor: Any, query: Any, *given: Any, **more: Any) -> Any:
        seen.append(query.decode() if isinstance(query, bytes) else str(query))
        return execute(cursor, query, *given, **more)

    monkeypatch.setattr(psycopg.Cursor, "execute", watched)
    assert len(rows_of(page(root, DEAD))) == len(rows_of(page(root, JOBS))) == 100
    page(root, SCHEDULES)
    ours = [statement.lower() for statement in seen if "pgqueue" in statement]
    assert any("dead_letter" in statement for statement in ours)
    assert not [each for each in ours if re.search(r"\bcount\(|\boffset\b|pgqueue_admin", each)]


def test_values_are_hidden_as_on_the_dashboard(app: App, conn: Conn) -> None:
    job = app.enqueue("send", {"order_id": 4711, "password": "hunter2"})
    shown = page(log_in("viola"), f"{JOBS}{job.id}/change/")
    assert "4711" in shown
    assert "••••••" in shown
    assert "hunter2" not in shown
    assert f'href="/staff/jobs/jobs/{job.id}"' in shown
    given = {"app": app, "redact": lambda job, path, value: "a number" if path[-1] == "order_id" else value}
    with override_settings(PGQUEUE=given):
        shown = page(log_in("viola"), f"{JOBS}{job.id}/change/")
    assert "4711" not in shown
    assert "a number" in shown


def test_what_a_job_carries_is_shown_as_text(app: App, conn: Conn) -> None:
    evil = "</pre><script>alert(1)</script>\u202egpj"
    (job,) = bury(conn, evil, task=evil, args={evil: evil}, error={"type": evil, "message": evil, "traceback": evil})
    root = log_in("root")
    for path in (JOBS, DEAD, f"{JOBS}{job}/change/", f"{DEAD}{job}/change/", f"{DEAD}?group={evil}&q={evil}"):
        shown = page(root, path)
        assert "<script>alert" not in shown, path
        rows = shown.split('id="changelist-form"')[-1].split("<nav")[
            0
        ]  # the field of the search repeats what was typed
        assert "\u202e" not in rows, path
    assert "&lt;script&gt;alert(1)" in page(root, f"{DEAD}{job}/change/")


def test_actions_are_operations_in_the_name_of_the_staff(app: App, conn: Conn) -> None:
    first, second = (app.enqueue("send", {}).id for _ in range(2))
    charles = log_in("charles")
    said = act(charles, JOBS, "cancel", first, reason="not wanted")
    assert "Cancel: 1 done, 0 skipped" in said
    states = "select array_agg(state order by id) from pgqueue.job"
    assert scalar(conn, states) == ["cancelled", "pending"]
    assert scalar(conn, "select reason from pgqueue.job where id = %s", first) == "not wanted"
    act(charles, JOBS, "retry", first)
    assert scalar(conn, states) == ["pending", "pending"]
    app.using().cancel(second)
    said = act(charles, JOBS, "run_now", second)
    assert "Promote: 0 done" in said
    assert "Nothing here is in a state that this changes" in said
    assert scalar(conn, OPERATIONS) == [[kind, "charles", "admin"] for kind in ("cancel", "retry", "promote")]


def test_dead_letters_come_back_alone_or_by_group(app: App, conn: Conn) -> None:
    cards, others = bury(conn, "card", 3), bury(conn, "other", 2)
    root = log_in("root")
    assert rows_of(page(root, f"{DEAD}?group=card")) == cards[::-1]
    act(root, DEAD, "redrive", others[0])
    dead = "select array_agg(id order by id) from pgqueue.dead_letter"
    assert scalar(conn, dead) == [*cards, others[1]]
    act(root, DEAD, "redrive_groups", cards[1])
    assert scalar(conn, dead) == [others[1]]
    assert "discard without a reason" in act(root, DEAD, "discard", others[1]).replace("&#x27;", "'") or scalar(
        conn, dead
    )
    act(root, DEAD, "discard", others[1], reason="obsolete")
    assert scalar(conn, dead) is None
    kinds = [row[0] for row in scalar(conn, OPERATIONS)]
    assert kinds == ["redrive", "redrive", "discard"]
    assert scalar(conn, "select filter from pgqueue.operation order by id offset 1 limit 1") == {"group": "card"}


def test_schedules_are_paused_and_resumed(app: App, conn: Conn) -> None:
    app.schedules.create("nightly", "send", "0 3 * * *", args={"password": "hunter2"})
    charles = log_in("charles")
    assert "0 3 * * *" in page(charles, SCHEDULES)
    act(charles, SCHEDULES, "pause", "nightly")
    assert "nightly" in page(charles, f"{SCHEDULES}?state=paused")
    one = page(charles, f"{SCHEDULES}nightly/change/")
    assert "by charles at" in one
    assert "hunter2" not in one
    act(charles, SCHEDULES, "resume", "nightly")
    act(charles, SCHEDULES, "run_now", "nightly")
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    assert scalar(conn, OPERATIONS) == [[kind, "charles", "admin"] for kind in ("pause", "resume", "run")]
    assert "no schedule is called" in act(charles, SCHEDULES, "pause", "gone")


def test_permissions_say_who_sees_and_who_acts(app: App, conn: Conn) -> None:
    (job,) = bury(conn)
    nobody, viola = log_in("norma"), log_in("viola")
    for path in (JOBS, DEAD, SCHEDULES, f"{DEAD}{job}/change/"):
        assert nobody.get(path).status_code == 403, path
        shown = page(viola, path)
        assert 'name="action"' not in shown, path
        assert 'name="_save"' not in shown, path
    act(viola, DEAD, "redrive", job)
    for client in (viola, log_in("root")):
        assert client.post(f"{DEAD}{job}/change/", {"task": "x"}).status_code == 403
        assert client.get(f"{DEAD}add/").status_code == 403
        assert client.post(f"{DEAD}{job}/delete/", {"post": "yes"}).status_code == 403
    assert scalar(conn, OPERATIONS) is None
    assert Client().get(JOBS).status_code == 302
    assert page(log_in("root"), "/admin/").count("pgqueue_admin") > 2


def test_the_permission_of_the_dashboard_is_enough(app: App, conn: Conn) -> None:
    from django.contrib.auth.models import Permission, User

    (job,) = bury(conn)
    olga = User.objects.create_user("olga", is_staff=True)
    olga.user_permissions.add(Permission.objects.get(content_type__app_label="pgqueue", codename="change_job"))
    assert DEAD in page(log_in("olga"), "/admin/")
    act(log_in("olga"), DEAD, "redrive", job)
    assert scalar(conn, OPERATIONS) == [["redrive", "olga", "admin"]]


def test_the_access_that_the_project_gives_holds_here_too(app: App, conn: Conn) -> None:
    (job,) = bury(conn, error={"type": "ValueError", "message": "tok_1", "traceback": "tok_2"})
    root = log_in("root")
    found: list[Access | None] = [None]
    with override_settings(PGQUEUE={"app": app, "access": lambda request: found[0]}):
        assert root.get(DEAD).status_code == 403
        found[0] = Access.operate("root", queues=["email"])
        assert root.get(DEAD).status_code == 403
        found[0] = Access.read("root", hides=["arguments", "tracebacks"])
        for path in (DEAD, f"{DEAD}{job}/change/"):
            shown = page(root, path)
            assert "tok_" not in shown
            assert "order_id" not in shown
        for path in (f"{JOBS}?arg=order_id%3D7", f"{DEAD}?arg=order_id%3D7"):
            assert "may not see arguments" in page(root, path)
        found[0] = Access.operate("root")
        for path in (f"{JOBS}?arg=card_token%3Dtok_1", f"{DEAD}?arg=card_token%3Dtok_1"):
            assert "is hidden, so no filter can have it" in page(root, path)
        found[0] = Access.read("root", hides=["arguments", "tracebacks"])
        sent = {"action": "redrive", "index": "0", "_selected_action": [str(job)]}
        assert root.post(DEAD, sent).status_code == 403
    with override_settings(PGQUEUE={"app": app, "read_only": True}):
        assert root.post(DEAD, sent).status_code == 403
    assert scalar(conn, OPERATIONS) is None


def test_without_tables_the_page_says_what_to_do(app: App, conn: Conn) -> None:
    with override_settings(PGQUEUE={"app": App(app.dsn, schema="elsewhere"), "database": "default"}):
        assert "python manage.py migrate" in page(log_in("root"), JOBS)


def test_it_has_nothing_to_migrate_and_nothing_to_say(app: App, conn: Conn) -> None:
    from django.core.checks import run_checks

    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    assert [each for each in run_checks() if "pgqueue" in str(each)] == []

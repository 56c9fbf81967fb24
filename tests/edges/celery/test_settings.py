"""The settings of Celery: used, meaningless here, or refused with the remedy; routes, and schedules."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar

import pytest

from pgqueue import App, Job
from pgqueue.celery import Celery, crontab, schedule
from pgqueue.celery.exceptions import CeleryWarning
from pgqueue.celery.schedules import as_celery_plan
from pgqueue.errors import ConfigError, InvalidArguments, InvalidOption, InvalidPlan
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import Every, RRule

Run = Callable[..., None]


class Django:
    """The settings of a Django project."""

    CELERY_TIMEZONE = "Europe/Paris"
    CELERY_TASK_DEFAULT_QUEUE = "web"
    CELERY_TASK_ROUTES: ClassVar[dict[str, Any]] = {"mail.*": {"queue": "mail"}}
    CELERY_WORKER_PREFETCH_MULTIPLIER = 1
    DEBUG = True


def test_settings_come_from_objects_with_and_without_a_namespace(dsn: str) -> None:
    app = Celery("proj", broker=dsn)
    app.config_from_object(Django, namespace="CELERY")
    assert (app.conf.timezone, app.conf.task_default_queue) == ("Europe/Paris", "web")
    assert app.conf["task_routes"] == {"mail.*": {"queue": "mail"}}
    other = Celery("proj", broker=dsn)
    other.config_from_object({"CELERYBEAT_SCHEDULE": {}, "CELERY_ALWAYS_EAGER": True, "anything": 1})
    assert other.conf.task_always_eager is True
    for each in (app, other):
        each.close()


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("task_serializer", "pickle", "arguments and results are JSON"),
        ("accept_content", ["json", "pickle"], "arguments and results are JSON"),
        ("worker_concurrency", 8, "pgqueue work -c"),
        ("worker_max_tasks_per_child", 100, "--max-jobs-per-child"),
        ("beat_scheduler", "django_celery_beat", "rows of Postgres"),
        ("task_default_exchange", "x", "no exchanges"),
        ("priority_order", "up", "'high' (RabbitMQ) or 'low' (Redis)"),
        ("task_time_limmit", 5, "did you mean task_time_limit"),
    ],
)
def test_a_setting_without_a_place_names_the_remedy(celery: Celery, name: str, value: Any, remedy: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(remedy)):
        celery.conf[name] = value
    with pytest.raises(ConfigError):
        celery.conf.update({"timezone": "UTC", name: value})
    assert "timezone" not in celery.conf


@pytest.mark.parametrize(
    ("name", "value"),
    [("task_acks_late", False), ("result_backend", "redis://secret@host"), ("broker_url", "redis://:secret@host/0")],
)
def test_a_setting_that_means_nothing_warns_without_its_secrets(celery: Celery, name: str, value: Any) -> None:
    with pytest.warns(CeleryWarning) as told:
        celery.conf[name] = value
    assert "secret" not in str(told[0].message)


def test_settings_of_brokers_are_taken_without_a_word(celery: Celery) -> None:
    celery.conf.update(broker_pool_limit=3, task_acks_late=True, worker_send_task_events=True, result_extended=True)


def test_settings_cannot_change_once_the_app_is_used(celery: Celery) -> None:
    assert celery.pgqueue.queue == "default"
    with pytest.raises(ConfigError, match="cannot be set any more"):
        celery.conf.task_default_queue = "late"
    celery.conf.task_always_eager = True


def test_tasks_have_the_options_of_the_settings_where_they_say_nothing(celery: Celery) -> None:
    celery.conf.update(
        task_time_limit=60, task_soft_time_limit=50, task_max_retries=7, task_default_retry_delay=5,
        task_ignore_result=True, task_annotations={"*": {"rate_limit": "5/s"}, "own": {"max_retries": 1}},
    )  # fmt: skip

    @celery.task(name="plain")
    def plain() -> None: ...

    @celery.task(name="own", time_limit=5, soft_time_limit=3, rate_limit="10/m")
    def own() -> None: ...

    specs = {spec.name: spec for spec in celery.pgqueue.tasks}
    assert (plain.max_retries, plain.default_retry_delay) == (7, 5)
    assert (specs["plain"].timeout, specs["plain"].isolation, specs["plain"].store_result) == (60, "process", False)
    assert specs["own"].timeout == 5
    assert own.max_retries == 1
    assert specs["plain"].metering is not None
    assert [(rule.rate_count, rule.rate_seconds) for rule in specs["plain"].metering.rules] == [(5, 1)]


def test_routes_give_tasks_their_queues(celery: Celery) -> None:
    celery.conf.task_routes = (
        [
            ("mail.send", {"queue": "urgent"}),
            ("mail.*", {"queue": "mail"}),
            (re.compile(r"(video|image)\..*"), "media"),
        ],
        lambda name, args, kwargs, options, task=None, **_: {"queue": "routed"} if name == "by.function" else None,
    )

    def made(name: str, **options: Any) -> str:
        task = celery.task(name=name, **options)(lambda: None)
        job = task.apply_async().job()
        assert job is not None
        return job.queue

    names = ("mail.send", "mail.list", "video.cut", "by.function", "other")
    assert [made(name) for name in names] == ["urgent", "mail", "media", "routed", "default"]
    assert made("mail.own", queue="own") == "own"


def test_a_route_gives_what_neither_the_call_nor_the_task_says(celery: Celery) -> None:
    celery.conf.update(priority_order="high", task_default_queue="plain")
    celery.conf.task_routes = {
        "a*": {"queue": "mail", "priority": 7, "expires": 60, "time_limit": 30, "soft_time_limit": 20},
        "later": {"countdown": 3600},
    }
    celery.task(name="a")(lambda: None)
    celery.task(name="a.own", queue="own", priority=3, time_limit=5)(lambda: None)
    celery.task(name="later")(lambda: None)

    def sent(name: str, **options: Any) -> Job:
        job = celery.tasks[name].apply_async(**options).job()
        assert job is not None
        return job

    assert [(job.queue, job.priority) for job in (sent("a"), sent("a.own"), sent("a", queue="x", priority=1))] == [
        ("mail", 7), ("own", 3), ("x", 1)
    ]  # fmt: skip
    late = sent("later")
    assert (late.queue, round((late.run_at - late.created_at).total_seconds())) == ("plain", 3600)
    spec, own = celery.pgqueue.tasks["a"], celery.pgqueue.tasks["a.own"]
    assert (spec.queue, spec.priority, spec.timeout, spec.rules and spec.rules.expires) == ("mail", 7, 30, 60)
    assert (own.timeout, own.isolation) == (5, "process")


def by_tenant(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, str] | None:
    return {"queue": f"tenant-{kwargs['tenant']}"} if "tenant" in kwargs else None


class Router:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> str | None:
        return "by-object" if args == (1,) else None


def test_a_router_may_be_a_path_or_an_object_and_sees_the_arguments(celery: Celery) -> None:
    celery.conf.task_routes = [f"{__name__}.by_tenant", Router(), {"t": "last"}]

    @celery.task(name="t")
    def t(n: int = 0, tenant: str = "") -> None: ...

    jobs = [t.apply_async(kwargs={"tenant": "x"}).job(), t.apply_async((1,)).job(), t.delay(2).job()]
    assert [job and job.queue for job in jobs] == ["tenant-x", "by-object", "last"]
    celery.conf.__dict__["_sealed"] = False
    celery.conf.task_routes = "nowhere.router"
    with pytest.raises(ConfigError, match=r"'nowhere.router' is no function that can be imported"):
        t.delay(1)


def test_a_routing_key_leads_to_the_queue_that_has_it(celery: Celery) -> None:
    celery.conf.task_queues = {"high": {"exchange": "tasks", "routing_key": "urgent"}, "low": {"routing_key": "bulk"}}
    celery.conf.task_routes = {
        "a": {"exchange": "tasks", "routing_key": "urgent"}, "b": {"routing_key": "bulk"},
        "c": {"queue": "q", "routing_key": "z"},
    }  # fmt: skip
    for name in "abc":
        celery.task(name=name)(lambda: None)
    jobs = [celery.tasks[name].delay().job() for name in "abc"]
    assert [job and job.queue for job in jobs] == ["high", "low", "q"]


def test_what_a_route_says_and_nobody_could_do_is_warned_of_by_name(celery: Celery) -> None:
    celery.conf.task_routes = {"a": {"exchange": "x", "routing_key": "y", "delivery_mode": 2, "compression": "zlib"}}
    celery.task(name="a")(lambda: None)
    with pytest.warns(CeleryWarning) as told:
        job = celery.tasks["a"].delay().job()
    assert job is not None
    assert job.queue == "default"
    texts = {str(warning.message) for warning in told}
    for said in (
        "routing_key and exchange of a mean nothing here",
        "delivery_mode= of a means nothing here: use nothing: every job is durable",
        "compression= of a means nothing here",
    ):
        assert any(said in text for text in texts), said


def test_modules_are_found_where_the_app_is_first_used(
    celery: Celery, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shop_a", "shop_b", "shop_c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        if name != "shop_c":
            code = f"from pgqueue.celery import shared_task\n@shared_task\ndef work(n):\n    return (n, '{name}')\n"
            (tmp_path / name / "tasks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    celery.autodiscover_tasks(["shop_a", "shop_b", "shop_c"])
    assert {name for name in celery.tasks if name.startswith("shop")} == {"shop_a.tasks.work", "shop_b.tasks.work"}


# --- schedules


def matches(tab: crontab, moment: datetime) -> bool:
    """Whether all five fields of a crontab match, as Celery has it: the second implementation."""
    weekday = (moment.weekday() + 1) % 7
    fields = ((tab.minute, moment.minute), (tab.hour, moment.hour), (tab.day_of_week, weekday),
              (tab.day_of_month, moment.day), (tab.month_of_year, moment.month))  # fmt: skip
    return all(value in field for field, value in fields)


TABS: list[dict[str, Any]] = [
    {"minute": 0, "hour": "*/6"},
    {"minute": "*/15", "hour": "8-17", "day_of_week": "mon-fri"},
    {"minute": 30, "hour": 7, "day_of_week": "saturday-monday"},
    {"minute": 0, "hour": 0, "day_of_month": "1-31/10", "month_of_year": "*/5"},
    {"minute": 0, "hour": 9, "day_of_month": "1-7", "day_of_week": 1},
    {"minute": 5, "hour": "9,21", "day_of_month": "1-7,15-21", "day_of_week": "tue,thu"},
    {"minute": 0, "hour": 12, "day_of_month": 13, "day_of_week": "fri"},
    {"minute": [0, 30], "hour": {6, 18}, "day_of_month": "*/2", "day_of_week": "*/3"},
    {"minute": 0, "hour": 3, "day_of_month": "29-31", "day_of_week": "sun"},
    {"minute": 0, "hour": 3, "day_of_month": "22-28", "day_of_week": [1], "month_of_year": "3,6"},
]


@pytest.mark.parametrize("fields", TABS)
def test_a_crontab_ticks_when_all_of_its_fields_match(fields: dict[str, Any]) -> None:
    tab = crontab(**fields)
    plan = tab.plan("UTC")
    moment, end = datetime(2026, 1, 30, 11, 7, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)
    wanted = []
    minute = moment.replace(second=0) + timedelta(minutes=1)
    while minute < end:
        if matches(tab, minute):
            wanted.append(minute)
        minute += timedelta(minutes=1)
    found = []
    tick = plan.after(moment)
    while tick is not None and tick < end:
        found.append(tick)
        tick = plan.after(tick)
    assert wanted
    assert found == wanted


def test_whole_weeks_are_cron_and_any_other_pair_of_days_is_a_rule() -> None:
    assert crontab(minute=0, hour=9, day_of_month="1-7", day_of_week="mon").plan("UTC") == Cron("0 9 * * 1#1", "UTC")
    assert crontab().plan("Europe/Paris") == Cron("* * * * *", "Europe/Paris")
    assert crontab.from_string("*/15 0 1 * mon").plan("UTC").__class__ is RRule
    assert isinstance(crontab(minute=0, hour=1, day_of_month=13, day_of_week=5).plan("UTC"), RRule)
    with pytest.raises(InvalidPlan, match="24 times a day"):
        crontab(day_of_month=13, day_of_week=5).plan("UTC")


@pytest.mark.parametrize(
    "fields",
    [{"minute": 60}, {"hour": "24"}, {"day_of_week": 7}, {"day_of_week": "someday"}, {"minute": "*/0"}, {"minute": ""},
     {"minute": "a-b"}, {"day_of_month": 0}, {"hour": "5-"}, {"second": 1}, {"nowfun": print}, {"hour": "3/2"},
     {"minute": 1.5}],
)  # fmt: skip
def test_a_crontab_that_celery_would_refuse_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidPlan):
        crontab(**fields)


def test_intervals_are_plans_that_do_not_drift() -> None:
    for given in (300.0, 300, timedelta(minutes=5), schedule(300), schedule(timedelta(minutes=5), relative=True)):
        assert as_celery_plan(given, "UTC") == Every(300.0)
    for given in ("0 6 * * *", True, None):
        with pytest.raises(InvalidPlan):
            as_celery_plan(given, "UTC")


def test_entries_of_beat_are_schedules(celery: Celery) -> None:
    @celery.task(name="report")
    def report(kind: str, day: Any = None, *, full: bool = False) -> None: ...

    celery.conf.timezone = "Europe/Paris"
    celery.conf.beat_schedule = {
        "morning": {
            "task": "report",
            "schedule": crontab(minute=0, hour=8),
            "args": ("daily",),
            "kwargs": {"full": True},
        },
    }
    celery.conf.beat_schedule["often"] = {
        "task": report,
        "schedule": 300.0,
        "args": ["x", date(2026, 1, 2)],
        "options": {"expires": 280, "queue": "bulk"},
    }

    @celery.on_after_configure.connect
    def more(sender: Any, **_: Any) -> None:
        sender.add_periodic_task(60.0, report.s("added"), name="added")

    declared = {one.name: one for one in celery.pgqueue.schedules.values()}
    assert set(declared) == {"morning", "often", "added"}
    assert declared["morning"].plan == Cron("0 8 * * *", "Europe/Paris")
    assert '"kind":"daily"' in declared["morning"].job.args.replace(" ", "")
    assert (declared["often"].job.queue, declared["often"].expires) == ("bulk", 280)
    assert "__type__" in declared["often"].job.args


@pytest.mark.parametrize(
    ("entry", "error", "what"),
    [
        ({"task": "report"}, InvalidPlan, "not whole"),
        ({"task": "report", "schedule": 5.0, "arguments": ()}, InvalidPlan, "has 'arguments'"),
        ({"task": "report", "schedule": 5.0, "options": {"routing_key": "x"}}, InvalidOption, "routing_key"),
        ({"task": "report", "schedule": 5.0, "args": (1, 2)}, InvalidArguments, "too many positional"),
        ({"task": "unknown", "schedule": 5.0, "args": (1,)}, InvalidArguments, "give kwargs"),
        ({"task": "report", "schedule": "hourly"}, InvalidPlan, "give crontab"),
    ],
)
def test_a_wrong_entry_of_beat_is_refused_by_its_name(celery: Celery, entry: Any, error: Any, what: str) -> None:
    @celery.task(name="report")
    def report(kind: str = "") -> None: ...

    celery.conf.beat_schedule = {"mine": entry}
    with pytest.raises(error, match=what):
        celery.complete()


def test_an_app_of_your_own_lies_below(dsn: str) -> None:
    below = App(dsn, queue="mine", release="7")
    app = Celery("over", pgqueue=below)

    @app.task(pgqueue={"tags": ["a"], "unique": None})
    def one() -> None: ...

    job = one.delay().job()
    assert job is not None
    assert app.pgqueue is below
    assert (job.queue, job.tags) == ("mine", ("a",))
    app.close()


def test_what_an_app_of_your_own_decides_is_refused_among_the_settings(dsn: str) -> None:
    for settings in ({"broker": dsn}, {"result_expires": 60}):
        app = Celery("over", pgqueue=App(dsn), **settings)
        with pytest.raises(ConfigError, match="to the App"):
            app.complete()
    app = Celery("over", pgqueue=App(dsn, queue="mine"), task_default_queue="other")
    job = app.task(name="one")(lambda: None).apply_async().job()
    assert job is not None
    assert job.queue == "other"
    app.close()


def test_an_app_that_could_not_be_made_can_be_mended(dsn: str, run: Run) -> None:
    app = Celery("over", pgqueue=App(dsn))

    @app.task(name="one")
    def one() -> int:
        return 1

    app.conf.beat_schedule = {"wrong": {"task": "one", "schedule": "hourly"}}
    with pytest.raises(InvalidPlan):
        one.delay()
    app.conf.beat_schedule = {}
    result = one.delay()
    run(app)
    assert result.get(timeout=10) == 1
    app.close()


def test_times_without_utc_are_warned_of(celery: Celery) -> None:
    with pytest.warns(CeleryWarning, match="conf.timezone"):
        celery.conf.enable_utc = False

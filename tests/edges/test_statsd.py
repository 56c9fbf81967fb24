"""What a StatsD server gets of jobs: a socket of the test's own stands for it."""

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

import pgqueue.statsd
from pgqueue import App, Cancel, Context, InvalidOption, Snooze
from tests.conftest import drain
from tests.harness import Conn


class Server:
    """Receives datagrams."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])

    def lines(self) -> list[str]:
        """What has arrived: on the loopback it is there once it was sent."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(2000).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def run_each_way(app: App, conn: Conn) -> None:
    @app.task(name="shop.pay", retry=[0], isolation="thread")
    def pay(ctx: Context, how: str) -> None:
        if how == "fails":
            raise LookupError(how)
        if how == "snoozes" and not ctx.header("seen") and len(runs) == 0:
            runs.append(1)
            raise Snooze(0)
        if how == "cancels":
            raise Cancel("not wanted")

    @app.task(name="in a child", isolation="process")
    def apart() -> None: ...

    runs: list[int] = []
    for how in ("succeeds", "fails", "snoozes", "cancels"):
        pay.enqueue(how)
    apart.enqueue()
    pay.using(expires=0.001).enqueue("late")
    drain(app, conn)


def test_each_run_is_counted_under_the_names_that_celerys_users_have(app: App, conn: Conn, server: Server) -> None:
    pgqueue.statsd.instrument(app, port=server.port, prefix="celery")
    run_each_way(app, conn)
    lines = server.lines()
    counted = Counter(lines)
    assert counted["celery.task.started:1|c|#task:shop.pay,queue:default"] == 6
    ends = {
        line.partition("state:")[2]: count
        for line, count in Counter(lines).items()
        if line.startswith("celery.task.completed:1|c|#task:shop.pay,queue:default,state:")
    }
    assert ends == {"succeeded": 2, "retried": 1, "failed": 1, "snoozed": 1, "cancelled": 1}
    for name in ("failed", "retried", "cancelled", "expired"):
        assert counted[f"celery.task.{name}:1|c|#task:shop.pay,queue:default"] == 1, name
    times = [line.split(":")[1] for line in lines if line.startswith("celery.task.run:")]
    assert len(times) == 7, "one of them in a child process"
    assert all(time.endswith("|ms|#task") and float(time.partition("|")[0]) >= 0 for time in times)
    assert "celery.task.started:1|c|#task:in_a_child,queue:default" in lines


@pytest.mark.parametrize(
    ("tags", "line"),
    [
        ("influx", "pgqueue.task.completed,task=shop.pay,queue=default,state=succeeded:1|c"),
        ("name", "pgqueue.task.completed.shop_pay.succeeded:1|c"),
    ],
)
def test_tags_are_written_as_the_server_reads_them(
    app: App, conn: Conn, server: Server, tags: pgqueue.statsd.Tags, line: str
) -> None:
    pgqueue.statsd.instrument(app, port=server.port, tags=tags)
    app.task(name="shop.pay")(lambda: None)
    app.enqueue("shop.pay")
    drain(app, conn)
    assert line in server.lines()


def test_no_job_notices_that_nobody_listens(app: App, conn: Conn, server: Server) -> None:
    pgqueue.statsd.instrument(app, port=server.port)
    server.close()
    app.task(name="shop.pay")(lambda: None)
    jobs = [app.enqueue("shop.pay") for _ in range(3)]
    drain(app, conn)
    assert {app.get(job.id).state for job in jobs} == {"succeeded"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tags": "graphite"}, "tags='graphite' cannot be used: give one of datadog, influx, name"),
        ({"prefix": "a:b"}, "prefix='a:b' cannot be used"),
        ({"port": 0}, "port=0 cannot be used"),
        ({"host": ""}, "host='' cannot be used"),
    ],
)
def test_what_no_server_could_be_is_refused(app: App, options: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        pgqueue.statsd.instrument(app, **options)  # type: ignore[arg-type]

"""A healthy server, with workers and schedulers that work, has nothing that the doctor finds."""

from pgqueue import App
from pgqueue.doctor.catalogue import CHECKS
from tests.doctor.looks import execute
from tests.stress.clusters import Cluster, until, worker

RIGHTS = (
    "create role plain login",
    "grant usage on schema pgqueue to plain",
    "grant usage, select on all sequences in schema pgqueue to plain",
    "grant select, insert, update, delete on all tables in schema pgqueue to plain",
    "grant insert on done to plain",
    "grant pg_read_all_stats to plain",
)


def test_nothing_is_found_on_a_healthy_server(server: tuple[Cluster, Cluster]) -> None:
    execute(server[0].dsn(), *RIGHTS)
    dsn = server[0].dsn(user="plain")
    app = App(dsn)

    @app.task(name="t", timeout=60, idempotent=True)
    async def t() -> None: ...

    work = ("work", "--with-scheduler")
    with worker(dsn, *work), worker(dsn, *work):
        until(dsn, "select count(*) = 4 from pgqueue.worker")
        job = app.enqueue("t")
        until(dsn, "select exists (select from pgqueue.job_finished where id = %s)", job.id)
        until(dsn, "select exists (select from pgqueue.schedule_fire where outcome = 'fired')")
        report = app.doctor()
        assert list(report.findings) == []
        assert report.checks == len(CHECKS)
    app.close()

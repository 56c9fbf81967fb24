"""The server: whether a commit lasts, its clock, its queue of notifications, and the numbers that are left."""

from collections.abc import Iterator
from contextlib import closing

from pgqueue import db
from pgqueue.doctor.check import CANNOT_SEE, Exam, Needs, finds
from pgqueue.doctor.finding import Finding, Kind, Severity

FSYNC_OFF = Kind(
    "fsync-off", Severity.ERROR, "A crash of the machine may destroy the whole database.",
    "`alter system set fsync = on; select pg_reload_conf();`",
)  # fmt: skip
FULL_PAGE_WRITES_OFF = Kind(
    "full-page-writes-off", Severity.ERROR, "A crash of the machine may leave pages half written, and jobs unreadable.",
    "`alter system set full_page_writes = on; select pg_reload_conf();`",
)  # fmt: skip
SYNCHRONOUS_COMMIT_OFF = Kind(
    "synchronous-commit-off", Severity.WARN,
    "A crash loses the last commits: jobs that were enqueued, and outcomes, so that jobs run twice.",
    "`alter system set synchronous_commit = on; select pg_reload_conf();`, or `alter role … reset synchronous_commit;`",
)  # fmt: skip
UNLOGGED_TABLE = Kind(
    "table-unlogged", Severity.ERROR, "A crash of the server empties a table of pgqueue.",
    "`alter table … set logged;`",
)  # fmt: skip
NOTIFY_QUEUE = Kind(
    "notify-queue-filling", Severity.WARN,
    "A connection that listens has been in one transaction for long, and the queue of notifications is a quarter full. "
    "From a half on pgqueue notifies no more and polls; when it is full, commits that notify fail.",
    "end the oldest transaction of a connection that listens",
)  # fmt: skip
CLOCK_DIFFERS = Kind(
    "clock-differs", Severity.WARN,
    "The clocks of this machine and the server are more than five seconds apart. Jobs are due by the server's; "
    "`run_at` and `eta` that your code computes are off by the difference.", "set both clocks by NTP",
)  # fmt: skip
XIDS = Kind(
    "wraparound-near", Severity.ERROR,
    "Autovacuum has not frozen old rows for three times its limit. At two thousand million ids the server takes no "
    "writes.", "`vacuum (freeze) …;`, after the oldest snapshot is gone",
)  # fmt: skip
SEQUENCE_ENDING = Kind(
    "ids-running-out", Severity.ERROR, "A sequence has given more than half of its numbers.",
    "`alter sequence … as bigint;`, or find out who has set it",
)  # fmt: skip
POOLER = Kind(
    "pooler-unannounced", Severity.ERROR,
    "A pooler in transaction mode is in front of the server, and the app does not know: prepared statements and LISTEN "
    "fail or are mixed up.", "`App(…, pgbouncer=True)`",
)  # fmt: skip
OLDEST_TRANSACTION = (
    "select pid, usename, application_name, xact_start from pg_stat_activity order by xact_start limit 5;"
)


@finds(FSYNC_OFF, FULL_PAGE_WRITES_OFF, SYNCHRONOUS_COMMIT_OFF, needs=Needs.SERVER)
def durability(exam: Exam) -> Iterator[Finding]:
    """Look whether a commit outlives a crash."""
    settings = exam.ask(exam.queries.doctor.durability())
    for kind, name in (
        (FSYNC_OFF, "fsync"), (FULL_PAGE_WRITES_OFF, "full_page_writes"), (SYNCHRONOUS_COMMIT_OFF, "synchronous_commit")
    ):  # fmt: skip
        if getattr(settings, name) == "off":
            yield kind.found(f"{name} is off", f"alter system set {name} = on; select pg_reload_conf();")
    if settings.synchronous_commit != "off":
        for whom in exam.ask(exam.queries.doctor.asynchronous_roles()):
            what = f"synchronous_commit is off for {whom}"
            yield SYNCHRONOUS_COMMIT_OFF.found(what, f"{whom.altered} reset synchronous_commit;")


@finds(UNLOGGED_TABLE)
def unlogged(exam: Exam) -> Iterator[Finding]:
    """Look for tables that a crash empties."""
    for table in exam.ask(exam.queries.doctor.unlogged()):
        what = f"table {table} is unlogged: a crash of the server empties it"
        yield UNLOGGED_TABLE.found(what, f"alter table {exam.schema}.{table} set logged;")


@finds(NOTIFY_QUEUE, needs=Needs.SERVER)
def notifications(exam: Exam) -> Iterator[Finding]:
    """Look how full the queue of notifications is."""
    usage = exam.ask(exam.queries.doctor.notify_usage())
    if usage >= exam.limits.notify_usage:
        yield NOTIFY_QUEUE.found(f"the queue of notifications is {usage:.0%} full", OLDEST_TRANSACTION)


@finds(CLOCK_DIFFERS, needs=Needs.SERVER)
def clocks(exam: Exam) -> Iterator[Finding]:
    """Compare this machine's clock with the server's, in the middle of the question."""
    asked = exam.clock()
    there = exam.ask(exam.queries.doctor.clock())
    answered = exam.clock()
    ahead = (asked + (answered - asked) / 2 - there).total_seconds()
    if abs(ahead) > exam.limits.clock_seconds:
        way = "ahead of" if ahead > 0 else "behind"
        what = f"the clock of this machine is {abs(ahead):.1f} s {way} the server's"
        yield CLOCK_DIFFERS.found(what, "timedatectl set-ntp true")


@finds(XIDS, needs=Needs.SERVER)
def wraparound(exam: Exam) -> Iterator[Finding]:
    """Look how old the oldest ids are that rows may have."""
    ages = exam.ask(exam.queries.doctor.wraparound())
    for what, age, freeze in (
        ("transaction", ages.xids, ages.freeze_xids), ("multixact", ages.mxids, ages.freeze_mxids)
    ):  # fmt: skip
        if age > exam.limits.xids * freeze:
            yield XIDS.found(
                f"the oldest {what} id of this database is {age} ids old, and autovacuum freezes at {freeze}: "
                f"{2**31 - age} are left",
                "vacuum (freeze, verbose);",
            )


@finds(SEQUENCE_ENDING)
def sequences(exam: Exam) -> Iterator[Finding]:
    """Look how many numbers are left for the ids of jobs and operations."""
    for sequence in exam.ask(exam.queries.doctor.sequences()):
        if not sequence.readable:
            what = f"the role may not read sequence {sequence.name}, which gives ids"
            yield CANNOT_SEE.found(what, f"grant select on sequence {exam.schema}.{sequence.name} to …;")
        elif sequence.last is not None and sequence.last > exam.limits.sequence * sequence.most:
            what = f"sequence {sequence.name} is at {sequence.last}, {sequence.last / sequence.most:.0%} of its numbers"
            yield SEQUENCE_ENDING.found(what, f"alter sequence {exam.schema}.{sequence.name} as bigint;")


@finds(POOLER, needs=Needs.SERVER)
def pooler(exam: Exam) -> Iterator[Finding]:
    """Look whether two statements on one connection run on two backends, while another transaction holds the first.

    Through a pooler, the process id that the server names at the start is not the one that answers.
    """
    backend = exam.queries.doctor.backend()
    if not exam.app.database.prepare or exam.ask(backend) == exam.conn.info.backend_pid:
        return
    with closing(exam.app.database.connect("pgqueue doctor")) as conn:
        first = db.run(conn, backend)
        with closing(exam.app.database.connect("pgqueue doctor")) as other:
            other.autocommit = False
            db.run(other, exam.queries.doctor.hold_backend())  # takes the backend that was used last
            second = db.run(conn, backend)
    if first != second:
        what = f"two statements on one connection ran on backends {first} and {second}; pgbouncer=True is not set"
        yield POOLER.found(what, "App(…, pgbouncer=True)")


CHECKS = (durability, unlogged, notifications, clocks, wraparound, sequences, pooler)

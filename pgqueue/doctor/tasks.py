"""The tasks of the app: limits, repeats, and what keeps them unique."""

from collections.abc import Iterator, Sequence

from pgqueue.doctor.check import Exam, Needs, finds
from pgqueue.doctor.finding import Finding, Kind, Severity
from pgqueue.tasks.rules import Rules
from pgqueue.tasks.spec import TaskSpec

NO_TIMEOUT = Kind(
    "task-without-timeout", Severity.INFO,
    "A task has neither `timeout` nor `soft_timeout`, and the app has none: a call that hangs keeps its slot for ever.",
    "`@app.task(timeout=…)`, or `App(timeout=…)` for all tasks",
)  # fmt: skip
RUNS_ONCE = Kind(
    "task-runs-once", Severity.INFO,
    "A task has `max_attempts=1` and is not `idempotent`: one error makes the job a dead letter, and whoever enqueues "
    "it once more may have its effect twice.", "`@app.task(max_attempts=…)`, or `idempotent=True`",
)  # fmt: skip
REPEATS = Kind(
    "task-repeats-effects", Severity.INFO,
    "A task is retried, and nothing in it tells a repeat from the first run: it is not `idempotent` and takes no "
    "`Context`, so it has neither `ctx.idempotency_key` nor `ctx.transaction()`.",
    "take a `pgqueue.Context`, or `@app.task(idempotent=True)`, or `max_attempts=1`",
)  # fmt: skip
NO_INDEX = Kind(
    "keys-without-index", Severity.ERROR,
    "Tasks are `unique` or `idempotent`, and the index that keeps their keys unique is missing or invalid: jobs are "
    "enqueued twice.", "the SQL of the finding `schema-drifted`",
)  # fmt: skip
SHOWN = 5  # names of tasks


@finds(NO_TIMEOUT, needs=Needs.TASKS)
def limits(exam: Exam) -> Iterator[Finding]:
    """List tasks that may run for ever."""
    endless = [spec.name for spec in exam.app.tasks if spec.timeout is None and spec.soft_timeout is None]
    if endless:
        yield NO_TIMEOUT.found(f"{_named(endless)} may run for ever", "App(timeout=…)")


@finds(RUNS_ONCE, REPEATS, needs=Needs.TASKS)
def repeats(exam: Exam) -> Iterator[Finding]:
    """List tasks for which a repeat is not safe."""
    bare = [spec for spec in exam.app.tasks if not _has_key(spec)]
    if once := [spec.name for spec in bare if spec.max_attempts == 1]:
        verbs = "runs once, and has" if len(once) == 1 else "run once, and have"
        yield RUNS_ONCE.found(f"{_named(once)} {verbs} no idempotency key", "@app.task(idempotent=True)")
    if blind := [spec.name for spec in bare if spec.max_attempts > 1 and spec.context_parameter is None]:
        what = (
            f"{_named(blind)} {'is' if len(blind) == 1 else 'are'} retried, and cannot tell a repeat from the first run"
        )
        yield REPEATS.found(what, "def task(ctx: pgqueue.Context, …): … ctx.idempotency_key …")


@finds(NO_INDEX, needs=Needs.TASKS)
def keys(exam: Exam) -> Iterator[Finding]:
    """Look whether the indexes are there on which unique and idempotent tasks rely."""
    guarding = exam.ask(exam.queries.doctor.guarding_indexes())
    for index, names in (
        ("job_live_unique", [spec.name for spec in exam.app.tasks if (spec.rules or Rules()).unique is not None]),
        ("idempotency_key_pkey", [spec.name for spec in exam.app.tasks if _has_key(spec)]),
    ):
        if names and index not in guarding:
            yield NO_INDEX.found(f"{_named(names)} rely on index {index}, which is missing or invalid",
                                 "pgqueue doctor --only schema-drifted --only index-invalid")  # fmt: skip


def _has_key(spec: TaskSpec) -> bool:
    return spec.rules is not None and spec.rules.key not in (None, False)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    noun = "task" if len(names) == 1 else f"{len(names)} tasks:"
    return f"{noun} {', '.join(sorted(names)[:SHOWN])}{more}"


CHECKS = (limits, repeats, keys)

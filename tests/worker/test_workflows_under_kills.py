"""Workers are killed in the middle of workflows, also of those that grow: each job has its effect once, and every
workflow ends as it should."""

import signal
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import scalar
from tests.harness import Conn, Process, wait_for

SHOP = """
import pgqueue
from pgqueue import App, Context, chord

app = App()


@app.task(name="part", max_crashes=1000, max_attempts=1000, retry=0)
def part(ctx: Context, n: int) -> None:
    with ctx.transaction(result=n) as conn:
        conn.execute("insert into public.effect (what, n) values ('part', %s)", (n,))


@app.task(name="whole", max_crashes=1000, max_attempts=1000, retry=0)
def whole(ctx: Context, parts: list[int]) -> None:
    with ctx.transaction() as conn:
        conn.execute("insert into public.effect (what, n) values ('whole', %s)", (sum(parts),))


@app.task(name="audit", max_crashes=1000, max_attempts=1000, retry=0)
def audit(ctx: Context, n: int) -> None:
    with ctx.transaction() as conn:
        conn.execute("insert into public.effect (what, n) values ('audit', %s)", (n,))


@app.task(name="split", max_crashes=1000, max_attempts=1000, retry=0)
def split(ctx: Context, first: int, size: int) -> None:
    ctx.add(audit.s(first))
    return ctx.replace(chord([part.s(n) for n in range(first, first + size)], whole.s()))


def flow(first: int, size: int):
    if first // size % 2:
        return split.s(first, size)
    return chord([part.s(n) for n in range(first, first + size)], whole.s())
"""
FLOWS, SIZE = 10, 40


def test_workflows_end_whole_and_each_job_has_its_effect_once_while_workers_are_killed(
    dsn: str, conn: Conn, tmp_path: Path
) -> None:
    (tmp_path / "chords.py").write_text(SHOP)
    conn.execute("create table public.effect (what text, n int)")
    names: dict[str, object] = {}
    exec(compile(SHOP.replace("App()", f"App({dsn!r})"), "chords.py", "exec"), names)
    for number in range(FLOWS):
        names["flow"](number * SIZE, SIZE).enqueue()  # type: ignore[operator]
    with ExitStack() as stack:

        def start() -> Process:
            arguments = ("work", "-A", "chords:app", "--lease", "2", "--poll", "0.2", "-c", "4")
            return stack.enter_context(Process(tmp_path, dsn, *arguments))

        workers = [start(), start()]
        for kill in range(4):
            wait_for(
                lambda kill=kill: scalar(conn, "select count(*) from public.effect") > 80 * (kill + 1), "some effects"
            )
            workers[kill % 2].signal(signal.SIGKILL)
            workers[kill % 2] = start()
        wait_for(lambda: scalar(conn, "select bool_and(settled) from pgqueue.workflow"), "all workflows to end")
        for worker in workers:
            worker.terminate()
    parts = conn.execute("select n from public.effect where what = 'part' order by n").fetchall()
    assert [n for (n,) in parts] == list(range(FLOWS * SIZE))
    wholes = conn.execute("select n from public.effect where what = 'whole' order by n").fetchall()
    assert [n for (n,) in wholes] == [sum(range(at * SIZE, (at + 1) * SIZE)) for at in range(FLOWS)]
    audits = conn.execute("select n from public.effect where what = 'audit' order by n").fetchall()
    assert [n for (n,) in audits] == [at * SIZE for at in range(1, FLOWS, 2)]
    assert scalar(conn, "select array_agg(distinct state) from pgqueue.workflow") == ["succeeded"]
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    assert scalar(conn, "select count(*) from pgqueue.gate where remaining <> 0") == 0
    names["app"].close()  # type: ignore[attr-defined]

"""`pgqueue bench`."""

from typing import Annotated

import typer


def bench(
    dsn: Annotated[
        str | None, typer.Option(help="The database. Default: an embedded one; PGQUEUE_DSN is not read.")
    ] = None,
    schema: Annotated[str, typer.Option(help="A schema to make, fill and drop. Never that of a queue.")] = (
        "pgqueue_bench"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help="enqueue, bulk, latency, pinned, drain or history. May be repeated. Default: all."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1000, help="Jobs in bulk and in each drain; history fills in 10 times as many.")
    ] = 30_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often to drain; the median counts.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="How long latency and pinned run, and enqueue at most.")] = 10.0,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Jobs a second for latency.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what pgqueue does on this machine with your database, in a schema of its own. Takes about a minute.

    It loads the server, and for `--seconds` holds a snapshot that keeps VACUUM from removing what dies meanwhile in the
    whole database. The queue's own tables are not touched; the schema is dropped at the end.
    """
    from pgqueue.bench.run import run  # alembic, the embedded server: for this command only
    from pgqueue.bench.setting import Scale

    scale = Scale(jobs=jobs, rounds=rounds, seconds=seconds, rate=rate)
    raise typer.Exit(run(dsn, schema, only or [], scale, as_json=as_json))

"""`pgqueue bench`."""

from typing import Annotated

import typer


def bench(
    dsn: Annotated[
        str | None, typer.Option(help="The database. Default: an embedded Postgres; PGQUEUE_DSN is not read.")
    ] = None,
    schema: Annotated[str, typer.Option(help="A schema to create, fill and drop; it must not exist already.")] = (
        "pgqueue_bench"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help="enqueue, bulk, latency, pinned, drain or history. May be repeated. Default: all."),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=1000, help="Jobs in bulk and in each drain; history has 10 times as many."),
    ] = 30_000,
    rounds: Annotated[int, typer.Option(min=1, help="How many drains; the median counts.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds that latency and pinned run, and enqueue at most.")
    ] = 10.0,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Jobs a second for latency.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure pgqueue on this machine with your database, in a schema of its own. Takes about a minute.

    The bench puts load on the server. For `--seconds` it holds a snapshot, so that VACUUM cannot remove rows that die
    in that time, anywhere in the database. The queue's own tables are not touched; the schema is dropped at the end.
    """
    from pgqueue.bench.bench import Scale
    from pgqueue.bench.run import run  # alembic and the embedded server, which most commands need not load

    scale = Scale(jobs=jobs, rounds=rounds, seconds=seconds, rate=rate)
    raise typer.Exit(run(dsn, schema, only or [], scale, as_json=as_json))

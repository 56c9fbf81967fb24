"""`pgqueue operations …`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.filters import print_operation, watched
from pgqueue.cli.options import Limit
from pgqueue.queries.operations import Operation

operations_cli = typer.Typer(help="What was asked to be done to many jobs.", no_args_is_help=True)
OperationId = Annotated[int, typer.Argument(help="The operation's id.")]


def _print_operations(operations: Sequence[Operation]) -> None:
    rows = [
        (o.id, o.kind, o.actor, o.via, o.filter, o.started_at, o.ended_at or o.state, o.done, o.skipped,
         len(o.locked) or None, o.error)
        for o in operations
    ]  # fmt: skip
    columns = ("id", "kind", "by", "via", "filter", "started at", "ended at", "done", "skipped", "held", "error")
    output.print_table("operations", columns, rows, spare=("via", "held", "error", "started at", "skipped"))


@command(operations_cli, "list", _print_operations)
def list_operations(call: Call, limit: Limit = 20) -> Sequence[Operation]:
    """List operations, newest first."""
    return call.app.operations.list(limit)


@command(operations_cli, "show", print_operation)
def show_operation(call: Call, operation_id: OperationId) -> Operation:
    """Show how far an operation is."""
    return call.app.operations.get(operation_id)


@command(operations_cli, "stop", print_operation)
def stop_operation(call: Call, operation_id: OperationId) -> Operation:
    """Stop an operation after its present batch. What it has done stays done."""
    return call.app.operations.stop(operation_id)


@command(operations_cli, "resume", print_operation)
def resume_operation(call: Call, operation_id: OperationId) -> Operation:
    """Let an operation that was stopped, or whose client died, go on, and wait for its end."""
    return watched(lambda watch: call.app.operations.resume(operation_id, on_batch=watch))

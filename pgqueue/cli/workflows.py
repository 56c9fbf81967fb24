"""`pgqueue workflows …`."""

from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.filters import By
from pgqueue.cli.options import Before, Limit
from pgqueue.client.workflows import CancelledWorkflow
from pgqueue.queries.workflows.read import WorkflowStatus
from pgqueue.workflows.drawing import Drawing

workflows_cli = typer.Typer(help="Workflows: see, cancel, retry, seal.", no_args_is_help=True)
Id = Annotated[int, typer.Argument(help="The id of the workflow.")]


class Form(StrEnum):
    """The form of a picture."""

    TEXT = "text"
    MERMAID = "mermaid"
    JSON = "json"


def print_workflows(workflows: Sequence[WorkflowStatus]) -> None:
    """Print workflows as a table."""
    rows = [
        (one.id, one.name, one.state, one.jobs, one.waiting, one.running, one.ended, one.failed, one.created_at,
         one.ended_at or "", one.stop_reason or "")
        for one in workflows
    ]  # fmt: skip
    columns = ("id", "name", "state", "jobs", "waiting", "running", "ended", "failed", "created", "over", "stopped")
    output.print_table("workflows", columns, rows, spare=("stopped", "over", "created", "ended", "waiting"))


@command(workflows_cli, "list", print_workflows)
def list_workflows(
    call: Call,
    state: Annotated[str | None, typer.Option(help="Only this state: running, succeeded, failed or cancelled.")] = None,
    name: Annotated[str | None, typer.Option(help="Only with this name; * stands for any characters.")] = None,
    limit: Limit = 20,
    before: Before = None,
) -> Sequence[WorkflowStatus]:
    """List the newest workflows, and how far they are."""
    return call.app.workflows.list(state, name=name, limit=limit, before=before)


@command(workflows_cli, "show", lambda shown: typer.echo(shown.rstrip()), has_json=False)
def show(
    call: Call,
    workflow: Id,
    form: Annotated[Form, typer.Option("--as", help="A tree of text, a Mermaid flowchart, or JSON.")] = Form.TEXT,
) -> str:
    """Show a workflow as a tree, with the state of each job."""
    picture: Drawing = call.app.workflows.draw(workflow)
    return {Form.TEXT: picture.text, Form.MERMAID: picture.mermaid, Form.JSON: picture.json}[form]()


def _say_cancelled(done: CancelledWorkflow) -> None:
    if done.had_ended:
        output.say("it had ended: nothing to cancel")
        return
    if not done.cancelled and not done.asked:
        output.say("nothing more to do: what still runs of it was asked to stop before, or is no member of it")
        return
    asked = f"; {output.count(done.asked, 'running job')} asked to stop" if done.asked else ""
    output.say(f"{output.count(done.cancelled, 'job')} cancelled{asked}")


@command(workflows_cli, "cancel", _say_cancelled)
def cancel(
    call: Call,
    workflow: Id,
    reason: Annotated[
        str | None, typer.Option(help="Why; jobs that did not begin end with it. Default: by whom.")
    ] = None,
    by: By = None,
) -> CancelledWorkflow:
    """End what has not begun as cancelled, and ask what runs to stop; say how many of both."""
    act = partial(call.app.workflows.cancel, workflow, reason, by=by)
    return call.recorded("cancel", {"workflow": workflow}, by, act, reason=reason)


def _say_sealed(was_open: bool) -> None:
    output.say("sealed" if was_open else "it was sealed already")


@command(workflows_cli, "seal", _say_sealed)
def seal(call: Call, workflow: Id) -> bool:
    """Seal an open workflow or batch: it ends with its last job."""
    return call.recorded("seal", {"workflow": workflow}, None, partial(call.app.workflows.seal, workflow))


@command(workflows_cli, "retry", lambda back: output.say(f"{output.count(back, 'job')} came back"))
def retry(call: Call, workflow: Id, by: By = None) -> int:
    """Run a workflow again from what failed. What has succeeded does not run again."""
    return call.recorded("retry", {"workflow": workflow}, by, partial(call.app.workflows.retry, workflow, by=by))

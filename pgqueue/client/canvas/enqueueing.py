"""What can be compiled to a graph and enqueued: the verbs that canvases, workflows and batches share."""

from collections.abc import Collection

from pgqueue.client.canvas.building import GraphBuilder
from pgqueue.client.canvas.run import WorkflowRun
from pgqueue.client.steps import CURRENT_CONNECTION
from pgqueue.client.workflows import Workflows
from pgqueue.errors import InvalidOption
from pgqueue.workflows.drawing import Drawing
from pgqueue.workflows.graph import Graph


def refuse_options(what: str, options: Collection[str]) -> None:
    """Refuse options of jobs in `using` of what has several jobs. Raises InvalidOption for the first one."""
    for name in options:
        raise InvalidOption(
            f"{name}= cannot be used here: using() of a {what} takes a connection and name=…. Give options to the "
            f"calls in it, as in task.s(…).using({name}=…) or task.using({name}=…).s(…)"
        )


class Compiles:
    """What becomes a graph: a canvas, a workflow or a batch.

    `_inherits`: as a part of a workflow that runs it treats failures as that does.
    """

    _inherits = False

    def compile(self, name: str | None = None) -> Graph:
        """Return the graph of its jobs, every argument validated and encoded. Nothing is written.

        Raises InvalidArguments, InvalidOption and InvalidWorkflow.
        """
        return self._build(name).finish()

    def enqueue(self) -> WorkflowRun:
        """Insert its jobs, all or none, and commit at once; inside `ctx.transaction()` join that."""
        return GraphEnqueuer(self).enqueue()

    async def aenqueue(self) -> WorkflowRun:
        """The async twin of `enqueue`."""
        return await GraphEnqueuer(self).aenqueue()

    def to_text(self) -> str:
        """Return a picture of its graph as a tree of text: names of tasks, no arguments."""
        return Drawing.of(self.compile()).text()

    def to_mermaid(self) -> str:
        """Return a picture of its graph as a Mermaid flowchart: names of tasks, no arguments."""
        return Drawing.of(self.compile()).mermaid()

    def to_json(self) -> str:
        """Return its graph as JSON: nodes, edges and groups, no arguments."""
        return Drawing.of(self.compile()).json()

    def _build(self, name: str | None) -> GraphBuilder:
        raise NotImplementedError


class GraphEnqueuer:
    """A canvas, workflow or batch bound to a connection and a name: what `flow.using(…)` returns."""

    def __init__(self, flow: Compiles, conn: object = CURRENT_CONNECTION, name: str | None = None) -> None:
        self._flow = flow
        self._conn = conn
        self._name = name

    def compile(self) -> Graph:
        """Return the graph that `enqueue` would insert."""
        return self._flow.compile(self._name)

    def enqueue(self) -> WorkflowRun:
        """Insert the jobs, all or none. On a borrowed connection they exist if and only if the
        caller's transaction commits.

        Raises InvalidArguments, InvalidOption and InvalidWorkflow before anything is written. Without a job there is
        nothing to insert.
        """
        builder = self._flow._build(self._name)
        graph = builder.finish()
        if builder.app is None:
            return WorkflowRun(None, [])
        inserted = Workflows(builder.app, self._conn).enqueue(graph)
        return WorkflowRun(inserted.id, inserted.jobs, Workflows(builder.app))

    async def aenqueue(self) -> WorkflowRun:
        """The async twin of `enqueue`."""
        builder = self._flow._build(self._name)
        graph = builder.finish()
        if builder.app is None:
            return WorkflowRun(None, [])
        inserted = await Workflows(builder.app, self._conn).aenqueue(graph)
        return WorkflowRun(inserted.id, inserted.jobs, Workflows(builder.app))

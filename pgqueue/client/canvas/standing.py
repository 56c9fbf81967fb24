"""What a canvas or workflow becomes that runs in the place of a job."""

from typing import Any

from pgqueue.client.canvas.enqueueing import Compiles
from pgqueue.errors import InvalidWorkflow
from pgqueue.tasks.stand_in import StandIn
from pgqueue.workflows.check import check
from pgqueue.workflows.graph import INHERIT
from pgqueue.workflows.stored import to_text


def standing_in(part: Compiles) -> StandIn[Any]:
    """Return a canvas or workflow as what runs in the place of a job, every argument validated and encoded.

    Raises InvalidArguments, InvalidOption and InvalidWorkflow.
    """
    builder = part._build(None)
    ends, graph = builder.ends, builder.finish()
    gives_list = ends is not None and ends.is_list
    if not graph.nodes:
        return StandIn(None, [] if gives_list else None)
    graph.value, graph.gives_list = list(ends.sources if ends is not None else ()), gives_list
    if not graph.sealed:
        raise InvalidWorkflow(f"workflow {graph.groups[0].name} is open, and cannot run in the place of a job: seal it")
    check(graph)
    for group in graph.groups if part._inherits else ():
        group.on_failure = INHERIT
    return StandIn(to_text(graph))

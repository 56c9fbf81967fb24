"""The jobs of a canvas that was enqueued: their ids come in the order in which its parts were written."""

from collections.abc import Sequence
from typing import Any

from pgqueue.client.canvas.building import Ends, GraphBuilder
from pgqueue.client.canvas.canvas import Canvas, Group


class Counter:
    """Hands out the ids of the jobs, one after the other."""

    def __init__(self, jobs: Sequence[int]) -> None:
        self._jobs = iter(jobs)

    def next(self) -> int:
        """Return the id of the next job."""
        return next(self._jobs)


class OwnGroup(Group[Any, Any]):
    """The header of a chord: a group of its own, so that the body waits for what its members add to it, too."""

    def place(
        self,
        builder: GraphBuilder,
        before: Ends | None,
        group: int | None,
        *,
        is_root: bool = False,
        is_group: bool = False,
    ) -> Ends:
        """Place the members as a group of their own, where a callback may have none."""
        return super().place(builder, before, group, is_root=is_root, is_group=is_group or group is not None)


def run_canvas(canvas: Canvas[Any, Any], conn: object) -> tuple[list[int], int | None]:
    """Enqueue a canvas on a connection; return the ids of its jobs, and that of its workflow."""
    run = canvas.using(conn).enqueue()
    return run.jobs, run.id

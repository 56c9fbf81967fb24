"""The picture of a workflow: its jobs in layers, each behind what it waits for, with lines between them."""

from collections.abc import Sequence
from typing import NamedTuple

from pgqueue.queries.workflows.read import WorkflowEdge, WorkflowGroup, WorkflowJob

MOST_DRAWN = 150  # jobs; more are a table
NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y, MARGIN = 184, 46, 56, 16, 8
SWEEPS = 6
LONGEST = 24  # characters of a name in a box
_WHEN = {"s": "after success", "e": "at the end", "f": "on failure"}


class Node(NamedTuple):
    """A box: a job, where it stands, its name and its state."""

    id: int
    x: int
    y: int
    name: str
    state: str
    words: str


class Line(NamedTuple):
    """A line from a job to one that waits for it."""

    path: str
    kind: str
    words: str


class Picture(NamedTuple):
    """A picture of a workflow, and its size."""

    width: int
    height: int
    nodes: Sequence[Node]
    lines: Sequence[Line]


def picture_of(
    jobs: Sequence[WorkflowJob], edges: Sequence[WorkflowEdge], groups: Sequence[WorkflowGroup]
) -> Picture | None:
    """Draw a workflow from left to right; None for one that is too big to be seen."""
    if not jobs or len(jobs) > MOST_DRAWN:
        return None
    members = _members(jobs, groups)
    arrows = [
        (parent, edge.child, edge.when)
        for edge in edges
        for parent in members.get(edge.parent, (edge.parent,))
        if parent != edge.child
    ]
    known = {job.id for job in jobs}
    arrows = [arrow for arrow in dict.fromkeys(arrows) if arrow[0] in known and arrow[1] in known]
    layers = _ordered(_layers([job.id for job in jobs], arrows), arrows)
    return _drawn(layers, {job.id: job for job in jobs}, arrows)


def _members(jobs: Sequence[WorkflowJob], groups: Sequence[WorkflowGroup]) -> dict[int, list[int]]:
    """Return the jobs of each group, with those of the groups within it: what waits for a group waits for them."""
    parents = {group.id: group.parent for group in groups}
    members: dict[int, list[int]] = {group.id: [] for group in groups}
    for job in jobs:
        around, seen = job.group, set[int]()
        while around is not None and around not in seen:
            seen.add(around)
            members.setdefault(around, []).append(job.id)
            around = parents.get(around)
    return members


def _layers(ids: Sequence[int], arrows: Sequence[tuple[int, int, str]]) -> list[list[int]]:
    """Put each job behind the last of those for which it waits. Ids grow along the edges; a circle cannot be stored."""
    depth = dict.fromkeys(ids, 0)
    for _ in range(len(ids)):
        moved = False
        for parent, child, _when in arrows:
            if depth[child] <= depth[parent] < len(ids):
                depth[child], moved = depth[parent] + 1, True
        if not moved:
            break
    layers: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for each in ids:
        layers[depth[each]].append(each)
    return [layer for layer in layers if layer]


def _ordered(layers: list[list[int]], arrows: Sequence[tuple[int, int, str]]) -> list[list[int]]:
    """Order each layer by where its neighbours stand, so that few lines cross."""
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for parent, child, _when in arrows:
        before.setdefault(child, []).append(parent)
        after.setdefault(parent, []).append(child)
    place = {each: float(at) for layer in layers for at, each in enumerate(layer)}
    for sweep in range(SWEEPS):
        near = before if sweep % 2 == 0 else after
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            layer.sort(
                key=lambda each: sum(place[n] for n in near[each]) / len(near[each]) if each in near else place[each]
            )
            place |= {each: float(at) for at, each in enumerate(layer)}
    return layers


def _drawn(layers: list[list[int]], jobs: dict[int, WorkflowJob], arrows: Sequence[tuple[int, int, str]]) -> Picture:
    tallest = max(len(layer) for layer in layers)
    height = tallest * (NODE_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    width = len(layers) * (NODE_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    at: dict[int, tuple[int, int]] = {}
    for column, layer in enumerate(layers):
        top = (height - len(layer) * (NODE_HEIGHT + GAP_Y) + GAP_Y) // 2
        for row, each in enumerate(layer):
            at[each] = MARGIN + column * (NODE_WIDTH + GAP_X), top + row * (NODE_HEIGHT + GAP_Y)
    nodes = [Node(each, *at[each], _short(jobs[each].task), jobs[each].state, _words(jobs[each])) for each in at]
    lines = [
        Line(_path(at[parent], at[child]), when, f"{parent} → {child}, {_WHEN.get(when, when)}")
        for parent, child, when in arrows
    ]
    return Picture(width, height, nodes, lines)


def _path(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + NODE_WIDTH, start[1] + NODE_HEIGHT // 2
    x2, y2 = end[0] - 3, end[1] + NODE_HEIGHT // 2
    bend = max(24, (x2 - x1) // 2)
    return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def _short(task: str) -> str:
    """Return the end of a task's name, which tells most."""
    return task if len(task) <= LONGEST else "…" + task[-LONGEST + 1 :]


def _words(job: WorkflowJob) -> str:
    waits = f", waits for {job.waits_on} more" if job.waits_on else ""
    return f"{job.task} {job.id}: {job.state}{waits}" + (f" ({job.reason})" if job.reason else "")

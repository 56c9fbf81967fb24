"""Whether a graph can be inserted: before anything is written, and with a message that names what is wrong."""

from collections.abc import Iterator

from pgqueue.errors import InvalidWorkflow
from pgqueue.jobs.job import NewJob
from pgqueue.workflows.graph import INHERIT, OUTSIDE, Edge, Graph

MOST_NAME = 200
POLICIES = ("cancel", "stop", "hold")
WHENS = ("s", "e", "f")


def check(graph: Graph) -> Graph:
    """Return a graph that is sound. Raises InvalidWorkflow."""
    if len(graph.group_of) != len(graph.nodes):
        raise InvalidWorkflow(f"group_of has {len(graph.group_of)} entries for {len(graph.nodes)} jobs")
    _check_groups(graph)
    for number, job in enumerate(graph.nodes):
        _check_node(number, job)
    for edge in graph.edges:
        _check_edge(graph, edge)
    _check_order(graph)
    return graph


def _check_groups(graph: Graph) -> None:
    if not graph.groups:
        raise InvalidWorkflow("a graph has no groups: the first one is the workflow itself")
    for number, group in enumerate(graph.groups):
        name = group.name
        if not isinstance(name, str) or not 1 <= len(name) <= MOST_NAME or not name.isprintable():
            raise InvalidWorkflow(
                f"a workflow cannot be called {name!r:.100}: give 1 to {MOST_NAME} printable characters"
            )
        if group.on_failure not in (POLICIES if graph.groups[0].on_failure != INHERIT else (*POLICIES, INHERIT)):
            raise InvalidWorkflow(
                f"on_failure={group.on_failure!r} of {name} cannot be used: give {', '.join(POLICIES)}"
            )
        if (group.parent is None) != (number == 0) or (group.parent is not None and not 0 <= group.parent < number):
            raise InvalidWorkflow(f"group {name} is no member of a group that stands before it")
    members = {*graph.group_of, *(group.parent for group in graph.groups)}
    for number, group in enumerate(graph.groups):
        if number not in members and not (number == 0 and not graph.sealed):
            raise InvalidWorkflow(f"workflow {group.name} has no jobs: it would never end")
    if not {group for group in graph.group_of if group is not None} <= set(range(len(graph.groups))):
        raise InvalidWorkflow("a job is a member of a group that the graph does not have")


def _check_node(number: int, job: NewJob) -> None:
    conditions = job.conditions
    if conditions is not None and (conditions.key is not None or conditions.unique is not None):
        raise InvalidWorkflow(
            f"job {number} ({job.task}) has an idempotency key or a unique key, and so may not be inserted: "
            "a job of a workflow has neither"
        )


def _check_edge(graph: Graph, edge: Edge) -> None:
    inside = -len(graph.groups) <= edge.parent < len(graph.nodes)
    if not 0 <= edge.child < len(graph.nodes) or not (inside or 0 <= OUTSIDE - edge.parent < len(graph.outside)):
        raise InvalidWorkflow(f"the edge from {edge.parent} to {edge.child} leads to no job of the graph")
    if edge.when not in WHENS:
        raise InvalidWorkflow(f"an edge with when={edge.when!r} cannot be used: give s, e or f")
    if edge.argument is not None and not edge.argument.isprintable():
        raise InvalidWorkflow(f"an edge with argument={edge.argument!r:.100} cannot be used: give a parameter's name")


def _check_order(graph: Graph) -> None:
    """Refuse a circle. A group ends after each of its members, and what runs after it, after those."""
    following: dict[int, list[int]] = {}
    waits = dict.fromkeys([*range(len(graph.nodes)), *range(-len(graph.groups), 0)], 0)
    for before, after in _pairs(graph):
        following.setdefault(before, []).append(after)
        waits[after] += 1
    free = [thing for thing, count in waits.items() if count == 0]
    done = 0
    while free:
        done += 1
        for after in following.get(free.pop(), ()):
            waits[after] -= 1
            if waits[after] == 0:
                free.append(after)
    if done < len(waits):
        stuck = sorted(thing for thing, count in waits.items() if count and thing >= 0)
        names = ", ".join(f"{number} ({graph.nodes[number].task})" for number in stuck[:5])
        raise InvalidWorkflow(f"jobs of workflow {graph.groups[0].name} wait for each other in a circle: {names}")


def _pairs(graph: Graph) -> Iterator[tuple[int, int]]:
    for edge in graph.edges:
        if edge.parent > OUTSIDE:
            yield edge.parent, edge.child
    for number, group in enumerate(graph.group_of):
        if group is not None:
            yield number, -1 - group
    for number, each in enumerate(graph.groups):
        if each.parent is not None:
            yield -1 - number, -1 - each.parent

"""What the rows of a graph say beside its jobs: who counts whom, what each end must tell, and how many edges wait."""

from dataclasses import dataclass, field, replace

from pgqueue.workflows.graph import INHERIT, Edge, Graph

STRIPES = 16  # gates of a large group: one row would be locked by each end after the other
LARGE = 64  # members; a group with more is counted by several gates
# The bits of `job_live.ties`: what the end of a job must tell.
# INPUTS says of the job itself that arguments of it are results of others.
CHILDREN, GATED, CALLED, LATE, HOLDS, STOPS, INPUTS = 1, 2, 4, 8, 16, 32, 64


@dataclass(slots=True)
class Gates:
    """Which gate counts each node and each group, by the numbers of gates; and of each gate its group and how many
    members it counts."""

    of_nodes: list[int | None]
    of_groups: list[int | None]
    groups: list[int] = field(default_factory=list)
    members: list[int] = field(default_factory=list)


def gates_of(graph: Graph) -> Gates:
    """Return the gates of a graph: one for a group, several for a large one, whose members they count in turn."""
    sizes = [0] * len(graph.groups)
    parents = [group.parent for group in graph.groups]
    for group in (*graph.group_of, *parents):
        if group is not None:
            sizes[group] += 1
    gates, first = Gates([], []), []
    for group, size in enumerate(sizes):
        stripes = STRIPES if size > LARGE else min(size, 1)
        if group == 0 and not graph.sealed:
            stripes = max(stripes, 1)  # perhaps of nobody, so that callbacks are found in its range of ids
        first.append((len(gates.groups), stripes))
        gates.groups += [group] * stripes
        gates.members += [size // stripes + (number < size % stripes) for number in range(stripes)]
    counted = [0] * len(graph.groups)

    def take(group: int | None) -> int | None:
        if group is None:
            return None
        start, stripes = first[group]
        counted[group] += 1
        return start + (counted[group] - 1) % stripes

    gates.of_nodes = [take(group) for group in graph.group_of]
    gates.of_groups = [take(group) for group in parents]
    return gates


def ties_of(graph: Graph) -> list[int | None]:
    """Return the bits of each node, which say whom its end must tell; None for a node whose end nobody waits for."""
    policies = [_policies(graph, group) for group in range(len(graph.groups))]
    ties = [0 if group is None else GATED | policies[group] for group in graph.group_of]
    for edge in graph.edges:
        if edge.parent >= 0:
            ties[edge.parent] |= CHILDREN
        if edge.argument is not None:
            ties[edge.child] |= INPUTS
    return [bits or None for bits in ties]


def with_policy(graph: Graph, ties: int) -> Graph:
    """Let groups of a graph that inherit their way to treat failures have that of the group of a job, by the bits of
    the job. Where a group holds, all in it hold."""
    policy = "hold" if ties & HOLDS else "stop" if ties & STOPS else "cancel"
    for group in graph.groups:
        if policy == "hold" or group.on_failure == INHERIT:
            group.on_failure = policy
    return graph


def inputs_of(graph: Graph) -> dict[int, list[str]]:
    """Return the names of the arguments that are results of others, for each node that has any."""
    names: dict[int, list[str]] = {}
    for edge in graph.edges:
        if edge.argument is not None and edge.argument not in names.setdefault(edge.child, []):
            names[edge.child].append(edge.argument)
    return names


def waits_of(graph: Graph) -> list[int]:
    """Return how many edges each node waits for."""
    waits = [0] * len(graph.nodes)
    for edge in graph.edges:
        waits[edge.child] += 1
    return waits


def parents_first(graph: Graph) -> list[int] | None:
    """Return the numbers of the nodes with parents before their children; None where they stand so already.

    Ids are drawn in this order: whoever locks a job and then its children locks them in the order of ids.
    """
    if all(edge.parent < edge.child for edge in graph.edges):
        return None
    children: dict[int, list[int]] = {}
    waits = [0] * len(graph.nodes)
    for edge in graph.edges:
        if edge.parent >= 0:
            children.setdefault(edge.parent, []).append(edge.child)
            waits[edge.child] += 1
    order = [node for node, count in enumerate(waits) if count == 0]
    for node in order:  # it grows
        for child in children.get(node, ()):
            waits[child] -= 1
            if waits[child] == 0:
                order.append(child)
    return order


def reordered(graph: Graph, order: list[int]) -> Graph:
    """Return a graph with its nodes in another order."""
    place = {node: number for number, node in enumerate(order)}
    edges = [
        Edge(e.parent if e.parent < 0 else place[e.parent], place[e.child], e.when, e.argument, e.position)
        for e in graph.edges
    ]
    value = [place[node] for node in graph.value]
    nodes, members = [graph.nodes[n] for n in order], [graph.group_of[n] for n in order]
    return replace(graph, nodes=nodes, group_of=members, edges=edges, value=value)


def _policies(graph: Graph, group: int) -> int:
    """Return what a dead letter does in a group. Where a group around it holds, it holds as well."""
    bits, outer = STOPS if graph.groups[group].on_failure == "stop" else 0, group
    while outer is not None:
        if graph.groups[outer].on_failure == "hold":
            return HOLDS
        parent = graph.groups[outer].parent
        if parent is None:
            break
        outer = parent
    return bits

"""A graph of jobs as a value: what the canvas compiles to, and what the engine inserts."""

from dataclasses import dataclass, field

from pgqueue.jobs.job import NewJob

OUTSIDE = -1_000_000_000
INHERIT = "inherit"  # the on_failure of a group that has that of the group of which it becomes a part


@dataclass(slots=True)
class Edge:
    """`child` runs after `parent`. Nodes have the numbers 0, 1, …; group g has the number -1 - g, and what is there
    already, the n-th of `outside`, OUTSIDE - n.

    `when`: "s" after success, "e" after any end, "f" after failure. `argument`: the parameter of the child that gets
    the parent's result (of a group: the list of its members' results, in order); `position`: its place, where several
    edges feed the items of one list.
    """

    parent: int
    child: int
    when: str = "s"
    argument: str | None = None
    position: int | None = None


@dataclass(slots=True)
class Group:
    """Members that are waited for together; groups[0] is the workflow itself. `parent`: the group that it is a member
    of. `on_failure`: cancel what depends on a failed member, stop all that has not begun, or hold for a redrive."""

    name: str
    parent: int | None = None
    on_failure: str = "cancel"


@dataclass(slots=True)
class Graph:
    """Jobs to insert together. `group_of`: the group of each node; None for a callback, which belongs to the
    workflow but is not waited for. `value`: the nodes whose results are the value of the whole, a list of them if it
    `gives_list`. `outside`: the ids of jobs and groups that are there already, for which nodes wait. A graph that is
    not `sealed` may be added to until it is, and does not end before."""

    nodes: list[NewJob]
    group_of: list[int | None]
    edges: list[Edge]
    groups: list[Group]
    value: list[int] = field(default_factory=list)
    gives_list: bool = False
    outside: list[int] = field(default_factory=list)
    sealed: bool = True

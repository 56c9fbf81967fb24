"""Pictures of a graph: a tree of text, a Mermaid flowchart, JSON. They show names, and never arguments."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import groupby
from typing import Any

from pgqueue.jobs.job import NewJob
from pgqueue.workflows.graph import Edge, Graph, Group

_WHEN = {"s": "success", "e": "end", "f": "failure"}
_BEFORE = {"s": "", "e": "at the end: ", "f": "on failure: "}
_AFTER = {"s": "after", "e": "at the end of", "f": "on failure of"}
_LONGEST_RUN = 8  # nodes in a line of text
_MOST_NAMED = 4  # of several nodes


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph with the names of its nodes. Of a stored one also `ids` of its jobs, their `states`, and the first lines
    of the `errors` of those that have failed, by node: names and errors, and never arguments."""

    labels: Sequence[str]
    group_of: Sequence[int | None]
    edges: Sequence[Edge]
    groups: Sequence[Group]
    ids: Sequence[int] = ()
    states: Sequence[str] = ()
    errors: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> "Drawing":
        """Return the drawing of a graph that is to be inserted."""
        return cls([_label(node) for node in graph.nodes], graph.group_of, graph.edges, graph.groups)

    def name(self, node: int) -> str:
        """Return the name of a node, with the id and the state of a stored one."""
        return f"{self.labels[node]} {self.ids[node]}: {self.states[node]}" if self.ids else self.labels[node]

    def json(self) -> str:
        """Return it as JSON."""
        return json.dumps(
            {
                "name": self.groups[0].name,
                "on_failure": self.groups[0].on_failure,
                "nodes": [
                    {"node": at, "name": label, "group": group, **self._stored(at)}
                    for at, (label, group) in enumerate(zip(self.labels, self.group_of, strict=True))
                ],
                "edges": [_edge_as_json(edge) for edge in self.edges],
                "groups": [
                    {"group": at, "name": group.name, "parent": group.parent, "on_failure": group.on_failure}
                    for at, group in enumerate(self.groups)
                ],
            }
        )

    def mermaid(self) -> str:
        """Return it as a Mermaid flowchart: groups are boxes, dashed lines are other ends than success."""
        lines = ["flowchart TD", *self._boxes(), *(self._arrow(edge) for edge in self.edges)]
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        """Return it as a tree of text, in which each node stands once: behind the one for which it waits. One that
        waits for several stands after all of them, and names them."""
        return "\n".join([self.groups[0].name, *_Tree(self).lines()]) + "\n"

    def _stored(self, node: int) -> dict[str, object]:
        """Return what is known of the job of a stored node."""
        if not self.ids:
            return {}
        error = {"error": self.errors[node]} if node in self.errors else {}
        return {"job": self.ids[node], "state": self.states[node], **error}

    def _boxes(self) -> Iterator[str]:
        inside: dict[int | None, list[int]] = {}
        for node, around in enumerate(self.group_of):
            inside.setdefault(around or 0, []).append(node)
        boxes: dict[int, list[int]] = {}
        for at, group in enumerate(self.groups[1:], 1):
            boxes.setdefault(group.parent or 0, []).append(at)
        left: list[tuple[int, bool]] = [(0, False)]
        while left:
            at, is_end = left.pop()
            if is_end:
                yield "  end"
                continue
            if at:
                yield f"  subgraph g{at}[{_quoted(self.groups[at].name)}]"
                left.append((at, True))
            yield from (f"  n{node}[{_quoted(self.name(node))}]" for node in inside.get(at, ()))
            left += [(box, False) for box in reversed(boxes.get(at, ()))]

    def _arrow(self, edge: Edge) -> str:
        line = "-->" if edge.when == "s" else f"-. {_WHEN[edge.when]} .->"
        if edge.parent == -1:  # the whole has no box of its own
            return f"  g0(({_quoted(self.groups[0].name)})) {line} n{edge.child}"
        return f"  {_name(edge.parent)} {line} n{edge.child}"


@dataclass(frozen=True, slots=True)
class _Branch:
    """A unit in its place in the tree, behind some words. What has a lower `rank` stands before it."""

    unit: int
    words: str
    rank: int


class _Tree:
    """The lines of a tree. Units are nodes, and groups as -1 - g; the whole is -1.

    A unit that waits for one other stands below that; one that waits for several, below the place at which the branches
    of these meet. What waits for nothing in its group stands below the group.
    """

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._above = [self._groups_around(-1 - at) for at in range(len(drawing.groups))]
        self._parents: dict[int, dict[int, str]] = {}
        self._branches: dict[int, list[_Branch]] = {}
        self._place_of: dict[int, tuple[int, int]] = {-1: (0, -1)}  # how deep a unit stands, and below which other one
        self._find_parents()
        for unit in self._in_order():
            self._place(unit)
        for branches in self._branches.values():
            branches.sort(key=lambda branch: (branch.rank, self._first_node(branch.unit)))

    def lines(self) -> Iterator[str]:
        """Yield the lines below the name of the whole."""
        left = [("", each) for each in reversed(list(self._rows(-1)))]
        while left:
            indent, (is_last, lines, unit) = left.pop()
            deeper = indent + ("   " if is_last else "│  ")
            below = list(self._rows(unit))
            for at, line in enumerate(lines):
                before = deeper + ("│  " if below else "   ")
                yield (before if at else f"{indent}{'└─ ' if is_last else '├─ '}") + line
            left += [(deeper, each) for each in reversed(below)]

    def _groups_around(self, unit: int) -> list[int]:
        """Return the groups around a unit, the innermost first, as units, without the whole."""
        drawing, found = self._drawing, list[int]()
        group = drawing.group_of[unit] if unit >= 0 else drawing.groups[-1 - unit].parent
        while group:
            found.append(-1 - group)
            group = drawing.groups[group].parent
        return found

    def _around(self, unit: int) -> list[int]:
        if unit < 0:
            return self._above[-1 - unit]
        group = self._drawing.group_of[unit]
        return [-1 - group, *self._above[group]] if group else []

    def _inner(self, unit: int) -> int:
        """Return the group in which a unit is."""
        around = self._around(unit)
        return around[0] if around else -1

    def _find_parents(self) -> None:
        """A unit waits for a parent; if it is in a group in which the parent is not, the group does."""
        for edge in self._drawing.edges:
            theirs = {edge.parent, *self._around(edge.parent)}
            outermost = [each for each in self._around(edge.child) if each not in theirs]
            waiting = outermost[-1] if outermost else edge.child
            self._parents.setdefault(waiting, {}).setdefault(edge.parent, edge.when)

    def _siblings(self, unit: int) -> dict[int, str]:
        """Return the parents of a unit in its own group."""
        inner = self._inner(unit)
        return {
            parent: when
            for parent, when in self._parents.get(unit, {}).items()
            if parent != inner and (inner == -1 or inner in self._around(parent))
        }

    def _in_order(self) -> Iterator[int]:
        """Yield the units, each after those by which it gets its place; last those that wait in a circle for a place,
        for a group that waits for what waits for a part of it."""
        units = [*range(-2, -1 - len(self._drawing.groups), -1), *range(len(self._drawing.labels))]
        needed = {unit: {*self._siblings(unit), *({self._inner(unit)} - {-1})} for unit in units}
        waiting: dict[int, list[int]] = {}
        for unit, others in needed.items():
            for other in others:
                waiting.setdefault(other, []).append(unit)
        ready = [unit for unit in units if not needed[unit]]
        for unit in ready:
            yield unit
            for other in waiting.get(unit, ()):
                needed[other].discard(unit)
                if not needed[other]:
                    ready.append(other)
        yield from (unit for unit in units if needed[unit])

    def _place(self, unit: int) -> None:
        inner = self._inner(unit)
        siblings = {parent: when for parent, when in self._siblings(unit).items() if parent in self._place_of}
        if len(siblings) > 1:
            below = self._meeting(siblings)
            branch = _Branch(unit, f"{self._after(siblings)}: ", 1 if below == inner else 3)
        elif siblings:
            ((below, when),) = siblings.items()
            branch = _Branch(unit, ("→ " if below < 0 else "") + _BEFORE[when], 2)
        elif inner == -1 and -1 in self._parents.get(unit, {}):  # what comes after the whole
            below, branch = -1, _Branch(unit, "→ " + _BEFORE[self._parents[unit][-1]], 2)
        else:
            below, branch = inner, _Branch(unit, "", 0)
        self._place_of[unit] = (self._place_of.get(below, (0, -1))[0] + 1, below)
        self._branches.setdefault(below, []).append(branch)

    def _meeting(self, units: Collection[int]) -> int:
        """Return the unit below which all of these stand, or which is one of them: the lowest one."""
        left, known = [(-self._place_of[unit][0], unit) for unit in units], {*units}
        heapify(left)
        while len(left) > 1:
            _, unit = heappop(left)
            above = self._place_of[unit][1]
            if above not in known:
                known.add(above)
                heappush(left, (-self._place_of[above][0], above))
        return left[0][1]

    def _after(self, parents: Mapping[int, str]) -> str:
        """Say after what a unit comes that waits for several."""
        said = []
        for when, words in _AFTER.items():
            named = [self._reference(parent) for parent, asked in parents.items() if asked == when]
            if len(named) > _MOST_NAMED or len({*named}) < len(named):
                named = [f"{len(named)} jobs"]
            said += [f"{words} {', '.join(named)}"] if named else []
        return ", ".join(said)

    def _reference(self, unit: int) -> str:
        if unit < 0:
            return self._name(unit)
        return str(self._drawing.ids[unit]) if self._drawing.ids else self._drawing.labels[unit]

    def _first_node(self, unit: int) -> int:
        return unit if unit >= 0 else self._first_nodes.get(unit, len(self._drawing.labels))

    @cached_property
    def _first_nodes(self) -> dict[int, int]:
        """The first node of each group."""
        first: dict[int, int] = {}
        for node in reversed(range(len(self._drawing.labels))):
            first |= dict.fromkeys(self._around(node), node)
        return first

    def _rows(self, unit: int) -> Iterator[tuple[bool, list[str], int]]:
        """Yield what stands directly below a unit: whether it is the last, its lines, and the unit to go on with.

        Neighbours that look the same, and before which nothing else comes, share a line.
        """
        found = [list(same) for _, same in groupby(self._branches.get(unit, ()), key=self._looks)]
        for at, same in enumerate(found):
            lines, last = self._row(same)
            yield at == len(found) - 1, lines, last

    def _looks(self, branch: _Branch) -> object:
        unit = branch.unit
        if unit < 0 or unit in self._branches:
            return unit
        drawing = self._drawing
        state = drawing.states[unit] if drawing.ids else ""
        return branch.words, drawing.labels[unit], state, drawing.errors.get(unit)

    def _row(self, same: Sequence[_Branch]) -> tuple[list[str], int]:
        """Return the lines of a unit and what alone comes after it, or of several that look the same."""
        run = [same[0].unit]
        while (after := self._only_child(run[-1])) is not None:
            run.append(after)
        names = [self._name(each) for each in run]
        if len(names) > _LONGEST_RUN:
            names = [*names[:3], f"… {len(names) - 6} more …", *names[-3:]]
        if len(same) > 1:
            names = [self._name_of_several([branch.unit for branch in same])]
        drawing = self._drawing
        whose = {unit: drawing.ids[unit] if len(same) == 1 else "each" for unit in run if unit in drawing.errors}
        errors = [f"error of {who}: {drawing.errors[unit]}" for unit, who in whose.items()]
        return [same[0].words + " → ".join(names), *errors], run[-1]

    def _only_child(self, unit: int) -> int | None:
        """Return the node that alone comes after a node, and for nothing but its success."""
        branches = self._branches.get(unit, ())
        if unit < 0 or len(branches) != 1 or branches[0].words or branches[0].unit < 0:
            return None
        return branches[0].unit

    def _name(self, unit: int) -> str:
        return self._drawing.name(unit) if unit >= 0 else f"group {self._drawing.groups[-1 - unit].name}"

    def _name_of_several(self, units: Sequence[int]) -> str:
        """Return the name that nodes share, with their ids, or the first and the last of many."""
        drawing = self._drawing
        if not drawing.ids:
            return f"{drawing.labels[units[0]]} ({len(units)} times)"
        ids = [str(drawing.ids[unit]) for unit in units]
        many = len(ids) > _MOST_NAMED
        shown = f"{ids[0]} … {ids[-1]}" if many else ", ".join(ids)
        count = f" ({len(ids)} times)" if many else ""
        return f"{drawing.labels[units[0]]} {shown}: {drawing.states[units[0]]}{count}"


def _label(node: NewJob) -> str:
    name: Any = json.loads(node.headers).get("$node") if node.headers and '"$node"' in node.headers else None
    return name or node.task


def _edge_as_json(edge: Edge) -> dict[str, object]:
    end = "node" if edge.parent >= 0 else "group"
    number = edge.parent if edge.parent >= 0 else -1 - edge.parent
    return {f"after_{end}": number, "node": edge.child, "when": _WHEN[edge.when], "argument": edge.argument}


def _name(unit: int) -> str:
    return f"n{unit}" if unit >= 0 else f"g{-1 - unit}"


def _quoted(text: str) -> str:
    """Return a text as a label of Mermaid: entities stand for what ends a label or begins markup."""
    return '"' + "".join(c if c.isalnum() or c in " ._-|:…" else f"#{ord(c)};" for c in text) + '"'

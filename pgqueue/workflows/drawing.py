"""Pictures of a graph: a tree of text, a Mermaid flowchart, JSON. They show names, and never arguments."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pgqueue.jobs.job import NewJob
from pgqueue.workflows.graph import Edge, Graph, Group

_WHEN = {"s": "success", "e": "end", "f": "failure"}
_BEFORE = {"s": "", "e": "at the end: ", "f": "on failure: "}
_LONGEST_RUN = 8  # nodes in a line of text


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph with the names of its nodes."""

    labels: Sequence[str]
    group_of: Sequence[int | None]
    edges: Sequence[Edge]
    groups: Sequence[Group]

    @classmethod
    def of(cls, graph: Graph) -> "Drawing":
        """Return the drawing of a graph that is to be inserted."""
        return cls([_label(node) for node in graph.nodes], graph.group_of, graph.edges, graph.groups)

    def json(self) -> str:
        """Return it as JSON."""
        return json.dumps(
            {
                "name": self.groups[0].name,
                "on_failure": self.groups[0].on_failure,
                "nodes": [
                    {"node": at, "name": label, "group": group}
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
        """Return it as a tree of text. A node with several parents stands in full below the first of them."""
        return "\n".join([self.groups[0].name, *_Tree(self).lines()]) + "\n"

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
            yield from (f"  n{node}[{_quoted(self.labels[node])}]" for node in inside.get(at, ()))
            left += [(box, False) for box in reversed(boxes.get(at, ()))]

    def _arrow(self, edge: Edge) -> str:
        line = "-->" if edge.when == "s" else f"-. {_WHEN[edge.when]} .->"
        if edge.parent == -1:  # the whole has no box of its own
            return f"  g0(({_quoted(self.groups[0].name)})) {line} n{edge.child}"
        return f"  {_name(edge.parent)} {line} n{edge.child}"


class _Tree:
    """The lines of a tree. Units are nodes, and groups as -1 - g."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._children: dict[int, list[tuple[str, int]]] = {}
        self._parents: dict[int, set[int]] = {}
        self._shown: set[int] = set()
        self._above = [self._groups_around(-1 - at) for at in range(len(drawing.groups))]
        self._find_children()

    def lines(self) -> Iterator[str]:
        """Yield the lines below the name of the whole."""
        left = [("", each) for each in reversed(list(self._branches(-1)))]
        while left:
            indent, (is_last, line, unit) = left.pop()
            yield f"{indent}{'└─ ' if is_last else '├─ '}{line}"
            if unit is not None:
                deeper = indent + ("   " if is_last else "│  ")
                left += [(deeper, each) for each in reversed(list(self._branches(unit)))]

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

    def _find_children(self) -> None:
        """A child stands below each parent; if it is in a group that the parent is not in, the group does."""
        for edge in self._drawing.edges:
            theirs = {edge.parent, *self._around(edge.parent)}
            outermost = [each for each in self._around(edge.child) if each not in theirs]
            self._add_child(edge.parent, edge.when, outermost[-1] if outermost else edge.child)
        for unit in (*range(len(self._drawing.labels)), *range(-2, -1 - len(self._drawing.groups), -1)):
            around = self._around(unit)
            inner = around[0] if around else -1
            inside = {each for each in self._parents.get(unit, ()) if each != inner and self._is_in(each, inner)}
            if not inside and not (inner == -1 and self._parents.get(unit)):
                self._add_child(inner, "in", unit)
        for unit in range(-1, -1 - len(self._drawing.groups), -1):  # what is in a group stands before what comes after
            self._children.get(unit, []).sort(key=lambda branch: branch[0] != "in")

    def _is_in(self, unit: int, group: int) -> bool:
        return group == -1 or group in self._around(unit)

    def _add_child(self, parent: int, when: str, child: int) -> None:
        parents = self._parents.setdefault(child, set())
        if parent not in parents:
            parents.add(parent)
            self._children.setdefault(parent, []).append((when, child))

    def _branches(self, unit: int) -> Iterator[tuple[bool, str, int | None]]:
        """Yield the lines directly below a unit: whether it is the last, the text, and the unit to go on with.

        Neighbours that look the same, and come before the same, share a line.
        """
        found = [list(same) for _, same in groupby(self._children.get(unit, ()), key=self._looks)]
        for at, same in enumerate(found):
            when, child = same[0]
            count = f" ({len(same)} times)" if len(same) > 1 else ""
            yield at == len(found) - 1, *self._line(unit, when, child, count)
            self._shown.update(child for _, child in same[1:])

    def _looks(self, branch: tuple[str, int]) -> object:
        when, unit = branch
        if unit < 0 or self._only_child(unit) is not None:
            return branch
        return when, self._name(unit), tuple(self._children.get(unit, ()))

    def _line(self, parent: int, when: str, child: int, count: str) -> tuple[str, int | None]:
        text = ("→ " if parent < 0 and when != "in" else "") + _BEFORE.get(when, "")
        if child in self._shown and child in self._children:
            return f"{text}{self._name(child)}{count} …", None
        self._shown.add(child)
        run = [child]
        while (after := self._only_child(run[-1])) is not None:
            run.append(after)
            self._shown.add(after)
        names = [self._name(each) for each in run]
        if len(names) > _LONGEST_RUN:
            names = [*names[:3], f"… {len(names) - 6} more …", *names[-3:]]
        return text + " → ".join(names) + count, run[-1] if run[-1] in self._children else None

    def _only_child(self, unit: int) -> int | None:
        """Return the node that alone comes after a node that alone comes before it."""
        children = self._children.get(unit, ())
        if unit < 0 or len(children) != 1:
            return None
        when, child = children[0]
        return child if when == "s" and child >= 0 and len(self._parents[child]) == 1 else None

    def _name(self, unit: int) -> str:
        return self._drawing.labels[unit] if unit >= 0 else f"group {self._drawing.groups[-1 - unit].name}"


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

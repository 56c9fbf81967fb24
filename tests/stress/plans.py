"""Random workflows, each drawn from a seed: whoever knows the seed knows the whole graph."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgqueue import Canvas, Signature, Workflow, chain, chord, group
from pgqueue.client.canvas.nodes import After, Node
from pgqueue.errors import InvalidArguments, InvalidWorkflow
from pgqueue.workflows.graph import Graph

from . import woven_shop

POLICIES = ("cancel", "cancel", "cancel", "stop", "hold")
TASKS: tuple[Any, ...] = (
    woven_shop.node, woven_shop.node, woven_shop.node_async, woven_shop.node_exact, woven_shop.node_metered,
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How large workflows may be: how deep they nest, how wide a group is, and how many jobs they have about."""

    depth: int
    width: int
    jobs: int
    name: str


SMALL, LARGE = Size(3, 6, 25, "small"), Size(6, 200, 400, "large")
SIZES = {size.name: size for size in (SMALL, LARGE)}


@dataclass(frozen=True)
class Plan:
    """A workflow that was drawn, and its graph. A job has the number `n` among its arguments."""

    name: str
    flow: Workflow
    graph: Graph

    @property
    def numbers(self) -> list[int]:
        """The numbers of the nodes of the graph."""
        return [json.loads(job.args)["n"] for job in self.graph.nodes]


class Grower:
    """Grows one workflow."""

    def __init__(self, name: str, size: Size, chance: random.Random) -> None:
        self._name, self._size, self._chance = name, size, chance
        self._count = 0

    def workflow(self, depth: int, name: str) -> Workflow:
        """Grow a workflow of nodes that run after each other."""
        chance = self._chance
        flow = Workflow(name, on_failure=chance.choice(POLICIES))
        nodes: list[Node[Any]] = []
        for number in range(chance.randint(1, 5)):
            part = self._inner(depth - 1, f"{name}.{number}") if depth > 1 and chance.random() < 0.3 else None
            after = self._after(nodes)
            if part is None:
                part = self._canvas(depth - 1, *self._values(nodes))
            nodes.append(flow.add(part, after=after))
            if self._count > self._size.jobs:
                break
        self._with_callbacks(flow)
        return flow

    def _inner(self, depth: int, name: str) -> Workflow:
        """Grow a workflow in the workflow; sometimes one of a canvas, which has a result."""
        if self._chance.random() < 0.4:
            policy = self._chance.choice(POLICIES)
            return Workflow.of(self._canvas(depth), name=name, on_failure=policy)
        return self.workflow(depth, name)

    def _after(self, nodes: Sequence[Node[Any]]) -> list[After]:
        chosen = self._chance.sample(nodes, min(len(nodes), self._chance.choice([0, 1, 1, 2])))
        kinds = self._chance.choices("sef", (75, 15, 10), k=len(chosen))
        return [{"s": node, "e": node.ended, "f": node.failed}[kind] for node, kind in zip(chosen, kinds, strict=True)]

    def _values(self, nodes: Sequence[Node[Any]]) -> tuple[Any, ...]:
        """Draw a node whose result is the argument of the next one, or how it has ended; mostly none."""
        if not nodes or self._chance.random() < 0.6:
            return ()
        node = self._chance.choice(nodes)
        return (self._chance.choice([node, node, node.ended]),)

    def _canvas(self, depth: int, *values: Any) -> Canvas[Any, Any]:
        kind = "job" if values or depth <= 0 else self._chance.choice(["job", "job", "chain", "group", "chord"])
        made: Canvas[Any, Any]
        match kind:
            case "chain":
                made = chain([self._canvas(depth - 1) for _ in range(self._chance.randint(1, 4))])
            case "group":
                made = group(self._canvas(depth - 1) for _ in range(self._wide()))
            case "chord":
                made = chord([self._job() for _ in range(self._wide())], self._canvas(depth - 1))
            case _:
                made = self._job(*values)
        if self._chance.random() < 0.15:
            verb = self._chance.choice([made.on_success, made.on_error, made.on_complete])
            made = verb(self._callback())
        return made

    def _wide(self) -> int:
        room = max(self._size.jobs - self._count, 2)
        widths = [width for width in (0, 1, 2, 3, 5, 8, 20, 70, 200) if width <= min(room, self._size.width)]
        return self._chance.choice(widths[1:]) if self._chance.random() < 0.95 else 0

    def _with_callbacks(self, flow: Workflow) -> None:
        for verb in (flow.on_error, flow.on_complete):
            if self._chance.random() < 0.4:
                verb(self._chance.choice([self._callback, self._job_after_all])())
        if self._chance.random() < 0.3:
            flow.on_success(self._job())  # a workflow has no result

    def _job_after_all(self) -> Signature[Any, Any]:
        """Draw a callback that gets nothing, so that its dead letter comes back alone; mostly it dies."""
        return self._job(dies=(40, 20, 40))

    def _job(self, *values: Any, dies: tuple[int, int, int] = (90, 7, 3)) -> Signature[Any, Any]:
        """Draw a job. `dies`: how likely it does so never, the first time, and always."""
        times = self._chance.choices((0, 1, 99), dies)[0]
        call: Signature[Any, Any] = self._chance.choice(TASKS).s(*values, **self._arguments(times))
        return call.using(expires=0.4) if self._chance.random() < 0.02 else call

    def _callback(self) -> Signature[Any, Any]:
        return woven_shop.callback.s(**self._arguments(0))

    def _arguments(self, dies: int) -> dict[str, Any]:
        self._count += 1
        chance = self._chance
        payload = {"dies": dies, "failures": int(chance.random() < 0.1), "seconds": chance.choice([0, 0, 0, 0.03])}
        return {"op": self._name, "n": self._count, "payload": payload}


def plan(name: str) -> Plan:
    """Draw the workflow of a name: `w.SIZE.SEED`, such as w.small.42."""
    _, size, seed = name.split(".")
    for turn in range(100):
        try:
            flow = Grower(name, SIZES[size], random.Random(f"{seed}.{turn}")).workflow(SIZES[size].depth, name)
            graph = flow.compile()
        except (InvalidWorkflow, InvalidArguments):
            continue  # what was drawn has no meaning, such as waiting for a job in two ways, or for a result of nothing
        if graph.nodes:
            return Plan(name, flow, graph)
    raise ValueError(f"nothing can be drawn from {name}")

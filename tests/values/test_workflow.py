"""Workflows and batches: nodes in any order, results as arguments, conditions, workflows in workflows, circles."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue import App, Batch, InvalidArguments, InvalidOption, InvalidWorkflow, Node, Workflow, chord, group
from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas import building, enqueueing
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Edge, Graph
from tests.values.graphs import Player, calls_of

app = App("postgresql://nowhere", name="workflow")


@app.task(name="extract")
def extract(day: str) -> list[int]:
    return [1]


@app.task(name="clean")
def clean(rows: list[int], strict: bool = False) -> list[int]:
    return rows


@app.task(name="merge")
def merge(parts: list[list[int]], name: str = "x") -> int:
    return len(parts)


@app.task(name="report")
def report(rows: list[int], *, more: list[int] | None = None) -> None: ...


@app.task(name="alert")
def alert(how: Any = None) -> None: ...


@app.task(name="note")
def note() -> int:
    return 0


def args(graph: Graph) -> list[Any]:
    return [json.loads(node.args) for node in graph.nodes]


def waits(graph: Graph, child: int) -> set[tuple[int, str, str | None]]:
    return {(edge.parent, edge.when, edge.argument) for edge in graph.edges if edge.child == child}


# Nodes and what they wait for.


def test_a_node_as_an_argument_is_a_dependency_and_its_result() -> None:
    wf = Workflow("import", on_failure="stop")
    rows = wf.add(extract.s(day="2026-11-01"))
    ok = wf.add(clean.s(rows=rows))
    wf.add(report.s(ok, more=rows), after=[wf.add(note.s(), after=rows)])
    graph = wf.compile()
    assert graph.edges == [
        Edge(0, 1, "s", "rows"), Edge(0, 2), Edge(0, 3, "s", "more"), Edge(1, 3, "s", "rows"), Edge(2, 3),
    ]  # fmt: skip
    assert args(graph) == [{"day": "2026-11-01"}, {}, {}, {}]
    assert (graph.groups[0].name, graph.groups[0].on_failure) == ("import", "stop")


def test_a_list_of_nodes_is_the_list_of_their_results_in_that_order() -> None:
    wf = Workflow("w")
    one, two = wf.add(extract.s("1")), wf.add(extract.s("2"))
    wf.add(merge.s([two, one], name="n"))
    graph = wf.compile()
    assert [edge for edge in graph.edges if edge.child == 2] == [
        Edge(1, 2, "s", "parts", 0), Edge(0, 2, "s", "parts", 1),
    ]  # fmt: skip
    assert args(graph)[2] == {"name": "n"}


def test_the_node_of_a_group_is_its_list_and_that_of_a_chain_its_last_result() -> None:
    wf = Workflow("w")
    days = wf.add(extract.map(["1", "2"]))
    last = wf.add(extract.s("3") | clean.s())
    wf.add(merge.s(days))
    wf.add(report.s(last))
    graph = wf.compile()
    assert waits(graph, 4) == {(0, "s", "parts"), (1, "s", "parts")}
    assert waits(graph, 5) == {(3, "s", "rows")}


def test_a_node_waits_for_failure_or_for_any_end_and_may_get_how_it_ended() -> None:
    wf = Workflow("w")
    rows = wf.add(extract.s("1"))
    wf.add(alert.s(), after=rows.failed)
    wf.add(alert.s(rows.failed))
    wf.add(alert.s(how=[rows.ended]))
    wf.add(note.s(), after=[rows.ended])
    graph = wf.compile()
    assert [waits(graph, child) for child in (1, 2, 3, 4)] == [
        {(0, "f", None)}, {(0, "f", "how")}, {(0, "e", "how")}, {(0, "e", None)},
    ]  # fmt: skip


def test_a_node_that_is_waited_for_twice_has_one_edge_with_the_stronger_condition() -> None:
    wf = Workflow("w")
    a = wf.add(extract.s("1"))
    for needs in ([a, a], [a.ended, a], [a, a.ended], [a.failed, a.ended], [a.ended, a.failed]):
        wf.add(note.s(), after=needs)
    wf.add(clean.s(a), after=a.ended)
    wf.add(alert.s(a.failed), after=a.ended)
    assert [(edge.when, edge.argument) for edge in wf.compile().edges] == [
        ("s", None), ("s", None), ("s", None), ("f", None), ("f", None), ("s", "rows"), ("f", "how"),
    ]  # fmt: skip


def test_a_list_of_failures_waits_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "MOST_EDGES", 1)
    wf = Workflow("w")
    wf.add(alert.s([wf.add(extract.s("1")).failed, wf.add(extract.s("2")).failed]))
    graph = wf.compile()
    assert waits(graph, 2) == {(0, "f", "how"), (1, "f", "how")}
    assert [Player(graph, fails).play().states[2] for fails in ((0,), (0, 1))] == ["cancelled", "succeeded"]


def test_a_node_inside_of_another_value_is_no_argument() -> None:
    wf = Workflow("w")
    wf.add(alert.s(how={"rows": wf.add(extract.s("1"))}))
    with pytest.raises(InvalidArguments, match=r"cannot call alert: how"):
        wf.compile()


def test_conditions_of_several_jobs_hang_on_a_group_of_them() -> None:
    wf = Workflow("w")
    days = wf.add(extract.s("1") | clean.s())
    wf.add(alert.s(), after=days.failed)
    graph = wf.compile()
    assert graph.group_of == [1, 1, 0]
    assert waits(graph, 2) == {(-2, "f", None)}


def test_nodes_may_be_ordered_later() -> None:
    wf = Workflow("w")
    last = wf.add(note.s())
    first = wf.add(note.s())
    assert last.after(first) is last
    graph = wf.compile()
    assert graph.edges == [Edge(0, 1)]
    assert [node.task for node in graph.nodes] == ["note", "note"]


# Names, circles, other workflows.


def test_a_circle_is_refused_with_its_path() -> None:
    wf = Workflow("loop")
    a = wf.add(note.s(), name="a")
    b = wf.add(note.s(), after=a, name="b")
    c = wf.add(note.s(), after=b, name="c")
    b.after(c)
    wf.add(note.s(), after=c, name="d")
    with pytest.raises(InvalidWorkflow, match=r"workflow loop has a circle: b waits for c waits for b: take"):
        wf.compile()
    own = Workflow("own")
    own.add(note.s(), name="x").after(*own._nodes)
    with pytest.raises(InvalidWorkflow, match=r"x waits for x"):
        own.compile()


def test_names_of_nodes_differ_and_those_given_go_with_the_job() -> None:
    wf = Workflow("w")
    assert [wf.add(note.s()).name for _ in range(3)] == ["note", "note#2", "note#3"]
    wf.add(note.using(headers={"a": "b"}).s(), name="last")
    with pytest.raises(InvalidWorkflow, match=r"workflow w has a node 'last' already"):
        wf.add(note.s(), name="last")
    with pytest.raises(InvalidWorkflow, match=r"a node 'note' already"):
        wf.add(note.s(), name="note")
    graph = wf.compile()
    assert [node.headers for node in graph.nodes] == [None, None, None, '{"$node": "last", "a": "b"}']
    assert wf.to_text().splitlines()[-1] == "└─ last"


def test_a_node_of_another_workflow_is_refused() -> None:
    one, other = Workflow("one"), Workflow("other")
    node = one.add(extract.s("1"))
    for write in (
        lambda: other.add(note.s(), after=node),
        lambda: other.add(clean.s(node)),
        lambda: other.add(group(clean.s(rows=node))),
        lambda: other.add(note.s().on_error(alert.s(node.failed))),
        lambda: other.on_error(alert.s(node.failed)),
        lambda: other.add(note.s(), name="x").after(node.ended),
    ):
        with pytest.raises(InvalidWorkflow, match=r"cannot wait for extract, a node of another workflow"):
            write()
    assert len(other.compile().nodes) == 1
    with pytest.raises(InvalidWorkflow, match=r"clean: <node extract> is an argument outside of its workflow"):
        clean.s(node).compile()


def test_what_is_no_node_is_refused() -> None:
    wf = Workflow("w")
    rows = wf.add(extract.s("1"))
    wrong: Any = "extract"
    with pytest.raises(InvalidWorkflow, match=r"after='e' cannot be used: give nodes"):
        wf.add(note.s(), after=wrong)
    with pytest.raises(InvalidWorkflow, match=r"is no part of a workflow"):
        wf.add(wrong)
    with pytest.raises(InvalidWorkflow, match=r"a list of nodes as an argument has nodes only"):
        wf.add(merge.s([rows, [1]]))
    with pytest.raises(InvalidOption, match=r"on_failure='die' cannot be used: give cancel, stop or hold"):
        Workflow("w", on_failure=wrong and "die")
    with pytest.raises(InvalidOption, match=r"workflow name"):
        Workflow("")


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda wf, a: wf.add(note.s(), after=[a.failed, a]), r"note waits for extract in two ways"),
        (lambda wf, a: wf.add(alert.s(a.ended), after=a), r"alert waits for extract in two ways"),
        (lambda wf, a: wf.add(alert.s(a), after=a.failed), r"alert waits for extract in two ways"),
        (lambda wf, a: wf.add(report.s(a, more=a)), r"report gets the result of extract twice, as rows and more"),
        (lambda wf, a: wf.add(merge.s([a, a])), r"merge gets the result of extract twice"),
        (lambda wf, a: wf.add(merge.s([a, a.ended])), r"the nodes of one list are waited for in one way"),
        (lambda wf, a: wf.add(merge.s([a, wf.add(extract.map(["2"]))])), r"nodes of one result each"),
        (lambda wf, a: wf.add(clean.s(wf.add(Workflow("none")))), r"<node none> has no result"),
    ],
)
def test_what_a_graph_cannot_say_is_refused(write: Any, complaint: str) -> None:
    wf = Workflow("w")
    write(wf, wf.add(extract.s("1")))
    with pytest.raises(InvalidWorkflow, match=complaint):
        wf.compile()


def test_arguments_of_nodes_are_validated_as_far_as_they_are_known() -> None:
    wf = Workflow("w")
    rows = wf.add(extract.s("1"))
    wrong: Any = clean
    wf.add(wrong.s(rows, strict="perhaps"))
    with pytest.raises(InvalidArguments, match=r"cannot call clean: strict"):
        wf.compile()
    wf = Workflow("w")
    wf.add(wrong.s(wf.add(extract.s("1")), True, "more"))
    with pytest.raises(InvalidArguments, match=r"too many positional arguments"):
        wf.compile()


# Workflows in workflows.


def test_a_workflow_in_a_workflow_is_a_group_whose_first_nodes_wait() -> None:
    inner = Workflow("inner", on_failure="hold")
    rows = inner.add(extract.s("1"))
    inner.add(clean.s(rows))
    inner.add(note.s())
    wf = Workflow("outer")
    before = wf.add(note.s())
    sub = wf.add(inner, after=before)
    wf.add(note.s(), after=sub)
    wf.add(alert.s(), after=sub.failed)
    graph = wf.compile()
    assert graph.group_of == [0, 1, 1, 1, 0, 0]
    assert (graph.groups[1].parent, graph.groups[1].on_failure) == (0, "hold")
    assert [waits(graph, node) for node in range(1, 6)] == [
        {(0, "s", None)}, {(1, "s", "rows")}, {(0, "s", None)}, {(-2, "s", None)}, {(-2, "f", None)},
    ]  # fmt: skip


def test_a_workflow_of_a_canvas_has_its_result() -> None:
    wf = Workflow("outer")
    parts = wf.add(Workflow.of(extract.map(["1", "2"]), name="days"))
    one = wf.add(Workflow.of(extract.s("3") | clean.s()))
    wf.add(merge.s(parts))
    wf.add(report.s(one))
    graph = wf.compile()
    assert [each.name for each in graph.groups] == ["outer", "days", "extract | clean"]
    assert waits(graph, 4) == {(-2, "s", "parts")}
    assert waits(graph, 5) == {(3, "s", "rows"), (-3, "s", None)}
    assert len(Workflow.of(note.s()).compile().nodes) == 1


def test_an_empty_workflow_is_passed_through_and_cannot_fail() -> None:
    wf = Workflow("outer")
    first = wf.add(note.s())
    for empty in (Workflow("nothing"), group(), Workflow.of(group())):
        nothing = wf.add(empty, after=first)
        wf.add(note.s(), after=nothing)
        wf.add(note.s(), after=nothing.ended)
        never = wf.add(alert.s(), after=nothing.failed)
        wf.add(alert.s(), after=never)
        wf.add(note.s(), after=[never.ended, first])
    graph = wf.compile()
    assert len(graph.groups) == 1
    assert [waits(graph, node) for node in range(1, 10)] == [{(0, when, None)} for when in "sessesses"]


def test_a_callback_of_an_empty_workflow_waits_for_what_that_waited_for() -> None:
    wf = Workflow("outer")
    first = wf.add(note.s())
    wf.add(Workflow("nothing").on_success(note.s()).on_complete(note.s()).on_error(alert.s()), after=first.failed)
    graph = wf.compile()
    assert graph.edges == [Edge(0, 1, "f"), Edge(0, 2, "e")]
    assert graph.group_of == [0, None, None]


def test_a_workflow_is_no_part_of_itself() -> None:
    one, two = Workflow("one"), Workflow("two")
    one.add(two)
    two.add(one)
    with pytest.raises(InvalidWorkflow, match=r"workflow one is a part of itself"):
        one.compile()


def test_callbacks_of_a_workflow_hang_on_its_group() -> None:
    inner = Workflow("inner").on_error(alert.s())
    inner.add(note.s())
    wf = Workflow("outer").on_success(note.s()).on_error(alert.s()).on_complete(note.s())
    wf.add(inner)
    graph = wf.compile()
    assert graph.group_of == [1, None, None, None, None]
    assert graph.edges == [Edge(-2, 1, "f"), Edge(-1, 2), Edge(-1, 3, "f"), Edge(-1, 4, "e")]
    empty = Workflow("empty").on_success(note.s()).on_error(alert.s()).compile()
    assert (len(empty.nodes), empty.edges, empty.group_of) == (1, [], [0])


# Random workflows.


@dataclass(frozen=True)
class Drawn:
    """A node that was drawn: the nodes that it waits for, each under a condition, and how many of them by argument.

    `kind`: a job, a workflow of a job, or a workflow of nothing.
    """

    kind: str
    needs: dict[int, str]
    arguments: int


@st.composite
def workflows(draw: st.DrawFn) -> list[Drawn]:
    found: list[Drawn] = []
    for at in range(draw(st.integers(1, 10))):
        several = st.dictionaries(st.integers(0, at - 1), st.sampled_from("ssfe"), max_size=4) if at else st.just({})
        needs = draw(several)
        found.append(
            Drawn(draw(st.sampled_from(["job", "job", "sub", "empty"])), needs, draw(st.integers(0, len(needs))))
        )
    return found


@dataclass
class Meaning:
    """What nodes that were drawn mean, one after the other."""

    fails: frozenset[int]
    states: list[str] = field(default_factory=list)
    before: list[set[int]] = field(default_factory=list)
    never: set[int] = field(default_factory=set)  # what waits for the failure of nothing

    def add(self, each: Drawn, drawn: list[Drawn]) -> dict[int, str]:
        """Say how a node ends; return those that it gets by argument: only of those that have a result, or an end."""
        at = len(self.states)
        if any(self._cannot_be(n, when, drawn) for n, when in each.needs.items()):
            self.never.add(at)
        needs = {n: when for n, when in each.needs.items() if n not in self.never}
        ends = {"s": "succeeded", "f": "failed"}
        met = all(when == "e" or self.states[n] == ends[when] for n, when in needs.items())
        if each.kind == "empty":
            self.states.append("succeeded" if met else "cancelled")
        else:
            self.states.append("cancelled" if not met else "failed" if at in self.fails else "succeeded")
        own = {n for n in needs if drawn[n].kind != "empty"}
        self.before.append(own.union(*(self.before[n] for n in needs)))
        possible = {n: when for n, when in needs.items() if when == "s" or drawn[n].kind != "empty"}
        return dict(list(possible.items())[: each.arguments])

    def _cannot_be(self, node: int, when: str, drawn: list[Drawn]) -> bool:
        if node in self.never:
            return when != "e"
        return when == "f" and drawn[node].kind == "empty"

    def value(self, drawn: list[Drawn], node: int, when: str) -> Any:
        """What a node gets of another one."""
        if drawn[node].kind == "empty":
            return []
        if when == "s":
            return node
        return [self.states[node]] if drawn[node].kind == "sub" else self.states[node]


def _condition(node: Node[Any], when: str) -> Any:
    return {"s": node, "f": node.failed, "e": node.ended}[when]


@app.task(name="five")
def five(id: int, a: Any = None, b: Any = None, c: Any = None, d: Any = None) -> int:  # noqa: A002
    return id


def _id(args: str) -> int:
    return int(json.loads(args)["id"])


@pytest.mark.parametrize("most_edges", [1, 64])
@settings(max_examples=150, deadline=None)
@given(drawn=workflows(), fails=st.frozensets(st.integers(0, 9), max_size=3))
def test_a_random_workflow_means_what_it_says(most_edges: int, drawn: list[Drawn], fails: frozenset[int]) -> None:
    wf, meaning = Workflow("random"), Meaning(fails)
    nodes: list[Node[Any]] = []
    received: list[dict[int, str]] = []
    for at, each in enumerate(drawn):
        received.append(meaning.add(each, drawn))
        call = five.s(at, *(_condition(nodes[n], when) for n, when in received[at].items()))
        part: Any = call if each.kind == "job" else Workflow.of(call if each.kind == "sub" else group())
        others = [_condition(nodes[n], when) for n, when in each.needs.items() if n not in received[at]]
        if each.kind == "empty":
            others = [_condition(nodes[n], when) for n, when in each.needs.items()]
        nodes.append(wf.add(part, after=others))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "MOST_EDGES", most_edges)
        try:
            graph = wf.compile()
        except InvalidWorkflow as error:  # behind a workflow of nothing two conditions may meet on one node
            assert "in two ways" in str(error)  # noqa: PT017
            assert any(each.kind == "empty" for each in drawn)
            return
    ids = [_id(node.args) for node in graph.nodes]
    assert ids == [at for at, each in enumerate(drawn) if each.kind != "empty" and at not in meaning.never]
    played = Player(graph, [node for node, each in enumerate(ids) if each in fails], lambda node: ids[node]).play()
    for node, at in enumerate(ids):
        assert played.states[node] == meaning.states[at]
        assert {ids[other] for other in played.before[node]} == meaning.before[at]
        if meaning.states[at] != "cancelled":
            values = [meaning.value(drawn, n, when) for n, when in received[at].items()]
            assert played.arguments[node] == {"id": at, **dict(zip("abcd", values, strict=False))}


def test_the_work_of_compiling_a_workflow_grows_with_the_number_of_nodes() -> None:
    def compiled(count: int) -> None:
        wf = Workflow("wide")
        nodes: list[Node[Any]] = []
        for at in range(count):
            nodes.append(wf.add(note.s(), after=[nodes[n] for n in {at - 1, at // 2} if 0 <= n < at]))
        assert len(wf.compile().edges) >= count

    compiled(10)
    assert calls_of(lambda: compiled(3000)) < 11 * calls_of(lambda: compiled(300))


# Batches.


@pytest.fixture
def inserted(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that reach the engine."""
    found: list[Graph] = []

    class Inserting:
        def __init__(self, app: AppParts, conn: object = None) -> None: ...

        def enqueue(self, graph: Graph) -> InsertedWorkflow:
            found.append(graph)
            return InsertedWorkflow([9], list(range(len(graph.nodes))), datetime.now(UTC))

        async def aenqueue(self, graph: Graph) -> InsertedWorkflow:
            return self.enqueue(graph)

    monkeypatch.setattr(enqueueing, "Workflows", Inserting)
    return found


def test_a_batch_is_one_group_and_its_callbacks_hang_on_it(inserted: list[Graph]) -> None:
    begun = app.batch(on_success=merge.s(name="n"), on_dead=alert.s(), on_complete=note.s(), name="mails")
    with begun.using() as batch:
        batch.add(extract.s("1"))
        batch.add_many(extract.using(priority=5), [{"day": "2"}, {"day": "3"}])
        assert len(batch) == 3
    (graph,) = inserted
    assert graph.group_of == [0, 0, 0, None, None, None]
    assert graph.edges == [Edge(-1, 3, "s", "parts"), Edge(-1, 4, "f"), Edge(-1, 5, "e")]
    assert [node.priority for node in graph.nodes] == [0, 5, 5, 0, 0, 0]
    assert graph.groups[0].name == "mails"


def test_a_batch_whose_block_fails_enqueues_nothing(inserted: list[Graph]) -> None:
    def broken() -> None:
        with app.batch() as batch:
            batch.add(extract.s("1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    wrong: Any = extract
    with pytest.raises(InvalidArguments, match=r"call 1: day"), app.batch() as batch:
        batch.add_many(extract, [{"day": "1"}, {"day": wrong}])
    with pytest.raises(InvalidWorkflow, match=r"does not give arguments by name"), app.batch() as batch:
        batch.add_many(extract, wrong and ["day"])
    with pytest.raises(InvalidWorkflow, match=r"a batch: .* is no canvas"), app.batch() as batch:
        batch.add(wrong)
    with pytest.raises(InvalidWorkflow, match=r"a callback: .* is no canvas"):
        app.batch(on_success=wrong)
    assert inserted == []


def test_an_async_batch(inserted: list[Graph]) -> None:
    async def enqueued() -> None:
        async with app.batch(on_complete=note.s()) as batch:
            batch.add(chord([extract.s("1")], merge.s()))

    asyncio.run(enqueued())
    assert [len(graph.nodes) for graph in inserted] == [3]


def test_an_empty_batch_is_its_callbacks(inserted: list[Graph]) -> None:
    with app.batch(on_success=merge.s(), on_dead=alert.s()):
        pass
    with app.batch() as batch:
        assert isinstance(batch, Batch)
    (graph,) = inserted
    assert args(graph) == [{"parts": []}]


OnFailure = Literal["cancel", "stop", "hold"]


def test_groups_inside_treat_failures_as_the_workflow_does() -> None:
    kinds: tuple[OnFailure, ...] = ("cancel", "stop", "hold")
    for kind in kinds:
        wf = Workflow("w", on_failure=kind)
        wf.add(merge.s(wf.add(extract.map(str(n) for n in range(100)))))
        assert [each.on_failure for each in wf.compile().groups] == [kind, kind]

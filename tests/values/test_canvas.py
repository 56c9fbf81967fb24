"""Signatures and canvases: what callers may write, what it compiles to, and what is refused."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import pgqueue
from pgqueue import (
    App,
    Canvas,
    Context,
    InvalidArguments,
    InvalidOption,
    InvalidWorkflow,
    Limit,
    Signature,
    UnknownWorkflow,
    UnsupportedConnection,
    Workflow,
    WorkflowRun,
    chain,
    chord,
    group,
)
from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas import building, enqueueing
from pgqueue.client.workflows import CancelledWorkflow
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Edge, Graph
from tests.values.graphs import Player, calls_of

app = App("postgresql://nowhere", name="canvas")


@app.task(name="fetch")
def fetch(url: str) -> str:
    return url


@app.task(name="parse")
def parse(text: str, strict: bool = False) -> list[int]:
    return [len(text)]


@app.task(name="store")
def store(rows: list[int], place: str) -> str:
    return place


@app.task(name="resize", queue="cpu", priority=3)
async def resize(photo: int, size: str = "s") -> int:
    return photo


@app.task(name="album")
def album(photos: list[int], name: str = "x") -> str:
    return name


@app.task(name="many")
def many(ctx: Context, ids: list[int], scale: int = 1) -> int:
    return len(ids)


@app.task(name="tidy")
def tidy() -> None: ...


@app.task(name="page")
def page(level: str = "high", *, how: Any) -> None: ...


@app.task(name="alert")
def alert(how: Any, *, level: str = "high") -> None: ...


def args(graph: Graph) -> list[Any]:
    return [json.loads(node.args) for node in graph.nodes]


def tasks(graph: Graph) -> list[str]:
    return [node.task for node in graph.nodes]


# The seeds' snippets, with their own names.


@app.task
def extract_data(source_id):  # type: ignore[no-untyped-def]
    return [source_id]


@app.task
def transform_data(rows):  # type: ignore[no-untyped-def]
    return rows


@app.task
def load_data(rows, destination_id):  # type: ignore[no-untyped-def]
    return destination_id


@app.task
def send_completion_notification(results, batch_id):  # type: ignore[no-untyped-def]
    return batch_id


def test_a_chain_gives_each_step_the_result_of_the_one_before_and_its_own_arguments_come_after_it() -> None:
    graph = chain(extract_data.s(7), transform_data.s(), load_data.s("warehouse")).compile()
    assert args(graph) == [{"source_id": 7}, {}, {"destination_id": "warehouse"}]
    assert graph.edges == [Edge(0, 1, "s", "rows"), Edge(1, 2, "s", "rows")]
    assert graph == (extract_data.s(7) | transform_data.s() | load_data.s("warehouse")).compile()


def test_a_chord_gives_its_body_the_list_of_results_before_its_own_arguments() -> None:
    graph = chord([resize.s(item) for item in (1, 2)], send_completion_notification.s("b1")).compile()
    assert args(graph)[2] == {"batch_id": "b1"}
    assert graph.edges == [Edge(0, 2, "s", "results", 0), Edge(1, 2, "s", "results", 1)]


def test_a_group_takes_a_generator() -> None:
    graph = group(resize.s(photo) for photo in range(3)).compile()
    assert (tasks(graph), graph.edges) == (["resize"] * 3, [])
    assert graph.group_of == [0, 0, 0]


def test_fan_out_aggregate_notify_nests() -> None:
    full = chain(chord([resize.s(i) for i in (1, 2)], album.s()), alert.s(level="low"))
    played = Player(full.compile(), result=lambda node: f"r{node}").play()
    assert played.arguments[2:] == [{"photos": ["r0", "r1"]}, {"how": "r2", "level": "low"}]


# Where results go.


def test_the_result_goes_to_the_first_parameter_that_is_not_given_by_name() -> None:
    given: Any = store  # by name its first parameter, which type checkers refuse
    graph = chain(fetch.s("u"), given.s(rows=[1])).compile()
    assert graph.edges == [Edge(0, 1, "s", "place")]
    assert args(graph)[1] == {"rows": [1]}


def test_a_step_without_a_parameter_left_is_refused_by_its_name() -> None:
    full: Any = parse
    for step in (full.s("x", True), full.s(text="x", strict=True), tidy.s()):
        with pytest.raises(
            InvalidWorkflow, match=r"has no parameter left for the result .* use \w+\.si\(…\)"
        ) as raised:
            chain([fetch.s("u"), step]).compile()
        assert step.task in str(raised.value)


def test_an_immutable_step_waits_and_takes_nothing() -> None:
    graph = (fetch.s("u") | tidy.si() | parse.si("x", strict=True)).compile()
    assert args(graph)[1:] == [{}, {"text": "x", "strict": True}]
    assert graph.edges == [Edge(0, 1), Edge(1, 2)]


def test_a_group_in_a_chain_gets_the_result_in_each_member_and_gives_the_list() -> None:
    graph = (fetch.s("u") | group(parse.s(), parse.s(strict=True)) | album.s()).compile()
    assert [edge for edge in graph.edges if edge.child < 3] == [Edge(0, 1, "s", "text"), Edge(0, 2, "s", "text")]
    assert [edge for edge in graph.edges if edge.child == 3] == [
        Edge(1, 3, "s", "photos", 0), Edge(2, 3, "s", "photos", 1),
    ]  # fmt: skip


def test_groups_in_groups_give_one_list_in_the_order_in_which_they_are_written() -> None:
    inner = resize.s(1) | group(resize.si(2), resize.si(3))
    graph = chord([group(inner, resize.s(4)), resize.s(5)], album.s()).compile()
    played = Player(graph, result=lambda node: json.loads(graph.nodes[node].args)["photo"]).play()
    assert played.arguments[-1] == {"photos": [2, 3, 4, 5]}


def test_an_empty_group_has_an_empty_list_and_what_comes_next_waits_for_what_came_before() -> None:
    assert args(chord([], album.s()).compile()) == [{"photos": []}]
    assert args(chord([], album.s("x")).compile()) == [{"photos": [], "name": "x"}]
    graph = (fetch.s("u") | group() | group([]) | album.s()).compile()
    assert graph.edges == [Edge(0, 1)]
    assert args(graph)[1] == {"photos": []}


def test_an_empty_member_adds_neither_a_result_nor_an_edge() -> None:
    graph = (fetch.s("u") | group(parse.s(), group(), parse.s() | group()) | album.s()).compile()
    assert graph.edges == [Edge(0, 1, "s", "text"), Edge(0, 2, "s", "text"), Edge(1, 3, "s", "photos", 0), Edge(2, 3)]


def test_a_group_of_one_gives_a_list_of_one() -> None:
    assert (group(resize.s(1)) | album.s()).compile().edges == [Edge(0, 1, "s", "photos", 0)]


def test_a_wide_group_is_waited_for_by_one_edge() -> None:
    graph = (resize.map(range(1000)) | album.s("x")).compile()
    assert graph.edges == [Edge(-2, 1000, "s", "photos")]
    assert graph.groups[1].parent == 0
    assert graph.group_of == [1] * 1000 + [0]


def test_map_gives_each_value_to_a_job_and_chunks_a_list_of_them() -> None:
    assert args(resize.map([1, 2], size="xl").compile()) == [{"photo": 1, "size": "xl"}, {"photo": 2, "size": "xl"}]
    assert args(resize.map([1], "xl").compile()) == [{"photo": 1, "size": "xl"}]
    assert args(many.chunks(range(5), 2, scale=3).compile()) == [
        {"ids": [0, 1], "scale": 3}, {"ids": [2, 3], "scale": 3}, {"ids": [4], "scale": 3},
    ]  # fmt: skip
    assert many.chunks([], 2).compile().nodes == []
    with pytest.raises(InvalidOption, match=r"chunks of 0"):
        many.chunks([1], 0)


# Arguments and options.


def test_arguments_are_validated_and_encoded_when_it_compiles_whole_or_in_part() -> None:
    wrong: Any = store
    with pytest.raises(InvalidArguments, match=r"cannot call store: place: Input should be a valid string"):
        (fetch.s("u") | parse.s() | wrong.s(7)).compile()
    with pytest.raises(InvalidArguments, match=r"cannot call store: rows: Field required|missing a required argument"):
        wrong.s(place="x").compile()
    with pytest.raises(InvalidArguments, match=r"call 2: photo"):
        (resize.map([1, 2, wrong]) | album.s()).compile()
    with pytest.raises(InvalidArguments, match=r"1 arguments by position beside the result, which is how"):
        (fetch.s("u") | alert.s("x")).compile()
    with pytest.raises(InvalidArguments, match=r"nam: "):
        (resize.s(1) | album.s(nam="x")).compile()  # type: ignore[call-overload]


def test_options_of_jobs_are_refused_where_there_are_several_jobs(app: App) -> None:
    @app.task(name="step")
    def step(n: int) -> int:
        return n

    flows = {"canvas": step.s(1) | step.s(), "workflow": Workflow("w"), "batch": app.batch()}
    for what, flow in flows.items():
        with pytest.raises(InvalidOption) as raised:
            flow.using(priority=5)  # type: ignore[attr-defined]
        assert f"priority= cannot be used here: using() of a {what} takes a connection and name=…" in str(raised.value)
        assert "task.s(…).using(priority=…)" in str(raised.value)
    (node, _) = (step.s(1).using(priority=5) | step.s()).compile().nodes  # what the message says
    assert node.priority == 5
    (node,) = step.using(priority=5).s(1).compile().nodes
    assert node.priority == 5


def test_a_signature_takes_every_option_of_a_call_and_later_ones_count() -> None:
    due = datetime(2030, 1, 1, tzinfo=UTC)
    one = resize.using(queue="slow", tags=["a"], headers={"tenant": "7"}).s(1)
    (node,) = one.using(queue="fast", run_at=due, max_attempts=2, expires=timedelta(days=3000)).compile().nodes
    assert (node.queue, node.priority, node.run_at, node.max_attempts) == ("fast", 3, due, 2)
    assert (node.tags, node.headers) == (("a",), '{"tenant": "7"}')
    assert node.conditions is not None
    assert node.conditions.expires == timedelta(days=3000).total_seconds()
    assert one.compile().nodes[0].queue == "slow"
    with pytest.raises(TypeError, match=r"did you mean queue\?"):
        one.using(queu="fast")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match=r"priority=500"):
        one.using(priority=500)
    with pytest.raises(InvalidOption, match=r"exclude each other"):
        one.using(run_at=due).using(delay=5)


def test_keys_of_a_signature_are_given_or_made_of_arguments_that_are_known() -> None:
    keyed = App("postgresql://nowhere")

    @keyed.task(name="once", idempotent=True)
    def once(text: str, n: int = 1) -> None: ...

    @keyed.task(name="metered", limit=Limit(2, by="customer"))
    def metered(text: str, customer: str) -> None: ...

    @keyed.task(name="source")
    def source() -> str:
        return "x"

    assert once.s("x").compile().nodes[0].conditions is not None
    with pytest.raises(InvalidOption, match=r"a key of task once is made of text, .* using\(idempotency_key=…"):
        (source.s() | once.s()).compile()
    (_, node) = (source.s() | once.s().using(idempotency_key="k")).compile().nodes
    assert node.conditions is not None
    assert node.conditions.key == "k"
    with pytest.raises(InvalidOption, match=r"made of customer, .* using\(limit_key=…"):
        (source.s() | metered.s(text="x")).compile()  # type: ignore[call-overload]
    (_, node) = (source.s() | metered.s(customer="acme")).compile().nodes
    assert node.flow is not None
    assert node.flow.buckets == ("metered/acme",)
    (_, node) = (source.s() | metered.s(text="x").using(limit_key="zen")).compile().nodes  # type: ignore[call-overload]
    assert node.flow is not None
    assert node.flow.buckets == ("metered/zen",)


def test_the_job_of_a_node_is_the_one_that_enqueue_would_insert() -> None:
    assert resize.s(1, "xl").compile().nodes == [resize._new((1, "xl"), {})]
    assert many.using(priority=1).s([1]).compile().nodes == [many.using(priority=1)._new(([1],), {})]


# Callbacks.


def test_a_callback_of_a_job_gets_its_result_or_how_it_ended_if_it_needs_an_argument() -> None:
    one = resize.s(1).on_success(album.s([9])).on_error(alert.s()).on_complete(tidy.s())
    graph = one.compile()
    assert graph.edges == [Edge(0, 1), Edge(0, 2, "f", "how"), Edge(0, 3, "e")]
    assert graph.group_of == [0, None, None, None]


def test_a_callback_gets_an_argument_where_it_needs_one() -> None:
    calls: list[Any] = [alert.s(), alert.s("me"), page.s(), page.s("low"), page.s(how=1), album.s(name="n"), tidy.si()]
    arguments = [resize.s(1).on_error(call).compile().edges[0].argument for call in calls]
    assert arguments == ["how", None, "how", "how", None, "photos", None]


def test_what_comes_next_does_not_wait_for_a_callback() -> None:
    graph = (resize.s(1).on_error(alert.s()) | album.s()).compile()
    assert tasks(graph) == ["resize", "alert", "album"]
    assert graph.edges == [Edge(0, 1, "f", "how"), Edge(0, 2, "s", "photos")]


def test_a_callback_of_the_whole_hangs_on_the_whole() -> None:
    graph = chain(chord([resize.s(1), resize.s(2)], album.s()), alert.s()).on_error(tidy.s()).compile()
    assert graph.edges[-1] == Edge(-1, 4, "f")
    assert graph.group_of == [0, 0, 0, 0, None]
    assert len(graph.groups) == 1


def test_on_error_of_a_part_that_has_several_jobs_hangs_on_a_group_of_its_own() -> None:
    graph = ((resize.s(1) | resize.s()).on_error(alert.s()) | album.s()).compile()
    assert graph.group_of == [1, 1, None, 0]
    assert [edge for edge in graph.edges if edge.child == 2] == [Edge(-2, 2, "f", "how")]
    assert [Player(graph, fails).play().states[2] for fails in ((), (0,), (1,))] == [
        "cancelled",
        "succeeded",
        "succeeded",
    ]
    for form in ("on_error", "on_complete"):
        with pytest.raises(InvalidWorkflow, match=r"several jobs in a callback"):
            resize.s(1).on_success(getattr(resize.s(1) | tidy.si(), form)(tidy.s())).compile()


def test_a_list_is_taken_from_a_group_only_if_its_members_are_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "MOST_EDGES", 1)
    inner = group(resize.s(2), resize.s(3)).on_success(album.s())
    graph = group(resize.s(1), inner).on_success(album.s()).compile()
    assert graph.group_of == [0, 1, 1, None, None]
    assert [edge for edge in graph.edges if edge.argument] == [
        Edge(-2, 3, "s", "photos"),
        *(Edge(node, 4, "s", "photos", node) for node in range(3)),
    ]


def test_callbacks_of_nothing_run_at_once_but_for_that_of_a_failure() -> None:
    graph = group().on_success(album.s()).on_error(alert.s()).on_complete(tidy.s()).compile()
    assert (tasks(graph), args(graph), graph.edges) == (["album", "tidy"], [{"photos": []}, {}], [])
    assert graph.group_of == [0, 0]


# Enqueueing.


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


@pytest.mark.parametrize(
    "enqueue",
    [
        lambda flow: flow.enqueue(),
        lambda flow: flow.using().enqueue(),
        lambda flow: flow.using(name="seven").enqueue(),
    ],
)
def test_a_canvas_is_one_graph_for_the_engine(inserted: list[Graph], enqueue: Callable[[Any], WorkflowRun]) -> None:
    assert enqueue(resize.map([1, 2]) | album.s()).jobs == [0, 1, 2]
    assert enqueue(resize.s(1)) == WorkflowRun(9, [0])
    assert [graph.groups[0].name for graph in inserted] in (["resize | album", "resize"], ["seven", "seven"])


async def _aenqueued(flow: Canvas[Any, Any]) -> list[list[int]]:
    return [(await flow.aenqueue()).jobs, (await flow.using(name="a").aenqueue()).jobs]


def test_async_twins_do_the_same(inserted: list[Graph]) -> None:
    assert asyncio.run(_aenqueued(resize.s(1) | album.s())) == [[0, 1], [0, 1]]
    assert len(inserted) == 2


def test_a_canvas_of_nothing_enqueues_nothing(inserted: list[Graph]) -> None:
    nothing = group().enqueue()
    assert (nothing.id, nothing.jobs, nothing.state, nothing.wait(0)) == (None, [], "succeeded", "succeeded")
    assert (nothing.cancel(), asyncio.run(nothing.await_end())) == (CancelledWorkflow(had_ended=True), "succeeded")
    assert not nothing.cancel()
    with pytest.raises(UnknownWorkflow, match="a canvas of nothing"):
        nothing.retry()
    assert resize.map([]).using(name="x").enqueue() == nothing
    assert inserted == []


def test_bad_input_reaches_no_database(inserted: list[Graph]) -> None:
    wrong: Any = resize
    with pytest.raises(InvalidArguments):
        group(resize.s(1), wrong.s("x")).enqueue()
    assert inserted == []


def test_what_is_no_connection_cannot_be_borrowed() -> None:
    with pytest.raises(UnsupportedConnection, match=r"using\(None\)"):
        resize.s(1).using(None).enqueue()


# What is refused.


def test_what_is_no_canvas_is_refused_where_it_is_written() -> None:
    made: Any = resize
    for write in (
        lambda: chain(made, album.s()),
        lambda: group([1, 2]),  # type: ignore[list-item]
        lambda: group("ab"),  # type: ignore[arg-type]
        lambda: group(7),  # type: ignore[arg-type]
        lambda: chord([resize.s(1)], made),
        lambda: resize.s(1).on_error(made),
        lambda: chain([]),
    ):
        with pytest.raises(InvalidWorkflow, match=r"cannot be used|is no canvas|is no callback"):
            write()
    with pytest.raises(TypeError):
        resize.s(1) | made  # type: ignore[operator]


def test_two_apps_do_not_share_a_graph() -> None:
    other = App("postgresql://nowhere")

    @other.task(name="elsewhere")
    def elsewhere(x: int) -> int:
        return x

    with pytest.raises(InvalidWorkflow, match=r"tasks resize and elsewhere belong to two apps"):
        (resize.s(1) | elsewhere.s()).compile()


def test_a_signature_has_no_connection() -> None:
    with pytest.raises(InvalidOption, match=r"a signature of resize has no connection: .* flow\.using\(conn\)"):
        resize.using(object()).s(1)


def test_a_canvas_too_deep_to_place_is_refused() -> None:
    deep: Canvas[Any, Any] = resize.s(1)
    for _ in range(250):
        deep = group(deep)
    with pytest.raises(InvalidWorkflow, match=r"more than 200 deep"):
        deep.compile()


def test_a_name_is_checked() -> None:
    with pytest.raises(InvalidOption, match=r"workflow name"):
        resize.s(1).using(name="").compile()
    assert len((resize.s(1) | album.s()).compile("n" * 200).groups[0].name) == 200


def test_canvases_are_public() -> None:
    assert {"Batch", "Canvas", "InvalidWorkflow", "Node", "Signature", "Workflow", "chain", "chord", "group"} <= set(
        pgqueue.__all__
    )
    assert repr(resize.s(1)) == "<signature of resize>"
    assert repr(chain(resize.s(1), album.s())) == "<chain of 2>"
    assert repr(resize.map([1])) == "<group of 1>"
    assert isinstance(resize.s(1), Signature)


def test_the_work_of_compiling_grows_with_the_number_of_nodes() -> None:
    def compiled(count: int) -> Graph:
        members = resize.map(range(count)) | group(album.si([]) for _ in range(count)) | album.s()
        steps = chain(resize.s(1).on_error(alert.s()), *(resize.s(size="m") for _ in range(count)))
        graph = group(members, steps).compile()
        assert len(graph.edges) <= 3 * count + 2
        return graph

    compiled(10)  # the coders of calls in part are made once
    assert calls_of(lambda: compiled(3000)) < 11 * calls_of(lambda: compiled(300))

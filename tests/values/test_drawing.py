"""Pictures of graphs: names of tasks, what comes after what, and no argument."""

import json
import random
import re

import pytest

from pgqueue import App, Workflow, chord, group
from pgqueue.workflows.drawing import Drawing
from pgqueue.workflows.graph import Edge, Group

app = App("postgresql://nowhere", name="drawing")


@app.task(name="shop.fetch")
def fetch(url: str) -> str:
    return url


@app.task(name="shop.resize")
def resize(photo: str, size: int = 1) -> int:
    return size


@app.task(name="shop.album")
def album(photos: list[int]) -> str:
    return "x"


@app.task(name="shop.alert")
def alert() -> None: ...


def test_a_tree_shows_runs_on_a_line_and_what_looks_the_same_once() -> None:
    flow = fetch.s("secret") | resize.s() | group(resize.si(n) for n in "abc") | album.s()
    assert flow.to_text() == (
        "fetch | resize | album\n"
        "└─ shop.fetch → shop.resize\n"
        "   ├─ shop.resize (3 times)\n"
        "   └─ after 3 jobs: shop.album\n"
    )  # fmt: skip
    long = resize.s("secret")
    chained = long | resize.si("b")
    for _ in range(20):
        chained = chained | resize.si("c")
    run = chained.to_text().splitlines()[1]
    assert run == "└─ " + " → ".join([*["shop.resize"] * 3, "… 16 more …", *["shop.resize"] * 3])


def test_a_tree_shows_groups_conditions_and_each_node_once() -> None:
    wf = Workflow("import")
    rows = wf.add(fetch.s("secret"), name="rows")
    photos = wf.add(Workflow.of(resize.map("abc"), name="photos"), after=rows)
    made = wf.add(album.s(photos))
    index = wf.add(alert.s(), after=rows, name="index")
    last = wf.add(alert.s(), after=[made, index], name="last")
    wf.add(alert.s(), after=last)
    wf.add(alert.s(), after=rows.failed)
    wf.add(alert.s(), after=photos.ended)
    wf.on_error(alert.s())
    assert wf.to_text() == (
        "import\n"
        "├─ rows\n"
        "│  ├─ group photos\n"
        "│  │  ├─ shop.resize (3 times)\n"
        "│  │  ├─ → shop.album\n"
        "│  │  └─ → at the end: shop.alert\n"
        "│  ├─ index\n"
        "│  ├─ on failure: shop.alert\n"
        "│  └─ after shop.album, index: last → shop.alert\n"
        "└─ → on failure: shop.alert\n"
    )


def stored(
    edges: list[Edge], states: str, groups: list[Group] | None = None, group_of: list[int] | None = None, **errors: str
) -> str:
    """Return the tree of stored jobs, whose ids are 11 and up; `states`: p, r, s, f or c of each."""
    words = {"p": "pending", "r": "running", "s": "succeeded", "f": "failed", "c": "cancelled", "b": "blocked"}
    count = len(states)
    return Drawing(
        ["pay"] * count, group_of or [0] * count, edges, groups or [Group("w")], range(11, 11 + count),
        [words[state] for state in states], {int(node[1:]): text for node, text in errors.items()},
    ).text()  # fmt: skip


def test_a_stored_chord_has_its_body_once_and_names_ids_states_and_errors() -> None:
    header = [Edge(at, 4) for at in range(4)]
    assert stored([*header, Edge(4, 5)], "sfrfcc", n1="CardRefused: no funds", n3="TimeoutError: 5 s") == (
        "w\n"
        "├─ pay 11: succeeded\n"
        "├─ pay 12: failed\n"
        "│     error of 12: CardRefused: no funds\n"
        "├─ pay 13: running\n"
        "├─ pay 14: failed\n"
        "│     error of 14: TimeoutError: 5 s\n"
        "└─ after 11, 12, 13, 14: pay 15: cancelled → pay 16: cancelled\n"
    )


def test_many_members_that_look_the_same_share_a_line_with_their_ids() -> None:
    body = [Edge(at, 9) for at in range(9)]
    assert stored(body, "sssssfffpb", n5="E: x", n6="E: x", n7="E: x") == (
        "w\n"
        "├─ pay 11 … 15: succeeded (5 times)\n"
        "├─ pay 16, 17, 18: failed\n"
        "│     error of each: E: x\n"
        "├─ pay 19: pending\n"
        "└─ after 9 jobs: pay 20: blocked\n"
    )


def test_a_join_stands_where_the_branches_of_its_parents_meet() -> None:
    """Also deep below, where parents are groups, and where one parent is above the other."""
    edges = [Edge(0, 1), Edge(1, 2), Edge(0, 3), Edge(2, 4), Edge(3, 4), Edge(0, 5, "e"), Edge(4, 5, "f")]
    assert stored(edges, "srbrbb") == (
        "w\n"
        "└─ pay 11: succeeded\n"
        "   ├─ pay 12: running → pay 13: blocked\n"
        "   ├─ pay 14: running\n"
        "   ├─ after 13, 14: pay 15: blocked\n"
        "   └─ at the end of 11, on failure of 15: pay 16: blocked\n"
    )
    grouped = stored([Edge(-2, 3), Edge(2, 3), Edge(0, 1)], "srrb", [Group("w"), Group("inner", 0)], [1, 1, 0, 0])
    assert grouped == (
        "w\n"
        "├─ group inner\n"
        "│  └─ pay 11: succeeded → pay 12: running\n"
        "├─ pay 13: running\n"
        "└─ after group inner, 13: pay 14: blocked\n"
    )


def test_every_node_of_a_random_graph_is_drawn_exactly_once() -> None:
    chance = random.Random(7)
    for _ in range(300):
        count, groups = chance.randrange(1, 12), chance.randrange(1, 4)
        tree = [Group("w"), *(Group(f"g{at}", chance.randrange(at)) for at in range(1, groups))]
        of = [chance.randrange(groups) for _ in range(count)]
        edges = [
            Edge(chance.choice([*range(child), *range(-groups, 0)][: child + groups]), child, chance.choice("sef"))
            for child in range(count) for _ in range(chance.randrange(3))
        ]  # fmt: skip
        drawn = Drawing(
            [f"task{at}" for at in range(count)], of, edges, tree, range(100, 100 + count), ["pending"] * count
        ).text()
        for node in range(count):
            assert len(re.findall(rf"task{node} {100 + node}: ", drawn)) == 1, drawn


def test_a_flowchart_has_boxes_for_groups_and_dashes_for_other_ends() -> None:
    inner = chord([resize.s("secret"), resize.s("b")], album.s()).on_error(alert.s())
    flow = (inner | resize.s()).on_complete(alert.s())
    assert flow.to_mermaid() == (
        "flowchart TD\n"
        '  n3["shop.alert"]\n'
        '  n4["shop.resize"]\n'
        '  n5["shop.alert"]\n'
        '  subgraph g1["resize | album"]\n'
        '  n0["shop.resize"]\n'
        '  n1["shop.resize"]\n'
        '  n2["shop.album"]\n'
        "  end\n"
        "  n0 --> n2\n"
        "  n1 --> n2\n"
        "  g1 -. failure .-> n3\n"
        "  n2 --> n4\n"
        '  g0(("resize | album")) -. end .-> n5\n'
    )


def test_names_cannot_break_out_of_a_flowchart() -> None:
    drawing = Drawing(['a"] --> b; %% <script>', "c"], [0, 0], [Edge(0, 1)], [Group("w")])
    (line,) = [line for line in drawing.mermaid().splitlines() if line.startswith("  n0[")]
    assert re.fullmatch(r'  n0\["[\w .|:;#&-]+"\]', line)
    assert "<" not in line


def test_json_has_nodes_edges_and_groups() -> None:
    wf = Workflow("import", on_failure="hold")
    wf.add(album.s(wf.add(resize.map("ab"))), name="made")
    assert json.loads(wf.to_json()) == {
        "name": "import",
        "on_failure": "hold",
        "nodes": [
            {"node": 0, "name": "shop.resize", "group": 0},
            {"node": 1, "name": "shop.resize", "group": 0},
            {"node": 2, "name": "made", "group": 0},
        ],
        "edges": [
            {"after_node": 0, "node": 2, "when": "success", "argument": "photos"},
            {"after_node": 1, "node": 2, "when": "success", "argument": "photos"},
        ],
        "groups": [{"group": 0, "name": "import", "parent": None, "on_failure": "hold"}],
    }


@pytest.mark.parametrize("picture", ["to_text", "to_mermaid", "to_json"])
def test_no_picture_shows_an_argument(picture: str) -> None:
    flow = (fetch.s("secret") | resize.s() | group(resize.si("secret") for _ in range(100)) | album.s()).on_error(
        alert.s()
    )
    assert "secret" not in getattr(flow, picture)()


def test_a_long_chain_and_a_deep_workflow_can_be_drawn() -> None:
    wf = Workflow("deep")
    last = wf.add(alert.s())
    for _ in range(3000):
        last = wf.add(alert.s(), after=last)
        wf.add(alert.s(), after=last)
    assert wf.to_text().count("\n") > 5000
    assert wf.to_mermaid().count("-->") == 6000

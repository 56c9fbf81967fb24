"""Pictures of graphs: names of tasks, what comes after what, and no argument."""

import json
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
        "   └─ shop.resize (3 times)\n"
        "      └─ shop.album\n"
    )  # fmt: skip
    long = resize.s("secret")
    chained = long | resize.si("b")
    for _ in range(20):
        chained = chained | resize.si("c")
    run = chained.to_text().splitlines()[1]
    assert run == "└─ " + " → ".join([*["shop.resize"] * 3, "… 16 more …", *["shop.resize"] * 3])


def test_a_tree_shows_groups_conditions_and_a_second_parent() -> None:
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
        "│  │  │  └─ last → shop.alert\n"
        "│  │  └─ → at the end: shop.alert\n"
        "│  ├─ index\n"
        "│  │  └─ last …\n"
        "│  └─ on failure: shop.alert\n"
        "└─ → on failure: shop.alert\n"
    )


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

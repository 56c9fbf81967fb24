"""docs/workflows.md: its examples run, as far as no engine is needed, and mean what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas import enqueueing
from pgqueue.client.steps import Steps
from pgqueue.workflows.graph import Graph
from tests.values.graphs import Player

PAGE = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text()


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The names of the page's Python, the graphs that it enqueues, and what it prints."""
    inserted: list[Graph] = []

    def insert(app: AppParts, graph: Graph) -> Steps[list[int]]:
        inserted.append(graph)
        return list(range(len(graph.nodes)))
        yield

    monkeypatch.setattr(enqueueing, "insert", insert)
    names: dict[str, Any] = {"__name__": "shop", "conn": object(), "inserted": inserted}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "workflows.md", "exec"), names)
    return names | {"printed": capsys.readouterr().out}


def test_the_examples_enqueue_what_they_say(page: dict[str, Any]) -> None:
    assert [graph.groups[0].name for graph in page["inserted"]] == [
        "album of May", "resize | album | notify", "import", "batch",
    ]  # fmt: skip
    assert page["ids"] == [0, 1, 2, 3]
    assert page["pipeline"].compile() == page["the_same"].compile()
    assert page["later"].compile().nodes[0].delay == 60
    for name in ("one", "urgent", "thumbs", "fan_out", "each", "bulk", "quiet", "safe", "part"):
        flow = page[name]
        if hasattr(flow, "compile"):
            Player(flow.compile()).play()
    assert len(page["bulk"].compile().nodes) == 10


def test_the_sentence_about_arguments_by_position_is_true(page: dict[str, Any]) -> None:
    graph = page["pipeline"].compile()
    assert json.loads(graph.nodes[2].args) == {"place": "warehouse"}
    assert [edge.argument for edge in graph.edges] == ["text", "rows"]


def test_the_workflow_plays_as_its_comments_say(page: dict[str, Any]) -> None:
    graph = page["inserted"][2]
    assert graph.groups[0].on_failure == "stop"
    tasks = [node.task for node in graph.nodes]
    good, bad = Player(graph).play(), Player(graph, fails=[tasks.index("shop.download")]).play()
    assert {state for task, state in zip(tasks, good.states, strict=True) if task == "shop.alert"} == {"cancelled"}
    assert [task for task, state in zip(tasks, bad.states, strict=True) if state == "succeeded"] == ["shop.alert"]
    assert json.loads(graph.nodes[0].headers) == {"$node": "text"}


def test_the_picture_is_the_one_that_is_printed(page: dict[str, Any]) -> None:
    (picture,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert page["printed"] == picture + "\n"

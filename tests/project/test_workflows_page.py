"""docs/workflows.md: its examples run on a database, and mean what the page says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue.client.canvas import enqueueing
from pgqueue.client.workflows import Workflows
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Graph
from tests.values.graphs import Player

PAGE = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text()


@pytest.fixture
def page(dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[dict[str, Any]]:
    """The names of the page's Python, the graphs that it enqueues, and what it prints."""
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    inserted: list[Graph] = []

    class Noting(Workflows):
        @property
        def enqueue(self) -> Any:
            def noting(graph: Graph) -> InsertedWorkflow:
                inserted.append(graph)
                return super(Noting, self).enqueue(graph)

            return noting

    monkeypatch.setattr(enqueueing, "Workflows", Noting)
    with psycopg.connect(dsn) as conn:
        names: dict[str, Any] = {"__name__": "shop", "conn": conn, "inserted": inserted}
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
            exec(compile(block, "workflows.md", "exec"), names)
        yield names | {"printed": capsys.readouterr().out}
        names["app"].close()


def test_the_examples_enqueue_what_they_say(page: dict[str, Any]) -> None:
    assert [graph.groups[0].name for graph in page["inserted"]] == [
        "album of May", "resize | album | notify", "import", "batch", "import of May",
    ]  # fmt: skip
    assert len(page["run"].jobs) == 4
    assert page["stood"].name == "album of May"
    assert page["run"].state == "cancelled"
    assert page["pipeline"].compile() == page["the_same"].compile()
    assert page["later"].compile().nodes[0].delay == 60
    for name in ("one", "urgent", "thumbs", "fan_out", "each", "bulk", "quiet", "safe", "part"):
        flow = page[name]
        if hasattr(flow, "compile"):
            Player(flow.compile()).play()
    assert len(page["bulk"].compile().nodes) == 10
    assert page["halves"].title == "split | total"
    assert page["growing"].status().sealed
    assert page["app"].workflows.get(page["first"].run.id).jobs == 5


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
    pictures = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert page["printed"] == "".join(f"{picture}\n" for picture in pictures)

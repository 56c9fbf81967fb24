"""The canvases of the founding texts, with their own names: each line as it was written, run by a worker.

Two words differ: `enqueue` stands for Celery's `apply_async`, and the tasks are of an app of ours.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pgqueue import App, WorkflowRun, chain, chord, group
from tests.conftest import work
from tests.harness import Conn
from tests.worker.test_canvases import settled

FIRST: dict[str, Any] = {  # tasks of one parameter, and what each makes of it
    "download_file": lambda url: f"{url}.csv",
    "parse_csv": lambda path: [path, "row"],
    "store_results": len,
    "process_image": lambda img_id: img_id * 10,
    "analyze_chunk": lambda c: c + 1,
    "aggregate_results": sum,
    "process_item": lambda i: -i,
    "merge_results": sorted,
    "extract_data": lambda source_id: [source_id],
    "transform_data": lambda rows: [2 * row for row in rows],
    "send_email": lambda to: f"mail {to}",
    "send_sms": lambda to: f"sms {to}",
    "update_analytics": lambda event: event["kind"],
}


@pytest.fixture
def tasks(app: App) -> SimpleNamespace:
    """The tasks of the founding texts."""
    found = {name: app.task(name=name)(_of_one(function)) for name, function in FIRST.items()}

    @app.task(name="send_notification")
    def send_notification(merged: list[int], user_email: str) -> str:
        return f"{merged} to {user_email}"

    @app.task(name="load_data")
    def load_data(rows: list[int], destination_id: str) -> str:
        return f"{rows} into {destination_id}"

    @app.task(name="send_completion_notification")
    def send_completion_notification(results: list[int], batch_id: str) -> str:
        return f"{batch_id}: {results}"

    more = (send_notification, load_data, send_completion_notification)
    return SimpleNamespace(**found, **{task.name: task for task in more})


def _of_one(function: Any) -> Any:
    def one(value: Any) -> Any:
        return function(value)

    return one


def results(app: App, run: WorkflowRun) -> list[Any]:
    """What the jobs of a workflow have returned, in the order in which they were written down."""
    assert run.id is not None
    return [app.get(job.id).result for job in app.workflows.jobs(run.id)]


def test_each_canvas_of_the_founding_texts_runs_as_it_was_written(app: App, conn: Conn, tasks: SimpleNamespace) -> None:
    download_file, parse_csv, store_results = tasks.download_file, tasks.parse_csv, tasks.store_results
    process_image, analyze_chunk, aggregate_results = tasks.process_image, tasks.analyze_chunk, tasks.aggregate_results
    process_item, merge_results, send_notification = tasks.process_item, tasks.merge_results, tasks.send_notification
    extract_data, transform_data, load_data = tasks.extract_data, tasks.transform_data, tasks.load_data
    send_email, send_sms, update_analytics = tasks.send_email, tasks.send_sms, tasks.update_analytics
    send_completion_notification = tasks.send_completion_notification
    url, image_ids, chunks, items, item_ids = "u", range(3), [1, 2], [1, 2, 3], [4, 5]

    pipeline = chain(download_file.s(url), parse_csv.s(), store_results.s())
    batch = group(process_image.s(img_id) for img_id in image_ids)
    workflow = chord([analyze_chunk.s(c) for c in chunks], aggregate_results.s())
    full = chain(
        chord([process_item.s(i) for i in items], merge_results.s()),
        send_notification.s(user_email="admin@example.com"),
    )
    simple = chain(
        extract_data.s(7),
        transform_data.s(),
        load_data.s("warehouse"),
    )
    parallel = group(
        send_email.s("a@example.com"),
        send_sms.s("+33 1"),
        update_analytics.s({"kind": "signup"}),
    )
    notified = chord(
        [process_item.s(item_id) for item_id in item_ids],
        send_completion_notification.s("b1"),
    )
    in_blocks = merge_results.chunks(range(5), 2)
    runs = [each.enqueue() for each in (pipeline, batch, workflow, full, simple, parallel, notified, in_blocks)]
    asyncio.run(work(app, settled(conn, *runs), poll_seconds=30))
    assert [run.state for run in runs] == ["succeeded"] * 8
    assert [results(app, run) for run in runs] == [
        ["u.csv", ["u.csv", "row"], 2],
        [0, 10, 20],
        [2, 3, 5],
        [-1, -2, -3, [-3, -2, -1], "[-3, -2, -1] to admin@example.com"],
        [[7], [14], "[14] into warehouse"],
        ["mail a@example.com", "sms +33 1", "signup"],
        [-4, -5, "b1: [-4, -5]"],
        [[0, 1], [2, 3], [4]],
    ]

"""The parts of a running worker are connected."""

import asyncio
from dataclasses import fields

from pgqueue import App
from pgqueue.worker import WorkerSettings
from pgqueue.worker.core import Served, WorkerCore
from pgqueue.worker.running.children import Children
from pgqueue.worker.running_worker import RunningWorker
from pgqueue.worker.signals import WorkerSignals
from pgqueue.worker.slots import Slots


def test_every_signal_of_a_running_worker_is_connected(app: App) -> None:
    async def unconnected() -> set[str]:
        core = WorkerCore.of(app, WorkerSettings(), Served(("default",), ()), Slots(1, ["default"], {}))
        running = RunningWorker(core, Children(app.tasks), lambda _: None, lambda _: None)
        signals, unset = running._signals, WorkerSignals()
        return {f.name for f in fields(WorkerSignals) if getattr(signals, f.name) == getattr(unset, f.name)}

    assert asyncio.run(unconnected()) == set()

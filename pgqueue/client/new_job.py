"""From a call and its options to the job that is inserted, and back to the job that a caller gets."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic_core import from_json

from pgqueue.client.app_parts import AppParts
from pgqueue.client.options import Options
from pgqueue.client.waiting import WaitHandle
from pgqueue.jobs.job import Job, JobState, NewJob
from pgqueue.queries.jobs.enqueue import AdmissionResult, InsertedJob
from pgqueue.tasks.spec import TaskSpec
from pgqueue.timing import seconds


def new_job(
    args: str,
    options: Options,
    spec: TaskSpec | None,
    name: str,
    home: AppParts,
    values: Mapping[str, Any] = {},
    at: int | None = None,
) -> NewJob:
    """Make the job of one call: options first, then the task's settings, then the app's.

    `values` are the arguments as Python has them, for rules that make keys of them; `at` says which of many it is.
    """
    queue = options.queue or (spec.queue if spec else home.queue)
    return NewJob(
        task=name,
        args=args,
        queue=queue,
        priority=options.priority if options.priority is not None else (spec.priority if spec else 0),
        max_attempts=options.max_attempts or (spec.max_attempts if spec else home.max_attempts),
        run_at=options.run_at,
        delay=None if options.delay is None else seconds(options.delay),
        tags=tuple(options.tags) if options.tags is not None else (spec.tags if spec else ()),
        history=home.retention.get(queue) is None and (spec is None or spec.retention is None),
        conditions=None
        if options.rules is None
        else options.rules.conditions(name, partial(_whole, spec, args), values, at),
        version=spec.version if spec else options.version or 1,
    )


def _whole(spec: TaskSpec | None, args: str) -> dict[str, Any]:
    whole: dict[str, Any] = spec.coder.complete_text(args) if spec else json.loads(args)
    return whole


def as_job(new: NewJob, row: InsertedJob, handle: WaitHandle | None = None) -> Job:
    """Return the job that was just inserted, as a reader would see it."""
    return Job(
        id=row.id,
        task=new.task,
        queue=new.queue,
        priority=new.priority,
        state=JobState.PENDING,
        phase="scheduled" if row.run_at > row.created_at else "pending",
        args=from_json(new.args),
        tags=new.tags,
        run_at=row.run_at,
        created_at=row.created_at,
        attempt=0,
        max_attempts=new.max_attempts,
        handle=handle,
    )


def as_existing(new: NewJob, met: AdmissionResult, found: Job | None, handle: WaitHandle) -> Job:
    """Return the job that was there already. Of one that is gone, or that this role may not read, what is known."""
    if found is not None:
        return replace(found, existing=True, handle=handle)
    known = as_job(new, met.inserted, handle)
    if met.readable:
        return replace(known, existing=True, state=JobState.SUCCEEDED, phase="pruned", reason="it has ended")
    return replace(known, existing=True, phase="unknown")

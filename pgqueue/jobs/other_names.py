"""Verbs of other job queues, each with the verb of pgqueue that its error names."""

from collections.abc import Callable, Mapping

from pgqueue.errors import UnknownVerb

ENQUEUE, USING, LATER = "enqueue(…)", "using(queue=…, priority=…).enqueue(…)", "using(delay=…).enqueue(…)"

OF_TASK = {
    "apply": "call it like the function, or testing.run of pgqueue.testing",
    "apply_async": USING,
    "apply_async_on_commit": "using(conn).enqueue(…), which commits or rolls back with the transaction of conn",
    "asend": "aenqueue(…)",
    "aio_delay": "aenqueue(…)",
    "configure": "using(…)",
    "defer": ENQUEUE,
    "defer_async": "aenqueue(…)",
    "delay": ENQUEUE,
    "delay_on_commit": "using(conn).enqueue(…), which commits or rolls back with the transaction of conn",
    "enqueue_at": "using(run_at=…).enqueue(…)",
    "enqueue_in": LATER,
    "kicker": "using(…)",
    "kiq": "aenqueue(…)",
    "message": "s(…), a signature",
    "message_with_options": "using(…).s(…), a signature",
    "perform_async": ENQUEUE,
    "perform_in": LATER,
    "retry": "raise pgqueue.Retry(delay=…) in the task; app.retry(job_id) from outside",
    "schedule": LATER,
    "send": ENQUEUE,
    "send_with_options": USING,
    "signature": "s(…)",
    "subtask": "s(…)",
}
OF_APP = {
    "AsyncResult": "get(job_id), or wait(job_id) for the result",
    "actor": "@app.task",
    "add_periodic_task": "@app.schedule, or schedules.create(…)",
    "autodiscover_tasks": "an import of the modules with tasks where the app is",
    "conf": "the arguments of App(…)",
    "control": "pause, cancel and workers",
    "cron": "@app.schedule",
    "defer": "enqueue(task, args)",
    "enqueue_at": "using(run_at=…).enqueue(task, args)",
    "enqueue_call": "enqueue(task, args)",
    "enqueue_in": "using(delay=…).enqueue(task, args)",
    "on_after_configure": "@app.schedule",
    "periodic": "@app.schedule",
    "periodic_task": "@app.schedule",
    "send_task": "enqueue(task, args)",
    "shared_task": "@app.task",
    "start": "the command `pgqueue work`",
    "worker_main": "the command `pgqueue work`",
}
OF_JOB = {
    "delete": "app.cancel(job.id)",
    "failed": "app.get(job.id).state",
    "get": "wait(timeout), or app.get(job.id) for the job as it is now",
    "get_result": "wait(timeout)",
    "get_status": "app.get(job.id).state",
    "is_failed": "app.get(job.id).state",
    "is_finished": "app.get(job.id).state",
    "latest_result": "wait(timeout)",
    "message_id": "id",
    "ready": "app.get(job.id).state",
    "refresh": "app.get(job.id)",
    "return_value": "wait(timeout)",
    "revoke": "app.cancel(job.id)",
    "status": "state",
    "successful": "app.get(job.id).state",
    "task_id": "id",
}
OF_QUEUES = {
    "enqueue": "task.using(queue=…).enqueue(…): a task has the verb",
    "enqueue_at": "task.using(queue=…, run_at=…).enqueue(…): a task has the verb",
    "enqueue_call": "task.using(queue=…).enqueue(…): a task has the verb",
    "enqueue_in": "task.using(queue=…, delay=…).enqueue(…): a task has the verb",
    "enqueue_many": "task.using(queue=…).enqueue_many([…]): a task has the verb",
    "purge": "app.jobs.cancel(JobFilter(queue=…))",
}
OF_CANVAS = {
    "apply": "enqueue()",
    "apply_async": "enqueue(); options go to its signatures, as in task.using(…).s(…)",
    "clone": "the signature itself: it is a value",
    "delay": "enqueue()",
    "link": "on_success(…)",
    "link_error": "on_error(…)",
    "run": "enqueue()",
    "set": "using(…)",
}
OF_CONTEXT = {
    "meta": "progress(done, total, note)",
    "request": "the context itself: ctx.job_id, ctx.attempt, ctx.headers",
    "retry": "raise pgqueue.Retry(delay=…)",
    "update_state": "progress(done, total, note)",
}


def tells_of(names: Mapping[str, str], owner: str) -> Callable[[object, str], object]:
    """Make the `__getattr__` of a class, which Python calls for names that it has not got, and where a property of it
    has raised an AttributeError: that one is raised again.

    It raises UnknownVerb for one of `names`, with what there is instead, and AttributeError for all others. A class has
    it at run time alone: type checkers would believe that every name exists.
    """

    def __getattr__(self: object, name: str) -> object:  # noqa: N807
        kind = type(self).__name__
        if hasattr(type(self), name):  # a property; Python has dropped its error, so it is read once more
            return object.__getattribute__(self, name)
        if name in names:
            raise UnknownVerb(owner, name, names[name])
        raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=self)

    return __getattr__

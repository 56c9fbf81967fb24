"""The verbs on what jobs wait for: a signal to one job, an event for all, and a job that runs again from a step."""

from typing import Any, Protocol

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.changes import found_job, retry_job
from pgqueue.client.steps import StepRunner, Steps, all_or_nothing, verb
from pgqueue.client.waiting import possible_id
from pgqueue.errors import InvalidOption, UnknownJob, WrongState
from pgqueue.jobs.job import Job, JobState
from pgqueue.tasks.journal import check_key, check_name
from pgqueue.tasks.storable import encode_result


class HasParts(Protocol):
    """An app, or a client of one."""

    @property
    def _app(self) -> AppParts: ...
    @property
    def _runner(self) -> StepRunner: ...


class SignalVerbs:
    """The verbs on what jobs wait for, in the caller's transaction where a connection is borrowed."""

    @verb
    def signal(self: HasParts, job_id: int, name: str, data: Any = True) -> Steps[int]:
        """Send a signal to a job, for its `ctx.wait_signal(name)`, now or later; return the signal's id.

        It is sent if and only if the transaction commits, and each is taken once, in order. It locks nothing. Raises
        WrongState for a job that has ended, UnknownJob for one that never was or whose role may not see it, InvalidStep
        for a name that cannot be used, InvalidOption for data that is no JSON, or None, which a wait returns after its
        timeout.
        """
        text = _data(f"signal {check_name(name, 'signal')}", data)
        sent: int | None
        sent, readable = yield self._app.queries.signals.send(possible_id(job_id), name, text)
        if sent is None:
            found: Job | None = (yield self._app.queries.jobs.get(job_id)) if readable else None
            if found is not None and found.state.is_terminal:
                raise WrongState(job_id, found.phase, f"is {found.phase}: a signal is for a job that waits or runs")
            raise UnknownJob(f"no job {job_id} is waiting or running: it has ended, or was never committed")
        return sent

    asignal = signal.twin

    @verb
    def signal_event(self: HasParts, name: str, *, key: object, data: Any = True) -> Steps[int]:
        """Tell all jobs that wait for an event of this name and key by `ctx.wait_event`, now or within a week; return
        its id.

        Each of them gets it once, if the transaction commits. It reaches no subscriber and is no published event:
        `publish` is both, and wakes these jobs as well. Raises InvalidStep for a name or key that cannot be used,
        InvalidOption for data that is no JSON, or None, which a wait returns after its timeout.
        """
        text = _data(f"event {check_name(name, 'event')}", data)
        sent: int = yield self._app.queries.signals.send_event(name, check_key(key), text)
        return sent

    asignal_event = signal_event.twin

    @verb
    @all_or_nothing
    def rerun(self: HasParts, job_id: int, *, from_step: str | None = None, by: str | None = None) -> Steps[Job]:
        """Let a dead letter or a cancelled job run again from one of its steps, or from the beginning.

        That step and those that were recorded after it are forgotten, and run again; earlier ones are not. To go on
        behind the last recorded step, redrive the job. Raises WrongState for a job that lives or has succeeded,
        InvalidOption for a step that is not recorded, UnknownJob.
        """
        job = yield from found_job(self._app, possible_id(job_id))
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            raise WrongState(job_id, job.phase, f"is {job.phase}: only a dead letter or a cancelled job is run again")
        forgotten: int = yield self._app.queries.steps.forget(job_id, from_step)
        if from_step is not None and not forgotten:
            raise InvalidOption(f"job {job_id} has no step {from_step!r:.100}: see its steps in pgqueue.step_status")
        return (yield from retry_job(self._app, job_id, who(by)))

    arerun = rerun.twin


def _data(what: str, data: Any) -> str:
    text, error = encode_result(data)
    if error is not None:
        raise InvalidOption(f"{what} cannot be sent with this data: {error.message}")
    if text is None or text == "null":
        raise InvalidOption(f"{what} cannot be sent with None, which a wait returns after its timeout: leave it out")
    return text

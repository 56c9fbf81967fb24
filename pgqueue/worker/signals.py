"""How one part of a running worker lets another part know that something has happened."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pgqueue.errors import PgqueueError
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.queries.turns.full import FullLane


def ignore(*_: object) -> None:
    """Do nothing: the signal is not connected."""


@dataclass(slots=True, eq=False)
class WorkerSignals:
    """One attribute for each thing that happens in one part and concerns another: the method of the part that acts.

    `RunningWorker` connects all of them once, when every part exists. A signal is called, without a frame in between.
    A part on its own, as in a test, has signals that do nothing.
    """

    # Jobs
    jobs_claimed: Callable[[Sequence[ClaimedJob]], None] = ignore
    jobs_ready: Callable[[Sequence[ClaimedJob]], None] = ignore  # claimed, and their inputs are read
    slot_freed: Callable[[], None] = ignore  # or jobs that waited for one were released
    cancellations_found: Callable[[Collection[int]], None] = ignore  # of these jobs of this worker
    jobs_moved: Callable[[Collection[int]], None] = ignore  # out of `running`; committed
    job_put_back: Callable[[ClaimedJob, float], None] = ignore  # it is due in so many seconds
    outcomes_written: Callable[[], None] = ignore  # a batch of them: fewer wait now
    attempts_ended: Callable[[Sequence[tuple[ClaimedJob, Resolution]]], None] = ignore  # and it is in the database
    turn_over: Callable[[ClaimedJob], None] = ignore  # a metered job has left its slot
    turns_ended: Callable[[Sequence[ClaimedJob]], None] = ignore  # and the ends of these are written
    metered_found: Callable[[Sequence[FullLane]], None] = ignore  # and these lanes, where a rule says what to do
    jobs_rescued: Callable[[], None] = ignore
    workflow_moved: Callable[[], None] = ignore  # jobs are doomed, or workflows are to be settled or stopped
    jobs_woken: Callable[[], None] = ignore  # by signals and events, and due now
    jobs_brought_back: Callable[[], None] = ignore  # of a task that was paused, to their old places
    job_moved_unrun: Callable[[str, str, str], None] = ignore  # task, queue and verb
    write_was_stale: Callable[[], None] = ignore  # the lease of a job was lost
    claim_took: Callable[[float], None] = ignore  # so many seconds
    resolve_took: Callable[[float], None] = ignore
    held_jobs: Callable[[], list[int]] = list  # the one question: which jobs does this worker have?

    # The worker itself
    heartbeat_overdue: Callable[[], None] = ignore
    heartbeat_recovered: Callable[[], None] = ignore
    cannot_run_jobs: Callable[[PgqueueError], None] = ignore  # child processes cannot be had any more

    # Notifications from the database, which are hints
    listening: Callable[[], None] = ignore  # earlier notifications were missed
    job_committed: Callable[[], None] = ignore  # in a queue that this worker serves
    queue_appeared: Callable[[], None] = ignore  # which matches a pattern of this worker, and is not served yet
    cancellation_requested: Callable[[], None] = ignore  # of a job of any worker
    signal_sent: Callable[[], None] = ignore  # or an event, to jobs that may wait for it
    worker_died: Callable[[], None] = ignore
    pause_changed: Callable[[], None] = ignore  # of some task or limit
    job_awaited: Callable[[], None] = ignore
    request_made: Callable[[], None] = ignore  # of this worker, says the notification; its row decides

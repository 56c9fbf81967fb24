"""The states of a task in Celery's words, and the state of a job that each stands for."""

from pgqueue.jobs.job import Job, JobState

PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
RETRY = "RETRY"
IGNORED = "IGNORED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

_ENDED = {JobState.SUCCEEDED: SUCCESS, JobState.FAILED: FAILURE, JobState.CANCELLED: REVOKED}


def state_of(job: Job) -> str:
    """Return the state of a job in Celery's words. One that waits for its next attempt is RETRY."""
    if job.state in _ENDED:
        return _ENDED[job.state]
    if job.state == JobState.RUNNING:
        return STARTED
    return RETRY if job.attempt > 0 else PENDING

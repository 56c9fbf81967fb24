"""The duty that listens for NOTIFY: a hint that makes claiming and cancelling fast. All of it is polled for, too."""

from pgqueue.db.link import DEADLINE, Link
from pgqueue.process.debounce import Debounced
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.queries.jobs.cancel import CANCEL_PAYLOAD
from pgqueue.queries.jobs.ties import WORKFLOW_PAYLOAD
from pgqueue.queries.pauses import PAUSE_PAYLOAD
from pgqueue.queries.signals import SIGNAL_PAYLOAD
from pgqueue.queries.waits import WAIT_PAYLOAD
from pgqueue.queries.workers import REQUEST_PAYLOAD, RESCUE_PAYLOAD
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

PING_SECONDS = 30.0
SIGNAL_GAP = 0.005  # seconds: a job waits for this one, and a delivery in progress makes one of all that come meanwhile


class Hearing:
    """Signals that a job was committed in a queue of this worker, that a job is to be cancelled, that a worker died,
    that a caller waits for a job, that a task was paused or resumed, that something was sent to jobs that may wait for
    it, that a cancel has doomed jobs, and that an operator asks something of this worker.

    Any role of the database may send notifications. The signal of a job is not debounced, because a pause would delay
    jobs: a claim in progress makes one of all that come meanwhile.
    """

    def __init__(self, core: WorkerCore, signals: WorkerSignals) -> None:
        self._identity = core.identity
        self._slots = core.slots
        self._patterns = core.served.patterns
        self._signals = signals
        self._by_payload: dict[str, Debounced] = {}

    def listening(self) -> None:
        """Note that from now on notifications come; earlier ones were missed."""
        signals = self._signals
        self._by_payload = {
            CANCEL_PAYLOAD: Debounced(signals.cancellation_requested),
            RESCUE_PAYLOAD: Debounced(signals.worker_died),
            PAUSE_PAYLOAD: Debounced(signals.pause_changed),
            WAIT_PAYLOAD: Debounced(signals.job_awaited),
            SIGNAL_PAYLOAD: Debounced(signals.signal_sent, SIGNAL_GAP),
            WORKFLOW_PAYLOAD: Debounced(signals.workflow_moved),
        }
        self._queue_appeared, self._request_made = Debounced(signals.queue_appeared), Debounced(signals.request_made)
        signals.listening()

    def hear(self, payload: str) -> None:
        """Signal what a notification says."""
        if payload in self._slots.queues:
            self._signals.job_committed()
        elif (signal := self._by_payload.get(payload)) is not None:
            signal()
        elif payload == f"{REQUEST_PAYLOAD}{self._identity.id}":
            self._request_made()
        elif self._patterns.match(payload) is not None:
            self._queue_appeared()


class Listener(Duty):
    """Listens on the schema's channel, on a connection of its own."""

    name = "listen"
    interruptible = True

    def __init__(self, link: Link, queries: Queries, hearing: Hearing) -> None:
        super().__init__(link)
        self._queries = queries
        self._hearing = hearing

    async def step(self) -> float:
        """Listen for a while. Each step sends LISTEN again, which shows whether the connection still works."""
        async with self.link.connection(PING_SECONDS + DEADLINE) as conn:
            await conn.execute(self._queries.workers.listen().sql)
            self._hearing.listening()
            async for notification in conn.notifies(timeout=PING_SECONDS):
                self._hearing.hear(notification.payload)
        return 0.0

"""From where on a number is a finding."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a number is a finding. Durations are seconds, sizes are bytes, shares are of 1."""

    check_seconds: float = 2.0  # that a statement of a check may take
    days_ahead: int = 3  # for which each history has a partition
    transaction_seconds: float = 600  # that a transaction may keep dead rows
    kept_xids: int = 500_000  # transactions whose dead rows a slot or a standby may keep
    dead_rows: int = 100_000  # of a table that was not vacuumed for `vacuum_seconds`
    most_dead_rows: int = 1_000_000  # of a table, however lately it was vacuumed
    dead_share: float = 0.2  # of a table's rows, so that dead rows are a finding at all
    vacuum_seconds: float = 300
    index_bytes: int = 64 * 1024 * 1024  # of an index, so that bloat is a finding at all
    index_bloat: float = 4.0  # times what the index would be if it were built now
    notify_usage: float = 0.25  # of the queue of notifications; pgqueue stops notifying at a half
    clock_seconds: float = 5.0  # between the clocks of this machine and the server
    connections: float = 0.85  # of those that the server, or the role, may have
    xids: float = 3.0  # times the age at which autovacuum freezes
    sequence: float = 0.5  # of a sequence's numbers
    waiting_seconds: float = 60  # that a due job waits for a worker that serves its queue
    mixed_seconds: float = 3600  # that workers of two releases work beside each other
    duty_seconds: float = 7200  # since a duty has worked; the longest pause between two steps is an hour
    prune_seconds: float = 172_800  # since a day should have been emptied
    late_seconds: float = 60  # of a schedule's tick
    open_seconds: float = 86_400  # that a workflow lives which is not sealed, while none of its members does
    wait_seconds: float = 604_800  # that a job waits for a signal without a timeout
    dead_letters: int = 10_000
    dead_letters_an_hour: int = 100

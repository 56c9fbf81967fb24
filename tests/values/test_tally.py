"""What a worker counts in memory: attempts by outcome, and how long they waited and ran."""

import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, TRANSITIONS, Resolution
from pgqueue.jobs.tally import OUTCOMES, SMALL, Tally, array_of, bucket_of, middle_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = Resolution("retry", "error", 1.0)


def ended(task: str = "t", waited: float = 0.5, ran: float = 0.25, began: float = 100.0) -> ClaimedJob:
    return ClaimedJob(
        1, task, "q", 0, "{}", None, None, NOW, NOW, 1, 3, 1, waited, None, None, uuid.UUID(int=1),
        due=began - waited, began=began, ended=began + ran,
    )  # fmt: skip


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_a_duration_lies_within_its_bucket(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert 2 ** ((bucket - 1) / 2) * 0.999 <= seconds * 1e6 <= 2 ** (bucket / 2) * 1.001
    assert 0.84 < seconds / middle_of(bucket) < 1.19


def test_less_than_a_microsecond_is_the_first_bucket() -> None:
    assert [bucket_of(seconds) for seconds in (0.0, 1e-9, 9e-7)] == [0, 0, 0]


def test_counts_become_an_array_of_the_used_buckets() -> None:
    assert array_of([0, 0, 3, 0, 1, 0]) == "[2:4]={3,0,1}"
    assert array_of([0, 0]) == "{}"


def test_attempts_are_counted_by_task_queue_and_verb() -> None:
    tally = Tally()
    tally.add(
        [(ended(), PLAIN_SUCCESS), (ended(ran=1.0), RETRY), (ended("u"), PLAIN_SUCCESS), (ended(), PLAIN_SUCCESS)]
    )
    counts = dict(tally.take())
    assert {key: count.jobs for key, count in counts.items()} == {
        ("t", "q", "succeed"): 2, ("t", "q", "retry"): 1, ("u", "q", "succeed"): 1,
    }  # fmt: skip
    assert (counts["t", "q", "succeed"].run_seconds, counts["t", "q", "succeed"].wait_seconds) == (0.5, 1.0)
    assert counts["t", "q", "succeed"].run_counts[bucket_of(0.25)] == 2
    assert counts["t", "q", "retry"].wait_counts[bucket_of(0.5)] == 1
    assert not tally


def test_a_job_that_never_began_has_no_duration() -> None:
    tally = Tally()
    job = ended()
    job.began = 0.0
    tally.add([(job, Resolution("release", "released", refund=True))])
    tally.add_unrun("t", "q", "expire")
    assert [(key[2], count.jobs, sum(count.run_counts)) for key, count in tally.take()] == [
        ("release", 1, 0), ("expire", 1, 0),
    ]  # fmt: skip


def test_of_many_at_once_one_stands_for_several_and_nothing_is_lost_from_counts_and_sums() -> None:
    tally = Tally()
    for _ in range(10):
        tally.add([(ended(ran=0.001 if n % 2 else 1.0), PLAIN_SUCCESS) for n in range(4 * SMALL)])
    ((_, count),) = tally.take()
    assert count.jobs == 40 * SMALL == sum(count.run_counts) == sum(count.wait_counts)
    assert round(count.run_seconds, 6) == round(20 * SMALL * 1.001, 6)
    assert count.run_counts[bucket_of(1.0)] == count.run_counts[bucket_of(0.001)] == 20 * SMALL


def test_counts_that_were_put_back_come_with_the_next() -> None:
    tally = Tally()
    tally.add([(ended(), PLAIN_SUCCESS)])
    taken = tally.take()
    tally.add([(ended(), PLAIN_SUCCESS), (ended(), RETRY)])
    tally.merge(taken)
    counts = dict(tally.take())
    assert counts["t", "q", "succeed"].jobs == counts["t", "q", "succeed"].run_counts[bucket_of(0.25)] == 2
    assert counts["t", "q", "retry"].jobs == 1


def test_each_verb_of_an_attempt_has_an_outcome() -> None:
    asked_for = {"redrive", "discard", "restore"}
    moved_aside = {"set_aside", "bring_back", "ready"}  # no end
    by_rule = {"skip"}  # no person asks for it: a bucket is full, or an edge cannot be met
    assert set(OUTCOMES) == TRANSITIONS.keys() - {"enqueue", "claim", "adopt"} - asked_for - moved_aside | by_rule

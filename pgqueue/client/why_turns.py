"""Why a metered job waits for its turn, said in sentences."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from pgqueue.jobs.job import Job
from pgqueue.jobs.why import Reason
from pgqueue.queries.why_turns import MOST_BEFORE, MOST_HOLDERS, BucketState, TurnPlace
from pgqueue.timing import in_words


def of_buckets(buckets: Sequence[BucketState], place: TurnPlace | None) -> Iterator[Reason]:
    """Yield what the buckets of a job hold it back for. `place`: None for a job that is not due yet."""
    for bucket in buckets:
        yield from _of_pause(bucket, "rule")
        yield from _of_pause(bucket, "key")
        if bucket.closed_until is not None:
            yield _closed(bucket)
        if place is not None:
            yield from _of_room(bucket)
            yield from _of_rate(bucket, place)


def of_place(job: Job, place: TurnPlace) -> Iterator[Reason]:
    """Yield where a job that is due stands in its lane."""
    flow, before = job.flow, place.before
    if flow is not None and flow.in_order and place.head not in (None, job.id):
        what = "is due, and goes first"
        if place.head_due_in is not None and place.head_due_in > 0:
            again = f" for its attempt {(place.head_attempt or 0) + 1}" if place.head_attempt else ""
            what = f"is due in {in_words(place.head_due_in)}{again}, and keeps its place"
        facts = {"order": flow.order, "head": place.head, "head_due_in_seconds": place.head_due_in, "before": before}
        yield Reason("order", f"It runs in the order of {flow.order}: job {place.head} {what}.", facts)
    if before:
        capped = before > MOST_BEFORE
        many = f"more than {MOST_BEFORE:,}" if capped else f"{before:,}"
        text = f"{many} due jobs with the same rules and keys go before it."
        if before == 1:
            text = "1 due job with the same rules and keys goes before it."
        yield Reason("ahead", text, {"ahead": min(before, MOST_BEFORE), "at_least": capped})


def _of_pause(bucket: BucketState, kind: str) -> Iterator[Reason]:
    """Yield that the rule of a bucket, or its key, is paused."""
    if kind == "rule":
        name, at, until = bucket.rule, bucket.rule_paused_at, bucket.rule_paused_until
        by, why = bucket.rule_paused_by, bucket.rule_paused_why
    else:
        name, at, until = bucket.name, bucket.key_paused_at, bucket.key_paused_until
        by, why = bucket.key_paused_by, bucket.key_paused_why
    if at is None:
        return
    end = "" if until is None else f" until {_time(until)}"
    actor, words = "" if by is None else f" by {by}", "" if why is None else f": {why}"
    facts = {kind: name, "bucket": bucket.name, "paused_at": at, "paused_by": by, "paused_until": until,
             "paused_why": why}  # fmt: skip
    yield Reason("paused", f"{kind.capitalize()} {name} is paused{actor} since {_time(at)}{end}{words}.", facts)


def _closed(bucket: BucketState) -> Reason:
    cause = "its breaker has opened" if bucket.opened else "one of its jobs was told to wait (RateLimited)"
    facts = {"bucket": bucket.name, "closed_until": bucket.closed_until, "by_breaker": bucket.opened}
    return Reason("closed", f"{bucket.name} is closed until {_time(bucket.closed_until)}: {cause}.", facts)


def _of_room(bucket: BucketState) -> Iterator[Reason]:
    """Yield that as many jobs run as may."""
    facts = {"bucket": bucket.name, "running": bucket.running, "most": bucket.most, "jobs": sorted(bucket.holders)}
    if bucket.most is not None and bucket.running >= bucket.most:
        text = f"{bucket.name} is full: {bucket.running} of {bucket.most} run{_holders(bucket)}."
        if bucket.most == 0:
            text = f"The limit of {bucket.name} is 0: none of its jobs may run."
        yield Reason("full", text, facts)
    elif bucket.opened and bucket.closed_until is None and bucket.running:
        text = f"The breaker of {bucket.name} lets one job run until one has ended well{_holders(bucket)}."
        yield Reason("probed", text, facts)


def _of_rate(bucket: BucketState, place: TurnPlace) -> Iterator[Reason]:
    """Yield when the rate admits the next start, and this one at the earliest."""
    admits = f"{bucket.rate_count} starts in {bucket.rate_seconds or 0:g} s"
    facts = {"bucket": bucket.name, "rate_count": bucket.rate_count, "rate_seconds": bucket.rate_seconds}
    if bucket.paced:
        text = f"Rule {bucket.rule} admits {admits} in each worker, which keeps count for itself."
        yield Reason("pace", text, facts)
    elif bucket.next_start_in and bucket.step:
        earliest = bucket.next_start_in + place.before * bucket.step
        facts |= {"next_start_in_seconds": bucket.next_start_in, "starts_in_seconds": earliest}
        text = f"{bucket.name} admits {admits}: the next one in {in_words(bucket.next_start_in)}"
        yield Reason("rate", text + (f", this job in {in_words(earliest)} at the earliest." if place.before else "."),
                     facts)  # fmt: skip


def _holders(bucket: BucketState) -> str:
    """Return which jobs hold a bucket, a few of them."""
    if not bucket.holders:
        return ""
    more = ", …" if bucket.running > len(bucket.holders) and len(bucket.holders) == MOST_HOLDERS else ""
    noun = "job" if len(bucket.holders) == 1 else "jobs"
    return f" ({noun} {', '.join(map(str, sorted(bucket.holders)))}{more})"


def _time(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else moment.astimezone(UTC).isoformat(" ", "seconds")

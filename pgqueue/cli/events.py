"""`pgqueue events …` and `pgqueue subscriptions …`."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.filters import By
from pgqueue.client.moments import read_moment
from pgqueue.errors import InvalidEvent, NotAllowed
from pgqueue.jobs.event import Replayed
from pgqueue.queries.published.read import COUNTED, StoredEvent
from pgqueue.queries.published.subscribe import Subscription

events_cli = typer.Typer(help="Published events: see, publish, replay.", no_args_is_help=True)
subscriptions_cli = typer.Typer(help="The tasks that get events: see, disable, enable.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The task that gets the events.")]
Since = Annotated[
    str | None, typer.Option(help="Only events published since: 90s, 30m, 2h, 7d ago, or a time with its zone.")
]
LONGEST = 60  # characters of data in a table


def print_events(events: Sequence[StoredEvent]) -> None:
    """Print events as a table."""
    rows = [(one.id, one.at, one.topic, one.key or "", one.subscribers, _short(one.data)) for one in events]
    output.print_table(
        "events", ("id", "at", "topic", "key", "subscribers", "data"), rows, spare=("data", "subscribers")
    )


def print_subscriptions(subscriptions: Sequence[Subscription]) -> None:
    """Print subscriptions as a table."""
    rows = [
        (one.task, ", ".join(one.patterns), one.queue, one.app, one.declared_at, _state(one)) for one in subscriptions
    ]
    output.print_table(
        "subscriptions", ("task", "patterns", "queue", "app", "declared", "state"), rows, spare=("declared", "app")
    )


def _short(data: object) -> str:
    text = output.cell(data)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _state(subscription: Subscription) -> str:
    if subscription.disabled_at is None:
        return "gets events"
    by = subscription.disabled_by
    return f"disabled by {by}" if by else "disabled: the code declares it no longer"


@command(events_cli, "list", print_events)
def list_events(
    call: Call,
    pattern: Annotated[str, typer.Argument(help="Only topics that fit: 'order.*', 'order.#'.")] = "#",
    key: Annotated[str | None, typer.Option(help="Only events with this key.")] = None,
    since: Since = None,
    before: Annotated[int | None, typer.Option(help="Only ids below this one, the last of the page before.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", help="At most so many.")] = 20,
) -> Sequence[StoredEvent]:
    """List the newest events, and how many tasks got each. It looks at 10,000 at most, however few of them fit."""
    start = read_moment("--since", since)
    return call.app.events.list(pattern, key=key, since=start, before=before, limit=limit)


def _print_event(event: StoredEvent) -> None:
    output.print_facts(f"event {event.id}", output.fields_of(event))


@command(events_cli, "show", _print_event)
def show_event(call: Call, event: Annotated[int, typer.Argument(help="The id of the event.")]) -> StoredEvent:
    """Show an event with its data, and the tasks that got it."""
    return call.app.events.get(event)


def _read_data(topic: str, text: str) -> dict[str, Any]:
    """Read the data of an event, a JSON object. Raises InvalidEvent."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidEvent(topic, [f'data {text!r:.100} is no JSON object: name the values, as in {{"order_id": 1}}'])
    return value


@dataclass(frozen=True, slots=True)
class Told:
    """An event that was published: the jobs of its subscribers, and how many jobs waited for it; None if this role may
    not look for those."""

    id: int
    topic: str
    at: datetime
    jobs: tuple[int, ...]
    waiting: int | None


def _say_published(told: Told) -> None:
    who = [f"{output.count(len(told.jobs), 'subscriber')} {'gets' if len(told.jobs) == 1 else 'get'} it"]
    if told.waiting is not None:
        more = "+" if told.waiting == COUNTED else ""
        who.append(f"{told.waiting}{more} {'job waits' if told.waiting == 1 else 'jobs wait'} for it")
    output.say(f"event {told.id} is published; {', '.join(who)}")


@command(events_cli, "publish", _say_published)
def publish_event(
    call: Call,
    topic: Annotated[str, typer.Argument(help="The topic, such as order.paid.")],
    data: Annotated[str, typer.Argument(help="The data, as a JSON object.")] = "{}",
    key: Annotated[
        str | None, typer.Option(help="What it is about, such as the id of an order. Default: no key.")
    ] = None,
) -> Told:
    """Publish an event: its subscribers get it, and with a key the jobs that wait for it."""
    given = _read_data(topic, data)
    waiting = None
    with suppress(NotAllowed):  # a producer may publish, and sees no job
        waiting = call.app.events.awaiting(topic, key)  # before: one that goes on waits no longer
    published = call.app.publish(topic, given, key=key)
    return Told(published.id, published.topic, published.at, published.jobs, waiting)


def _say_replayed(replayed: Replayed) -> None:
    output.say(f"{output.count(replayed.jobs, 'job')} {'is' if replayed.jobs == 1 else 'are'} made")
    if replayed.open:
        output.say(
            f"{replayed.open} transactions that have published are still open: replay again when they have ended"
        )


@command(events_cli, "replay", _say_replayed)
def replay(
    call: Call,
    task: Name,
    since: Since = None,
    to: Annotated[
        str | None, typer.Option(help="Only events published before: an age, or a time with its zone.")
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for transactions that are still open.")] = 30.0,
) -> Replayed:
    """Make jobs of kept events for one task, of those that it has not got yet, once each."""
    start, end = read_moment("--since", since), read_moment("--to", to)
    return call.app.events.replay(task, since=start, to=end, patience=patience)


@command(subscriptions_cli, "list", print_subscriptions)
def list_subscriptions(call: Call) -> Sequence[Subscription]:
    """List the tasks that get events."""
    return call.app.events.subscriptions()


def _say_subscription(subscription: Subscription) -> None:
    print_subscriptions([subscription])


@command(subscriptions_cli, "disable", _say_subscription)
def disable(call: Call, task: Name, by: By = None) -> Subscription:
    """Let a task get no more events. Events of the time between can be replayed."""
    return call.app.events.disable(task, by=by)


@command(subscriptions_cli, "enable", _say_subscription)
def enable(call: Call, task: Name) -> Subscription:
    """Let a task get events again."""
    return call.app.events.enable(task)

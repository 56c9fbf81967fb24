"""Statements about published events: publishing and replaying them, the subscriptions of tasks, and reading both."""

from pgqueue.queries.published.publish import PublishQueries
from pgqueue.queries.published.read import EventReadQueries
from pgqueue.queries.published.subscribe import SubscriptionQueries


class EventQueries(PublishQueries, EventReadQueries, SubscriptionQueries):
    """Published events and subscriptions."""

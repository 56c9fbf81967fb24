"""Completing the topics of events for which a job waits for the first time ever."""

from pgqueue.db.link import Link
from pgqueue.queries import Queries


class AwaitedTopics:
    """Lets jobs that wait for a topic find the events that were published before anybody waited for it.

    Who publishes such an event tells those who wait, once the topic is written down. A transaction that has published
    before may still be open; each holds a lock on the table, which everybody sees. When all have ended that were open
    when this worker first saw the topic, what they have published is copied. A topic needs that once.
    """

    def __init__(self, link: Link, queries: Queries) -> None:
        self._link = link
        self._queries = queries
        self._open: dict[str, set[str]] = {}  # by topic: transactions that may have published without knowing of it

    async def step(self) -> bool:
        """Complete the topics that can be; return whether any was."""
        names = await self._link.run(self._queries.signals.incomplete_topics())
        publishers = await self._link.run(self._queries.events.publishers())
        self._open = {name: self._open.get(name, publishers) & publishers for name in names}
        ripe = [name for name, transactions in self._open.items() if not transactions]
        return bool(ripe) and await self._link.run(self._queries.signals.complete_topics(ripe)) > 0

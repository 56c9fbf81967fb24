"""Releases of an app: which of them run schedulers, and which schedules they declare."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from pgqueue.queries.base import Query, Statements, first_value, nothing

# Register that a scheduler of this release lives, and what it declares. The release keeps the moment at which it first
# appeared as long as one of its schedulers was seen lately. So a scheduler that is started again does not make the
# release a newer one, nor does one that was frozen and whose row was deleted as that of a dead one.
REGISTER_RELEASE: LiteralString = """
with dead as (
    delete from {s}.schedule_release where seen_at < clock_timestamp() - make_interval(secs => %(silence)s)
    and id <> %(id)s
)
insert into {s}.schedule_release as r (id, app, release, names, since)
values (%(id)s, %(app)s, %(release)s, %(names)s::text[], coalesce(%(since)s,
    (select min(o.since) from {s}.schedule_release o where o.app = %(app)s and o.release = %(release)s
     and o.seen_at >= clock_timestamp() - make_interval(secs => %(silence)s)), clock_timestamp()))
on conflict (id) do update set seen_at = clock_timestamp() returning r.since"""

# Tell whether a release is the newest of its app whose schedulers live: then its declarations count.
IS_NEWEST_RELEASE: LiteralString = """
select not exists (
    select from {s}.schedule_release o, {s}.schedule_release mine
    where mine.id = %(id)s and o.app = mine.app and o.release <> mine.release
    and (o.since, o.release) > (mine.since, mine.release)
    and o.seen_at >= clock_timestamp() - make_interval(secs => %(silence)s))"""

# Disable the schedules that no living release of the app declares any more. They stay as rows, and are shown. One that
# another transaction has locked is left for the next time.
DISABLE_DROPPED: LiteralString = """
update {s}.schedule s set disabled_at = clock_timestamp(), updated_at = now()
where s.name in (
    select d.name from {s}.schedule d where d.app = %(app)s and d.disabled_at is null
    and not exists (select from {s}.schedule_release r where r.app = d.app and d.name = any(r.names)
                    and r.seen_at >= clock_timestamp() - make_interval(secs => %(silence)s))
    for update skip locked)
returning s.name"""

# Count the schedules of an app that are neither disabled nor made at run time. A table of schedules is small.
COUNT_DECLARED: LiteralString = """
select count(*) from {s}.schedule where app = %(app)s and disabled_at is null and declared is not null"""

# Delete the row of a scheduler that has stopped. By primary key.
UNREGISTER_RELEASE: LiteralString = "delete from {s}.schedule_release where id = %(id)s"

SILENCE = 30.0  # seconds after which a scheduler that was not seen counts as dead


class ReleaseQueries(Statements):
    """Releases of an app and their schedulers."""

    def register_release(
        self, scheduler: UUID, app: str, release: str, names: Sequence[str], since: datetime | None = None
    ) -> Query[datetime]:
        """Register that a scheduler of a release lives, and what it declares.

        Returns since when the release exists, which the caller gives the next time.
        """
        params = {"id": scheduler, "app": app, "release": release, "names": list(names), "since": since}
        return Query(self._sql(REGISTER_RELEASE), first_value, params | {"silence": SILENCE})

    def is_newest_release(self, scheduler: UUID) -> Query[bool]:
        """Tell whether no newer release of the app has living schedulers."""
        return Query(self._sql(IS_NEWEST_RELEASE), first_value, {"id": scheduler, "silence": SILENCE})

    def disable_dropped(self, app: str) -> Query[list[str]]:
        """Disable the schedules of an app that none of its living releases declares; returns their names."""
        params = {"app": app, "silence": SILENCE}
        return Query(self._sql(DISABLE_DROPPED), lambda rows: [row[0] for row in rows], params)

    def count_declared(self, app: str) -> Query[int]:
        """Count the schedules that releases of an app have declared and that are not disabled."""
        return Query(self._sql(COUNT_DECLARED), first_value, {"app": app})

    def unregister_release(self, scheduler: UUID) -> Query[None]:
        """Delete the row of a scheduler that has stopped."""
        return Query(self._sql(UNREGISTER_RELEASE), nothing, {"id": scheduler})

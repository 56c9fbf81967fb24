"""The one compiler of filters: a list, a preview and an operation mean the same jobs by the same filter."""

import json
import re
from typing import Any, LiteralString

from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job_filter import Filter, JobFilter
from pgqueue.queries.base import fill
from pgqueue.queries.phase import ASLEEP_AS

# Whether a job `j` fits what every filter has. `{moment}` is the time that `since` and `until` are about.
_FITS: LiteralString = r"""(%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or {moment} >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or {moment} < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)"""

# A job of the view, or of any table of jobs: by when it was enqueued.
JOB_FITS: LiteralString = fill(_FITS, moment="j.created_at::timestamptz")

# A job of job_live. A phase is part of the state pending, as in the view of jobs, and of blocked for those that wait
# for their turn. The steps of a job are looked at only where they decide.
LIVE_FITS: LiteralString = fill(
    """{fits}
    and (%(state)s::text is null or j.state = %(state)s::text
         or (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and case %(state)s::text
             when 'scheduled' then j.attempt = 0 and j.run_at::timestamptz > now()
                 and case when j.lease > 0 then {asleep_as} is null else true end
             when 'sleeping' then j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
                 and coalesce({asleep_as} = 'sleeping', false)
             when 'waiting' then j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
                 and coalesce({asleep_as} = 'waiting', false)
             when 'retrying' then j.attempt > 0 end)""",
    fits=JOB_FITS,
    asleep_as=ASLEEP_AS,
)

# The group of a dead letter, as in the view `dead_group`: its fingerprint, where it has one. Killed workers say nothing
# about a cause, so their jobs are grouped by task. `{dead}` is the row.
DEAD_GROUP: LiteralString = """coalesce({dead}.fingerprint,
        case when {dead}.reason = 'crashed' then 'crashed '::text || {dead}.task::text
        else 'class '::text || coalesce({dead}.error ->> 'type'::text, {dead}.reason) end)"""

# A dead letter: by when it failed.
DEAD_FITS: LiteralString = fill(
    r"""{fits}
    and (%(error)s::text is null or j.error ->> 'type'::text = %(error)s::text
         or substring(j.error ->> 'type'::text, '[^.]*$'::text) = %(error)s::text)
    and (%(group)s::text is null or {group} = %(group)s::text)""",
    group=fill(DEAD_GROUP, dead="j"),
    fits=fill(_FITS, moment="j.failed_at"),
)


def parameters(chosen: Filter) -> dict[str, Any]:
    """Return the parameters of a filter: of JOB_FITS and LIVE_FITS, or of DEAD_FITS."""
    params: dict[str, Any] = {
        "task": chosen.task and as_pattern(chosen.task), "queue": chosen.queue, "tag": chosen.tag,
        "since": chosen.since, "until": chosen.until, "args": None if chosen.args is None else json.dumps(chosen.args),
        "ids": None if chosen.ids is None else list(chosen.ids),
    }  # fmt: skip
    if isinstance(chosen, DeadFilter):
        params |= {"error": chosen.error, "group": chosen.group}
    if isinstance(chosen, JobFilter):
        params |= {"state": chosen.state}
    return params


def as_pattern(name: str) -> str:
    """Return a pattern of LIKE for a name with `*` in it."""
    return re.sub(r"[\\%_]", r"\\\g<0>", name).replace("*", "%")

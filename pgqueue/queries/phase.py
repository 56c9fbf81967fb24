"""The phase of a job in job_live: its state as people see it, in SQL."""

from typing import LiteralString

from pgqueue.queries.base import fill

# A job that was claimed before and has its attempt back: the predicate of job_live_asleep. Those that are asleep are
# among them, beside those that were given back or snoozed.
RESTING: LiteralString = "j.attempt = 0 and j.lease > 0"

# Such a job that waits for a time. Whether it is asleep its steps say.
MAY_BE_ASLEEP: LiteralString = fill(
    """{resting} and j.run_at::timestamptz > now()
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn')""",
    resting=RESTING,
)

# What job `j` does that waits for a time: `waiting` for a signal, an event or a call, else `sleeping`; null if its task
# lets it do neither. By step_open. A wait goes on until it is done, and of a sleep only the clock knows whether it is
# over.
ASLEEP_AS: LiteralString = """(select case bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from {s}.step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now()))"""

# The phase of a row of job_live, as the views have it; only of jobs that were claimed before are the steps looked at.
PHASE: LiteralString = fill(
    """case when j.state <> 'pending' and j.waits_for is distinct from 'turn' then j.state
         when j.attempt > 0 then 'retrying'
         when j.run_at::timestamptz > now()
             then case when j.lease > 0 then coalesce({asleep_as}, 'scheduled') else 'scheduled' end
         else j.state end""",
    asleep_as=ASLEEP_AS,
)

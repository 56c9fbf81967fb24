"""Named locks: one row for each that is held, and one sequence for the fencing tokens of all.

Revision ID: 0028
Revises: 0027
"""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

STATEMENTS = (
    # One sequence for all keys, because the row of a lock goes with its release and a token must never come again. It
    # has no cache: numbers that a session keeps for later would go back.
    "create sequence {s}.lock_token as bigint",
    # Half of each page stays free for the renewals, which then touch no index.
    """create table {s}.named_lock (
    key text primary key check (char_length(key) between 1 and 200),
    owner uuid not null,
    token bigint not null,
    holder text not null,
    job_id bigint,
    acquired_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    waited_until timestamptz not null default '-infinity'
) with (fillfactor = 50)""",
    """create view {s}.lock_status as
select l.key, l.holder, l.job_id, l.token, l.acquired_at, l.expires_at, l.waited_until > clock_timestamp() as waited_for
from {s}.named_lock l where l.expires_at > clock_timestamp()""",
    "comment on table {s}.named_lock is 'Named locks: who holds each key, under which fencing token, until when'",
    "comment on column {s}.named_lock.key is 'The name of the lock'",
    "comment on column {s}.named_lock.owner is 'The one holding of it: renewals and the release say it'",
    "comment on column {s}.named_lock.token is 'The fencing token: greater than that of every earlier holder'",
    "comment on column {s}.named_lock.holder is 'Who holds it, for people'",
    "comment on column {s}.named_lock.job_id is 'The job whose task holds it'",
    "comment on column {s}.named_lock.acquired_at is 'When it was taken'",
    "comment on column {s}.named_lock.expires_at is 'When it ends unless it is renewed'",
    "comment on column {s}.named_lock.waited_until is 'Until then its release notifies those that wait for it'",
    "comment on view {s}.lock_status is 'Named locks that are held'",
)

COLUMNS = {
    "key": "The name of the lock",
    "holder": "Who holds it: a job and its task, or a user; with host and process",
    "job_id": "The job whose task holds it; null outside of tasks",
    "token": "The fencing token: greater than that of every earlier holder of the key",
    "acquired_at": "When it was taken",
    "expires_at": "When it ends unless it is renewed",
    "waited_for": "Whether somebody waits for it",
}


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    comments = (f"comment on column {{s}}.lock_status.{column} is '{text}'" for column, text in COLUMNS.items())
    for statement in (*STATEMENTS, *comments):
        op.execute(statement.format(s=schema))

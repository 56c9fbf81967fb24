"""No migration rewrites or scans a table under a lock that stops those who write, or breaks an older release unsaid."""

from pathlib import Path

import pytest

from pgqueue import migrate
from pgqueue.migrate.steps import Step, all_steps
from tests.project.migration_rules import LAST_FREE, WAIVERS, Rules, faults_of

MIGRATIONS = [p for p in sorted((migrate.directory() / "versions").glob("*.py")) if p.name[:4] > LAST_FREE]
INDEX = (("job_live_tags", "job_live", "using gin (tags)"),)

REFUSED = {
    "alter table pgqueue.job_live alter column priority type integer": "rewrites the table",
    "alter table pgqueue.job_live alter column run_at type timestamptz using now()": "rewrites the table",
    "alter table pgqueue.job_live alter column task set not null": "set not null scans",
    "create index job_live_tags on pgqueue.job_live using gin (tags)": "create index stops those who write",
    "create index if not exists other on pgqueue.job_live (tags)": "create index stops those who write",
    "create unique index on pgqueue.dead_letter (failed_at)": "create index stops those who write",
    "create index concurrently job_live_tags on pgqueue.job_live (tags)": "fails in a transaction",
    "drop index pgqueue.job_live_ready": "drop index stops those who write",
    "alter table pgqueue.job_live add column born timestamptz default clock_timestamp()": "differs from row to row",
    "alter table pgqueue.job_live add column born uuid not null default gen_random_uuid()": "differs from row to row",
    "alter table pgqueue.job_live add column n bigint default nextval('pgqueue.job_id')": "differs from row to row",
    "alter table pgqueue.job_live add column n bigserial": "computed for each row",
    "alter table pgqueue.job_live add column n bigint generated always as identity": "computed for each row",
    "alter table pgqueue.job_live add column n int generated always as (attempt + 1) stored": "computed for each row",
    "alter table pgqueue.job_live add column n int not null": "not null without a default",
    "alter table pgqueue.job_live add column n int check (n > 0)": "a constraint at a new column",
    "alter table pgqueue.job_live add column n int references pgqueue.queue (n)": "a constraint at a new column",
    "alter table pgqueue.job_live add column n int unique": "a constraint at a new column",
    "alter table pgqueue.job_live add constraint n check (attempt < 9)": "a constraint scans the table",
    "alter table pgqueue.job_live add constraint q foreign key (queue) references pgqueue.queue": "a constraint scans",
    "alter table pgqueue.dead_letter add constraint u unique (failed_at)": "a key builds its index",
    "alter table pgqueue.activity add primary key (at)": "a key builds its index",
    "alter table pgqueue.job_live add constraint n check (attempt < 9) not valid;"
    "alter table pgqueue.job_live validate constraint n": "the lock of its `add constraint`",
    "alter table pgqueue.job_live set unlogged": "AT_SetUnLogged is not known",
    "alter table pgqueue.transition attach partition pgqueue.old default": "AT_AttachPartition is not known",
    "create table pgqueue.t partition of pgqueue.transition for values from ('2000-01-01') to ('2000-01-02')": "locks",
    "update pgqueue.job_live set priority = 0": "changed rows stay locked",
    "delete from pgqueue.dead_letter where failed_at < now() - interval '1 year'": "changed rows stay locked",
    "insert into pgqueue.transition (job_id, to_state) select id, state from pgqueue.job_live": "rows of a large table",
    "truncate pgqueue.activity": "TruncateStmt is not known",
    "lock table pgqueue.job_live": "LockStmt is not known",
    "vacuum full pgqueue.job_live": "VacuumStmt is not known",
    "reindex table pgqueue.job_live": "ReindexStmt is not known",
    "create trigger t after insert on pgqueue.job_live execute function f()": "CreateTrigStmt is not known",
    "do $$ begin execute 'alter table pgqueue.job_live set unlogged'; end $$": "a DO block hides what it does",
    "alter table pgqueue.job_live drop column tags": "a dropped column breaks",
    "alter table pgqueue.job_live rename column tags to labels": "a new name breaks",
    "drop table pgqueue.activity": "what is dropped breaks",
    "drop view pgqueue.queue_rate": "what is dropped breaks",
    "drop function pgqueue.redrive": "what is dropped breaks",
}
ALLOWED = (
    """create table pgqueue.setting (name text primary key, value jsonb check (jsonb_typeof(value) = 'object'));
    create index on pgqueue.setting (value); alter table pgqueue.setting add constraint n unique (value)""",
    "create table pgqueue.n (at date) partition by range (at); create table pgqueue.d partition of pgqueue.n default",
    "alter table pgqueue.job_live add column note text",
    "alter table pgqueue.job_live add column n int not null default 0, add column at timestamptz default now()",
    "alter table pgqueue.job_live add constraint n check (attempt < 9) not valid",
    "alter table pgqueue.job_live add constraint q foreign key (queue) references pgqueue.queue not valid",
    """alter table pgqueue.job_live validate constraint of_an_earlier_migration;
    alter table pgqueue.job_live alter column note set not null""",
    "alter table pgqueue.dead_letter add constraint u unique using index built_before",
    "create index if not exists job_live_tags on pgqueue.job_live using gin (tags)",
    "alter table pgqueue.job_live set (fillfactor = 90); alter table pgqueue.job_live alter column tags drop default",
    "alter table pgqueue.job_live drop constraint job_live_waits_for",
    "alter table pgqueue.operation add constraint operation_kind check (kind in ('redrive', 'cancel'))",
    "create or replace view pgqueue.queue_rate as select 1 as queue",
    "create or replace function pgqueue.f() returns int language sql as 'select 1'; alter function pgqueue.f() stable",
    "comment on table pgqueue.job_live is 'x'; revoke all on pgqueue.job_live from public",
    "update pgqueue.worker set knows = null; insert into pgqueue.compat (revision, needs) values ('1', '2')",
)
CONTRACT = (
    "alter table pgqueue.job_live drop column tags",
    "alter table pgqueue.job_live rename column tags to labels",
    "drop table pgqueue.activity",
    "drop view pgqueue.queue_rate",
    "drop function pgqueue.redrive",
)


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_no_migration_stops_those_who_write_or_breaks_an_older_release(path: Path) -> None:
    assert faults_of(path) == []


@pytest.mark.parametrize("statement", REFUSED)
def test_a_form_that_stops_those_who_write_is_refused_and_says_why(statement: str) -> None:
    (fault,) = Rules(concurrently=INDEX).read([statement])
    assert REFUSED[statement] in fault


@pytest.mark.parametrize("statement", ALLOWED)
def test_a_form_that_holds_up_nobody_is_allowed(statement: str) -> None:
    assert Rules(concurrently=INDEX).read([statement]) == []


@pytest.mark.parametrize("statement", CONTRACT)
def test_what_breaks_older_releases_is_a_contract(statement: str) -> None:
    assert len(Rules().read([statement])) == 1
    assert Rules(kind="contract").read([statement]) == []


def test_rules_are_waived_only_for_migrations_that_break_them() -> None:
    for (revision, fault), reason in WAIVERS.items():
        (path,) = [path for path in MIGRATIONS if path.name.startswith(revision)]
        assert reason
        assert any(fault in found for found in faults_of(path, waive=False)), (revision, fault)


@pytest.mark.parametrize("step", all_steps(), ids=lambda step: step.revision)
def test_a_migration_can_be_said_in_any_encoding(step: Step) -> None:
    assert step.sql("pgqueue").isascii()


def test_a_number_is_given_once_and_the_name_of_the_file_begins_with_it() -> None:
    """`revisions.newest` goes by the names of the files, so that a worker need not import alembic."""
    assert [path.name[:4] for path in MIGRATIONS] == [v for v in migrate.versions() if v > LAST_FREE]

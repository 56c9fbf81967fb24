"""What each role may do to each object is what `granted` says, and with that alone each role does its job."""

import fnmatch
from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue import InvalidOption, MigrationBlocked, NotAllowed, NotMigrated, db, migrate
from pgqueue.roles import ROLES, granted
from pgqueue.roles.granted import NOBODY
from tests.conftest import Databases, scalar
from tests.harness import QUERIES, ROOT, Conn
from tests.project import roles_page
from tests.statements.test_queries import SAMPLES

GRANTED = granted()
USERS = [role for role in ROLES if role != "owner"]


class Installed(NamedTuple):
    """A migrated database to which roles were applied."""

    dsn: str
    prefix: str

    def role(self, role: str) -> str:
        return f"{self.prefix}_{role}"

    def as_role(self, role: str) -> str:
        """A DSN whose connections act as a role."""
        return make_conninfo(self.dsn, options=f"-c role={self.role(role)} -c search_path=")


def unused_prefix(conn: Conn) -> str:
    return str(scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)"))


def drop_roles(dsn: str, prefix: str) -> None:
    """Drop all roles with a prefix; the databases in which they own anything are gone."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for (role,) in conn.execute("select rolname from pg_roles where starts_with(rolname, %s)", [prefix]).fetchall():
            conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


@pytest.fixture(scope="module")
def installed(server_dsn: str, template: str) -> Iterator[Installed]:
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        prefix = unused_prefix(conn)
    migrate.apply_roles(dsn, prefix=prefix)
    yield Installed(dsn, prefix)
    databases.drop_all()
    drop_roles(server_dsn, prefix)


@pytest.fixture
def conn(installed: Installed) -> Iterator[Conn]:
    with psycopg.connect(installed.dsn, autocommit=True, options="-c search_path=") as conn:
        yield conn


# -- The matrix

TABLE_VERBS = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
COLUMN_VERBS = ("select", "insert", "update", "references")
OBJECTS = """
select case when c.relkind = 'S' then 'sequence' else 'table' end, c.relname
from pg_class c where c.relnamespace = 'pgqueue'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
and not c.relispartition
and not exists (select from pg_depend d where d.objid = c.oid and c.relkind = 'S'
                and d.classid = 'pg_class'::regclass and d.deptype = 'i')
union all
select 'function', p.proname from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace"""
CELLS = {
    "table": """
        select 'table', c.relname, '', p.verb, has_table_privilege(%(role)s, c.oid, p.verb)
        from pg_class c cross join unnest(%(table_verbs)s::text[]) as p(verb)
        where c.relnamespace = 'pgqueue'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')""",
    "column": """
        select 'table', c.relname, a.attname, p.verb, has_column_privilege(%(role)s, c.oid, a.attnum, p.verb)
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        cross join unnest(%(column_verbs)s::text[]) as p(verb)
        where c.relnamespace = 'pgqueue'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')""",
    "sequence": """
        select 'sequence', c.relname, '', p.verb, has_sequence_privilege(%(role)s, c.oid, p.verb)
        from pg_class c cross join unnest('{usage,select,update}'::text[]) as p(verb)
        where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'S'""",
    "function": """
        select 'function', p.proname, '', 'execute', has_function_privilege(%(role)s, p.oid, 'execute')
        from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace""",
    "type": """
        select 'type', t.typname, '', 'usage', has_type_privilege(%(role)s, t.oid, 'usage')
        from pg_type t where t.typnamespace = 'pgqueue'::regnamespace and t.typtype = 'd'""",
    "schema": """
        select 'schema', '', '', p.verb, has_schema_privilege(%(role)s, 'pgqueue', p.verb)
        from unnest('{usage,create}'::text[]) as p(verb)""",
}


def matrix(conn: Conn, role: str) -> dict[tuple[str, str, str, str], bool]:
    """Whether a role has each privilege on each relation, column, sequence, function and type."""
    names = {"role": role, "table_verbs": list(TABLE_VERBS), "column_verbs": list(COLUMN_VERBS)}
    rows = [row for cells in CELLS.values() for row in conn.execute(cells.encode(), names).fetchall()]
    return {(kind, thing, column, verb): has for kind, thing, column, verb, has in rows}


def expected(role: str, cell: tuple[str, str, str, str]) -> bool:
    kind, thing, _, verb = cell
    own = {grant[1:] for grant in GRANTED if grant.role == role}
    return cell in own or (kind, thing, "", verb) in own


@pytest.mark.parametrize("role", USERS)
def test_a_role_may_do_what_the_table_says_and_nothing_else(conn: Conn, installed: Installed, role: str) -> None:
    found = matrix(conn, installed.role(role))
    assert len(found) > 1500
    wrong = {cell: has for cell, has in found.items() if has != expected(role, cell)}
    assert wrong == {}


def test_each_object_of_the_schema_is_classified(conn: Conn) -> None:
    """A new table, view or function stands in pgqueue/roles/granted.py: for some role, or under NOBODY."""
    classified = {(grant.kind, grant.object) for grant in GRANTED} | {
        tuple(name.split()) if " " in name else ("table", name) for name in NOBODY
    }
    objects = {(kind, name) for kind, name in conn.execute(OBJECTS).fetchall()}
    assert len(objects) > 40
    assert objects - classified == set(), "classify them in pgqueue/roles/granted.py"
    assert classified - objects - {("schema", "")} == set(), "they are gone"


def test_each_column_that_the_table_names_exists(conn: Conn) -> None:
    named = {(grant.object, grant.column) for grant in GRANTED if grant.column}
    columns = conn.execute(
        "select table_name::text, column_name::text from information_schema.columns where table_schema = 'pgqueue'"
    ).fetchall()
    assert named
    assert named - set(columns) == set()


def test_nobody_else_may_do_anything(conn: Conn, installed: Installed) -> None:
    stranger = f"{installed.prefix}_stranger"
    conn.execute(f"create role {stranger}".encode())
    found = matrix(conn, stranger)
    assert [cell for cell, has in found.items() if has] == []


def test_an_object_that_nobody_classified_is_named(conn: Conn, installed: Installed) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("create table pgqueue.forgotten (id int)")
        conn.execute("create function pgqueue.forgotten_too() returns int language sql as 'select 1'")
        with pytest.raises(AssertionError, match=r"forgotten_too[\s\S]*forgotten|forgotten[\s\S]*forgotten_too"):
            test_each_object_of_the_schema_is_classified(conn)
        assert matrix(conn, installed.role("reader"))["function", "forgotten_too", "", "execute"]  # PUBLIC's
        with pytest.raises(AssertionError, match="forgotten_too"):
            test_a_role_may_do_what_the_table_says_and_nothing_else(conn, installed, "reader")


def test_only_functions_that_take_nothing_or_check_it_run_with_the_owners_rights(conn: Conn) -> None:
    definers = conn.execute(
        "select proname, proconfig @> '{\"search_path=pg_catalog, pg_temp\"}' from pg_proc"
        " where pronamespace = 'pgqueue'::regnamespace and prosecdef order by 1"
    ).fetchall()
    named = ["change_flow", "compensate", "drop_partition", "empty_partition", "maintain", "undo_ended", "undo_next"]
    assert definers == [(name, True) for name in named]


def test_the_owner_owns_all_and_cannot_log_in(conn: Conn, installed: Installed) -> None:
    owners = conn.execute(
        "select distinct relowner::regrole::text from pg_class where relnamespace = 'pgqueue'::regnamespace"
        " union select proowner::regrole::text from pg_proc where pronamespace = 'pgqueue'::regnamespace"
        " union select typowner::regrole::text from pg_type where typnamespace = 'pgqueue'::regnamespace"
        " union select nspowner::regrole::text from pg_namespace where nspname = 'pgqueue'"
    ).fetchall()
    assert owners == [(installed.role("owner"),)]
    mighty = "rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication"
    count = f"select count(*), count(*) filter (where {mighty}) from pg_roles where starts_with(rolname, %s)"
    assert conn.execute(count.encode(), [f"{installed.prefix}_"]).fetchone() >= (len(ROLES), 0)
    assert scalar(conn, f"select count(*) from pg_roles where starts_with(rolname, %s) and ({mighty})",
                  f"{installed.prefix}_") == 0  # fmt: skip


# -- Each statement

_PRODUCES = """
jobs.enqueue jobs.enqueue_one* jobs.enqueue_many* jobs.enqueue_conditionally* jobs.take_expired_keys
jobs.find_key_holder* jobs.find_unique_holders jobs.replace jobs.free_expired* jobs.give_back_keys
jobs.depth* jobs.begin jobs.change_flows workflows.enqueue workflows.find_older signals.send*"""
_LOOKS = "jobs.list* jobs.count* jobs.prefer_indexes"
_WAITS = "waits.listen waits.register waits.read*"
_EVENTS = "events.[!alg]*"
_LOCKS = "locks.acquire locks.listen locks.release locks.renew"
_UPKEEP = "partitions.states partitions.delegated partitions.maintain schema.check schema.version"
RUNS = {
    "producer": f"{_PRODUCES} {_LOCKS} events.publish",
    "worker": f"""
    jobs.[!cl]* jobs.claim* jobs.cancel* jobs.lock* workers.* waits.* activity.re* dead.next_batch dead.redrive
    dead.discard steps.[!f]* signals.* calls.* operations.lock operations.move operations.find_abandoned
    operations.put_off operations.fail workflows.*
    chosen.* retention.* turns.* pauses.tasks pauses.set_aside pauses.bring_back limits.declare
    {_LOCKS} {_EVENTS} {_UPKEEP}""",
    "scheduler": f"""
    {_EVENTS}
    schedules.* jobs.enqueue jobs.cancel workers.register workers.heartbeat workers.unregister workers.record_deaths
    workers.listen {_UPKEEP}""",
    "operator": f"""
    {_PRODUCES} {_LOOKS} {_WAITS} steps.forget steps.open_waits events.* doctor.* dashboard.* why.* chosen.*
    jobs.get jobs.cancel jobs.retry_waiting jobs.promote
    jobs.restore jobs.read_ended jobs.lock_waiting jobs.edit_waiting dead.* operations.* queues.* pauses.* names.*
    locks.break_ locks.list metrics.locks limits.* workflows.*
    retention.* activity.rates activity.due_turns workers.list workers.locate workers.request partitions.states
    schema.version schedules.clock schedules.create
    schedules.declaration schedules.delete schedules.list* schedules.lock schedules.pause schedules.read
    schedules.record_ticks schedules.redefine schedules.resume schedules.wake_schedulers""",
    "web": f"{_WAITS} jobs.get jobs.cancel schema.version",
    "reader": "schema.version pauses.list",
    "metrics": "schema.version metrics.* pauses.list jobs.prefer_indexes",
}
# It looks into the partitions themselves, on which nobody has anything: `doctor` says that it cannot see them.
UNSEEN = "doctor.used_defaults"
OWNERS = "schema.* partitions.* roles.*"


def fits(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split())


def test_each_statement_has_a_role_that_runs_it() -> None:
    lost = [name for name in SAMPLES if not fits(name, OWNERS) and not any(fits(name, runs) for runs in RUNS.values())]
    assert lost == []


@pytest.mark.parametrize("role", USERS)
def test_a_role_may_run_each_of_its_statements(conn: Conn, installed: Installed, role: str) -> None:
    refused = []
    conn.execute(sql.SQL("set role {}").format(sql.Identifier(installed.role(role))))
    for name in sorted(name for name in SAMPLES if fits(name, RUNS[role]) and name != UNSEEN):
        try:
            with conn.transaction(force_rollback=True):
                db.run(conn, SAMPLES[name](QUERIES))
        except NotAllowed as error:
            refused.append((name, str(error)))
    assert refused == []


# -- Applying


def changed(server: Conn) -> list[tuple[str, str]]:
    """The transactions that last wrote each object of the schema: nothing is written where they stay."""
    return server.execute(
        "select relname, xmin::text from pg_class where relnamespace = 'pgqueue'::regnamespace"
        " union all select proname, xmin::text from pg_proc where pronamespace = 'pgqueue'::regnamespace order by 1"
    ).fetchall()


@pytest.fixture
def prefix(server_dsn: str, empty_dsn: str) -> Iterator[str]:
    """A prefix for roles of the test's own."""
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        prefix = unused_prefix(conn)
    yield prefix
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("drop schema if exists pgqueue cascade; drop schema if exists other cascade")
    drop_roles(empty_dsn, prefix)


def test_applying_says_what_it_did_and_does_nothing_again(empty_dsn: str, prefix: str) -> None:
    migrate.upgrade(empty_dsn)
    first = migrate.apply_roles(empty_dsn, prefix=prefix)
    assert first.made == [f"{prefix}_{role}" for role in ROLES]
    assert (first.granted, first.revoked) == (len(GRANTED), 0)
    assert str(first).startswith(f"roles {prefix}_*: made {prefix}_owner, ")
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        before = changed(conn)
        assert str(migrate.apply_roles(empty_dsn, prefix=prefix)) == f"roles {prefix}_*: nothing to do"
        migrate.upgrade(empty_dsn)
        assert changed(conn) == before
        conn.execute(f"grant select on pgqueue.job to {prefix}_reader".encode())
        conn.execute(f"grant update (args) on pgqueue.job_live to {prefix}_metrics".encode())
        conn.execute("grant select on pgqueue.job_live to public")
        conn.execute(f"revoke select on pgqueue.job_status from {prefix}_reader".encode())
        again = migrate.apply_roles(empty_dsn, prefix=prefix)
        assert (again.made, again.granted, again.revoked) == ([], 1, 3)
        assert str(again).endswith("granted 1 privileges; revoked 3")


def test_the_script_grants_what_applying_grants(empty_dsn: str, prefix: str) -> None:
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(
            f"create role {prefix}_reader; grant select on all tables in schema pgqueue to {prefix}_reader".encode()
        )
        for _ in range(2):
            with conn.transaction():
                conn.execute(migrate.roles_script(prefix=prefix).encode())
        for role in USERS:
            found = matrix(conn, f"{prefix}_{role}")
            assert {cell for cell, has in found.items() if has != expected(role, cell)} == set()
    assert str(migrate.apply_roles(empty_dsn, prefix=prefix)).endswith("nothing to do")


def test_a_migration_grants_what_it_adds_and_what_a_view_made_anew_has_lost(empty_dsn: str, prefix: str) -> None:
    migrate.upgrade(empty_dsn)
    migrate.apply_roles(empty_dsn, prefix=prefix)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        view = scalar(conn, "select pg_get_viewdef('pgqueue.schedule_tick'::regclass)")
        conn.execute(f"drop view pgqueue.schedule_tick; create view pgqueue.schedule_tick as {view}".encode())
        reads = "select has_table_privilege(%s, 'pgqueue.schedule_tick', 'select')"
        assert not scalar(conn, reads, f"{prefix}_reader")
        conn.execute(f"drop owned by {prefix}_metrics; drop role {prefix}_metrics".encode())
        migrate.upgrade(empty_dsn)
        assert scalar(conn, reads, f"{prefix}_reader")
        owner = "select relowner::regrole::text from pg_class where oid = 'pgqueue.schedule_tick'::regclass"
        assert scalar(conn, owner) == f"{prefix}_owner"
        assert scalar(conn, "select count(*) from pg_roles where rolname = %s", f"{prefix}_metrics") == 0


def test_roles_that_only_have_such_names_are_left_alone(empty_dsn: str, prefix: str) -> None:
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(f"create role {prefix}_owner; create role {prefix}_worker; create role {prefix}_reader".encode())
        conn.execute(f"alter schema pgqueue owner to {prefix}_owner".encode())
        conn.execute(f"grant select on all tables in schema pgqueue to {prefix}_worker, {prefix}_reader".encode())
        migrate.upgrade(empty_dsn)
        assert scalar(conn, "select has_table_privilege(%s, 'pgqueue.job_live', 'select')", f"{prefix}_reader")
        assert not scalar(
            conn, "select has_function_privilege(%s, 'pgqueue.maintain()', 'execute')", f"{prefix}_worker"
        )


def test_who_may_make_roles_needs_no_superuser_and_the_former_owner_goes_on(empty_dsn: str, prefix: str) -> None:
    database = psycopg.conninfo.conninfo_to_dict(empty_dsn)["dbname"]
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(f"create role {prefix}deploy createrole; create role {prefix}former".encode())
        conn.execute(f"grant create on database {database} to {prefix}deploy".encode())
    deploy = make_conninfo(empty_dsn, options=f"-c role={prefix}deploy")
    migrate.upgrade(deploy)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(f"alter table pgqueue.queue owner to {prefix}former".encode())
        conn.execute(f"grant {prefix}former to {prefix}deploy".encode())
    migrate.apply_roles(deploy, prefix=prefix)
    migrate.upgrade(deploy)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        for role in ("former", "deploy"):
            assert scalar(conn, "select pg_has_role(%s, %s, 'USAGE')", f"{prefix}{role}", f"{prefix}_owner")
        for role in USERS:
            found = matrix(conn, f"{prefix}_{role}")
            assert {cell for cell, has in found.items() if has != expected(role, cell)} == set()
    with psycopg.connect(make_conninfo(empty_dsn, options=f"-c role={prefix}former")) as former:
        former.execute("alter table pgqueue.queue add column mine int")
        former.rollback()


def test_who_may_not_make_roles_is_told_so_and_nothing_is_changed(empty_dsn: str, prefix: str) -> None:
    database = psycopg.conninfo.conninfo_to_dict(empty_dsn)["dbname"]
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(f"create role {prefix}app".encode())
        conn.execute(f"grant create on database {database} to {prefix}app".encode())
        app = make_conninfo(empty_dsn, options=f"-c role={prefix}app")
        migrate.upgrade(app)
        before = changed(conn)
        with pytest.raises(NotAllowed, match=r"permission denied to create role.*--roles"):
            migrate.apply_roles(app, prefix=prefix)
        assert changed(conn) == before
        assert scalar(conn, "select count(*) from pg_roles where starts_with(rolname, %s)", f"{prefix}_") == 0


def test_a_table_that_stays_locked_blocks_the_change_of_owners_and_nothing_is_changed(
    empty_dsn: str, prefix: str
) -> None:
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn) as reader, psycopg.connect(empty_dsn, autocommit=True) as conn:
        before = changed(conn)
        reader.execute("select from pgqueue.worker")
        with pytest.raises(MigrationBlocked):
            migrate.apply_roles(empty_dsn, prefix=prefix)
        assert changed(conn) == before


def test_two_schemas_of_a_database_have_roles_of_their_own(empty_dsn: str, prefix: str) -> None:
    for schema in ("pgqueue", "other"):
        migrate.upgrade(empty_dsn, schema)
        migrate.apply_roles(empty_dsn, schema, f"{prefix}_{schema}")
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        may = "select has_schema_privilege(%s, %s, 'usage')"
        for schema, there in (("pgqueue", True), ("other", False)):
            assert scalar(conn, may, f"{prefix}_pgqueue_worker", schema) == there


def test_a_schema_that_is_not_current_has_no_roles_applied(empty_dsn: str) -> None:
    with pytest.raises(NotMigrated, match="pgqueue migrate"):
        migrate.apply_roles(empty_dsn)


@pytest.mark.parametrize("prefix", ["", "pg_mine", "a\nb", "x" * 60, "é" * 30])
def test_a_prefix_that_makes_no_names_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidOption, match="prefix"):
        migrate.roles_script(prefix=prefix)


def test_names_are_quoted(empty_dsn: str, prefix: str) -> None:
    odd = f'{prefix} "x"; drop schema pgqueue --'
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        with conn.transaction():
            conn.execute(migrate.roles_script(prefix=odd).encode())
        assert str(migrate.apply_roles(empty_dsn, prefix=odd)).endswith("nothing to do")
        assert scalar(conn, "select has_table_privilege(%s, 'pgqueue.job_status', 'select')", f"{odd}_reader")


def test_who_could_call_a_function_with_effect_still_can_after_nothing_is_left_to_public(
    empty_dsn: str, prefix: str
) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(migrate.script(until="0016").encode())
        conn.execute(f"create role {prefix}_manager; create role {prefix}_onlooker".encode())
        conn.execute(f"grant select, insert, update, delete on pgqueue.schedule, pgqueue.schedule_ahead"
                     f" to {prefix}_manager".encode())  # fmt: skip
        conn.execute(f"grant select on pgqueue.schedule to {prefix}_onlooker".encode())
        may = "select has_function_privilege(%s, 'pgqueue.schedule_delete(text)', 'execute')"
        assert scalar(conn, may, f"{prefix}_onlooker")
        migrate.upgrade(empty_dsn)
        assert scalar(conn, may, f"{prefix}_manager")
        assert not scalar(conn, may, f"{prefix}_onlooker")


def test_the_page_has_the_table_of_the_code() -> None:
    page = (ROOT / "docs" / "roles.md").read_text()
    assert roles_page.current(page) == page, "run `python -m tests.project.roles_page`"

"""The migrations that ship with the package, each a step: its SQL, and what it asks of those who run it."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from pgqueue.errors import ConfigError
from pgqueue.queries.schema import REFUSE_OLDER
from pgqueue.revisions import directory

# Postgres asks for the right to create schemas before it looks whether the schema is there.
CREATE_SCHEMA = """do $$ begin
    if to_regnamespace('{schema}') is null then create schema {schema}; end if;
end $$;

"""
# Comments of three migrations, which are frozen, have a character that a database in LATIN1 lacks.
IN_ASCII = ("\N{HORIZONTAL ELLIPSIS}", "...")
# Whoever may create tables in a schema need not own it; its comment is not worth a failure.
SCHEMA_COMMENT = re.compile(r"^(comment on schema .*);$", re.MULTILINE)
OPTIONAL = r"do $$ begin \1; exception when insufficient_privilege then null; end $$;"


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is built while its table is written: its name, its table, and what follows `on table`."""

    name: str
    table: str
    definition: str


@dataclass(frozen=True, slots=True)
class Step:
    """One migration.

    `kind` is *expand*, after which processes of older releases go on, or *contract*, which takes away what they use:
    it runs only when every process knows the version `needs`. `concurrently`: the indexes that are built outside of a
    transaction before, where that can be done.
    """

    revision: str
    previous: str | None
    kind: str = "expand"
    needs: str | None = None
    concurrently: Sequence[Index] = ()

    @classmethod
    def of(cls, module: Mapping[str, Any]) -> "Step":
        """Read what a migration declares. Raises ConfigError for what cannot be meant."""
        revision, kind, needs = module["revision"], module.get("kind", "expand"), module.get("needs")
        if kind not in ("expand", "contract") or (kind == "contract") != (needs is not None):
            raise ConfigError(
                f"migration {revision} has kind={kind!r}, needs={needs!r}: a contract names what it needs"
            )
        indexes = tuple(Index(*index) for index in module.get("concurrently", ()))
        return cls(revision, module["down_revision"], kind, needs, indexes)

    def sql(self, schema: str, *, force: bool = False) -> str:
        """Return the SQL of this step, with the change of version; `force`: it does not look who still runs."""
        before = CREATE_SCHEMA.format(schema=f'"{schema}"') if self.previous is None else ""
        if self.kind == "contract":
            before += "" if force else _filled(REFUSE_OLDER, schema, self)
        written = _written(schema, self).replace(*IN_ASCII)
        return before + SCHEMA_COMMENT.sub(OPTIONAL, written) + self._window(schema)

    def _window(self, schema: str) -> str:
        """Return the statement that lets processes which know too little refuse to start."""
        if self.kind == "expand":
            return ""
        return f"insert into \"{schema}\".compat (revision, needs) values ('{self.revision}', '{self.needs}');\n\n"


def _filled(template: str, schema: str, step: Step) -> str:
    return template.format(s=f'"{schema}"', revision=step.revision, needs=step.needs)


def between(since: str | None, until: str) -> list[Step]:
    """Return the steps from one version (None: from nothing) to another, in order."""
    known = all_steps()
    places = {None: 0} | {step.revision: place for place, step in enumerate(known, 1)}
    return list(known[places[since] : places[until]])


def versions() -> tuple[str, ...]:
    """Return the versions this package knows, oldest first."""
    return tuple(step.revision for step in all_steps())


def head() -> str:
    """Return the newest version this package knows."""
    return versions()[-1]


def all_steps() -> tuple[Step, ...]:
    """Return every migration of this package, oldest first."""
    return _read(str(directory()))


@lru_cache(maxsize=4)
def _read(folder: str) -> tuple[Step, ...]:
    found = tuple(Step.of(vars(script.module)) for script in _scripts(folder).walk_revisions())
    if not found:
        raise ConfigError(f"no migrations in {folder}: install pgqueue again")
    return found[::-1]


@cache
def _scripts(folder: str) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    return ScriptDirectory.from_config(config)


def _written(schema: str, step: Step) -> str:
    """Let alembic write the SQL of a migration."""
    scripts = _scripts(str(directory()))
    moves = scripts._upgrade_revs(step.revision, step.previous)  # type: ignore[arg-type]  # None is the beginning
    written = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # another one would double each %
        opts={
            "as_sql": True,
            "output_buffer": written,
            "starting_rev": step.previous,
            "fn": lambda *_: moves,
            "version_table": "migration",
            "version_table_schema": schema,
            "literal_binds": True,
            "pgqueue_schema": f'"{schema}"',  # check_schema allows no quotes inside
        },
    )
    for move in moves:
        # In each file `op` is the module alembic.op, whose functions lead to the migration that runs in this process.
        vars(move.revision.module)["op"] = Operations(context)
    context.run_migrations()
    return written.getvalue()

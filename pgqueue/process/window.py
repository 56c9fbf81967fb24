"""Whether this release of pgqueue may work on a schema: on one as new as it knows, or newer, within its window."""

from pgqueue.config import release
from pgqueue.errors import NotMigrated, ReleaseTooOld
from pgqueue.queries.schema import SchemaState
from pgqueue.revisions import newest


def check_window(state: SchemaState) -> None:
    """Raise NotMigrated for a schema that is older than this release needs, ReleaseTooOld where it is the other way."""
    known = newest()
    if state.version < known:
        raise NotMigrated(
            f"the schema has version {state.version}, and this pgqueue ({release()}) needs {known}: "
            "run `pgqueue migrate`"
        )
    if state.needs is not None and state.needs > known:
        raise ReleaseTooOld(
            f"the schema has version {state.version}, on which only releases work that know {state.needs}: this "
            f"pgqueue ({release()}) knows {known}: install a newer one"
        )

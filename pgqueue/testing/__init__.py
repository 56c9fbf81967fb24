"""Testing apps that use pgqueue: see docs/testing.md.

`pytest_plugins = ["pgqueue.testing.plugin"]` in the conftest.py gives the fixture `jobs`; without pytest,
`with testing.using(app, conn) as jobs:` or `with testing.rolled_back(app) as jobs:`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pgqueue.app import App
from pgqueue.testing import connections
from pgqueue.testing.contexts import TaskContext, context
from pgqueue.testing.jobs import Jobs
from pgqueue.testing.running import Drained, TaskRaised

__all__ = ["Drained", "Jobs", "TaskContext", "TaskRaised", "context", "rolled_back", "using"]


@contextmanager
def using(app: App, conn: object) -> Iterator[Jobs]:
    """Test with jobs in the transaction of `conn`: of psycopg, SQLAlchemy (a Connection) or Django, sync or async.

    The caller rolls the transaction back. Raises ConfigError if there is none.
    """
    jobs = Jobs(app, conn)
    with jobs.backend.installed():
        yield jobs


@contextmanager
def rolled_back(app: App) -> Iterator[Jobs]:
    """Test with jobs in a transaction on a new connection to the app's database, rolled back in the end."""
    with connections.rolled_back(app.database) as conn, using(app, conn) as jobs:
        yield jobs

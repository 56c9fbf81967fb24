"""What the schema consists of after all migrations, as `doctor` compares it: `pgqueue/doctor/schema.json`.

After a new migration, `python -m tests.statements.description` writes the file anew; the diff shows what changed.
"""

import psycopg

from pgqueue import App, db, migrate
from pgqueue.doctor.description import PLACE, Description
from tests.harness import QUERIES


def read(dsn: str) -> Description:
    """Describe a database that has all migrations."""
    with psycopg.connect(dsn) as conn:
        return Description.of(migrate.head(), db.run(conn, QUERIES.doctor.describe()))


def write() -> None:
    """Write the file anew, from a schema on an embedded server."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        app = App(f"embedded:{directory}/postgres")
        migrate.upgrade(app.dsn)
        PLACE.write_text(read(app.dsn).as_text())


if __name__ == "__main__":
    write()

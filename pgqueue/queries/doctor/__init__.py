"""What `doctor` reads: the catalogue, the server's statistics and settings, and little of pgqueue's own tables.

No statement writes or locks anything. Those on the catalogue and on statistics cost what there are objects and
sessions; those on tables that grow stop at a bound. Each may find less than there is where the role may not see all:
the columns that Postgres hides from it are null.
"""

from pgqueue.queries.doctor.connections import ConnectionQueries
from pgqueue.queries.doctor.fleet import FleetQueries
from pgqueue.queries.doctor.schema import DescriptionQueries
from pgqueue.queries.doctor.server import ServerQueries
from pgqueue.queries.doctor.snapshots import SnapshotQueries
from pgqueue.queries.doctor.storage import StorageQueries
from pgqueue.queries.doctor.workflows import WorkflowLooks

__all__ = ["DoctorQueries"]


class DoctorQueries(
    DescriptionQueries, StorageQueries, SnapshotQueries, ServerQueries, ConnectionQueries, FleetQueries, WorkflowLooks
):
    """What `doctor` reads, each file of this folder some of it."""

"""Every check, by what it is about."""

from pgqueue.doctor import connections, fleet, partitions, retention, schema, server, tasks, vacuum, workflows
from pgqueue.doctor.check import GENERAL, Check
from pgqueue.doctor.finding import Kind

CHECKS: tuple[Check, ...] = (
    *schema.CHECKS,
    *server.CHECKS,
    *partitions.CHECKS,
    *retention.CHECKS,
    *vacuum.CHECKS,
    *connections.CHECKS,
    *fleet.CHECKS,
    *workflows.CHECKS,
    *tasks.CHECKS,
)
KINDS: tuple[Kind, ...] = (*(kind for check in CHECKS for kind in check.kinds), *GENERAL)

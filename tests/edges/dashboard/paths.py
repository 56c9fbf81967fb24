"""Every page of the dashboard, as a path in the shop."""

from tests.edges.dashboard.scene import Shop

DEEDS = (
    "jobs/1/cancel", "jobs/1/retry", "jobs/1/promote", "jobs/1/redrive", "jobs/1/discard", "jobs/1/annotate",
    "jobs/1/edit", "jobs/1/reveal", "preview/cancel?task=*", "preview/retry?task=*", "preview/promote?task=*",
    "preview/redrive?task=*",
    "preview/discard?task=*", "queues/email/pause", "queues/email/resume", "tasks/t/pause", "tasks/t/resume",
    "tasks/t/enqueue", "limits/l/pause", "limits/l/resume", "schedules/s/pause", "schedules/s/resume",
    "schedules/s/run", "workers/abcdef/quiet", "workers/abcdef/resume", "workers/abcdef/stop", "workflows/1/cancel",
    "workflows/1/retry", "operations/1/stop", "operations/1/resume",
)  # fmt: skip


def pages_of(shop: Shop) -> list[str]:
    """Return the path of each page, of things that the shop has."""
    ids = shop.ids
    jobs = [f"jobs/{ids[name]}" for name in ("declined", "bug", "charged", "retrying", "running", "later", "cancelled")]
    return [
        "", "queues", "queues/critical", "queues/media", "queues/media/drain", "queues/default/drain",
        "jobs", "jobs?state=failed", "jobs?task=shop.*&arg.order_id=8",
        *jobs, f"jobs/{ids['declined']}/edit", f"jobs/{ids['later']}/edit", "failures", "tasks",
        "tasks/shop.charge_card", "tasks/shop.charge_card/enqueue", "tasks/nobody.knows/enqueue", "schedules",
        "schedules/daily~20report", "schedules/month~27s~20end", "schedules/daily~20report/pause?until=7d",
        "workers", "workflows", "workflows?state=running",
        f"workflows/{ids['workflow']}", f"workflows/{ids['failed workflow']}", f"workflows/{ids['done workflow']}",
        "limits", "database", "operations", "preview/redrive?task=shop.*", "preview/cancel?queue=media",
        "preview/discard?task=shop.render_invoice",
    ]  # fmt: skip

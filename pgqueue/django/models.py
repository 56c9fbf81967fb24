"""Jobs as Django's permissions know them. The tables are pgqueue's own, so nothing here makes or migrates one."""

from typing import Any

from django.db import models


class _NoRows(models.Manager[Any]):
    def get_queryset(self) -> Any:
        return super().get_queryset().none()


class TablelessModel(models.Model):
    """A model without a table. What reads all models, as `dumpdata` does, finds no rows and asks for none."""

    objects = _NoRows()

    class Meta:
        abstract = True
        base_manager_name = "objects"


class Job(TablelessModel):
    """A name for permissions: `pgqueue.change_job` and `pgqueue.reveal_job`. It is not to be queried."""

    class Meta:
        app_label = "pgqueue"
        managed = False
        default_permissions = ("change",)
        permissions = (("reveal_job", "Can see hidden values of a job"),)

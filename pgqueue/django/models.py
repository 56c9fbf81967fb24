"""Jobs as Django's permissions know them. The tables are pgqueue's own, so nothing here makes or migrates one."""

from django.db import models


class Job(models.Model):
    """A name for permissions: `pgqueue.change_job` and `pgqueue.reveal_job`. It is not to be queried."""

    class Meta:
        app_label = "pgqueue"
        managed = False
        default_permissions = ("change",)
        permissions = (("reveal_job", "Can see hidden values of a job"),)

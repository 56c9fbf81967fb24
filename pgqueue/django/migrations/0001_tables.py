"""pgqueue's tables, and the model that names its permissions. Later versions of the tables come after `migrate`."""

from typing import Any

from django.db import migrations, models
from django.utils.module_loading import import_string


def make_tables(_: Any, schema_editor: Any) -> None:
    """Make the tables. All of Django's commands load this file, and alembic is for `migrate` alone."""
    import_string("pgqueue.django.upgrading.make_tables")(schema_editor.connection)


class Migration(migrations.Migration):
    """Makes the tables where TASKS or PGQUEUE["database"] names the database."""

    initial = True
    operations = (
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"))
            ],
            options={
                "managed": False,
                "default_permissions": ("change",),
                "permissions": (("reveal_job", "Can see hidden values of a job"),),
            },
        ),
        migrations.RunPython(make_tables, migrations.RunPython.noop),
    )

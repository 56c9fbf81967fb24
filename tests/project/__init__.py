"""Tests of the project: package, types, migrations, roles, docs, and the stress machine."""

"""What is shipped and said: package, types, migrations, roles, docs, and the stress machine."""

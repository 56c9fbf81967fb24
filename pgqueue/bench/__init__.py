"""The bench: what pgqueue does on this machine with this database, in a schema of its own."""

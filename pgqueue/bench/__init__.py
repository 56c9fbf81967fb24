"""`pgqueue bench`: measures pgqueue on this machine with this database, in a schema of its own."""

"""Tasks in child processes: real processes, real signals."""

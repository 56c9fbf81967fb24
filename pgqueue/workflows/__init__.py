"""Workflows as values: graphs of jobs, whether they are sound, pictures of them, and what their rows say. No I/O."""

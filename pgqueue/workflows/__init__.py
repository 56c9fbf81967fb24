"""Workflows as values: the graph, whether it is sound, and what its rows say. No I/O."""

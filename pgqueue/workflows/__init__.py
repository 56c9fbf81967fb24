"""Graphs of jobs as values: nodes, edges, groups, and pictures of them. Pure: no I/O, no clock."""

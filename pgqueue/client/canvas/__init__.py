"""Canvases, workflows and batches: what callers write, and how it compiles to a graph."""

"""Tasks: registered functions, and their arguments and results as JSON."""

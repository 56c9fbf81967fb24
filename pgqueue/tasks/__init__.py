"""A task: a registered function, and its arguments and result as JSON."""

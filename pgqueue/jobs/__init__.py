"""Jobs: states, lifecycle, retry policies, outcomes and keys. No I/O."""

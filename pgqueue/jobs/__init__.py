"""What a job is: its states and lifecycle, retry policies, outcomes and keys. Pure."""

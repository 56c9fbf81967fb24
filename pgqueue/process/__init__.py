"""What a worker and a scheduler share: duties, the heartbeat, partitions, supervision, logs and health."""

"""What a worker does again and again beside running jobs."""

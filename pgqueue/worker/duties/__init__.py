"""What a worker does again and again beside claiming and running jobs: one duty in a file."""

"""What runs jobs: worker, children, threads, supervisor, and what becomes of them among faults."""

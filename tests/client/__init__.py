"""What a producer meets: enqueueing, keys, options, cancelling, waiting, results."""

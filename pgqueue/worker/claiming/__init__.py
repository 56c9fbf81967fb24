"""How a worker claims jobs: its slots, its place in each lane, the producer that asks."""

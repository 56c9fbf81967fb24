"""How a worker claims jobs: its frontier in each lane, the producer that claims there, and the full scan beside it."""

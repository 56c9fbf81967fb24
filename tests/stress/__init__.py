"""The stress machine: real processes, real faults drawn from a seed, and a checker that reads the whole history.

`python -m tests.stress --minutes 3 --seed 7` runs it; `--mutants` proves that the checker sees seeded bugs.
"""

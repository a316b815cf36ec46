"""What a user gets when streams break: two tables, over real sockets to the simulator.

`python -m tests.streams` prints them. The rooms:

- `limits.py`: the limits that a fault may cost: small ones, or the model's defaults.
- `steps.py`, `faults.py`: what the first target does wrong. A new fault is a line there.
- `ways.py`: how the model is asked, and what came of it.
- `census.py`: what is left behind afterwards.
- `bench.py`: what all runs share: simulator, names, models.
- `cell.py`, `faulty.py`: the table of faults, ways and dialects.
- `scenarios.py`, `failover.py`, `flapping.py`: the public failover scenarios, with defaults.
- `report.py`: how both are printed.
"""

"""What a user gets when streams break: two tables, over real sockets to the simulator.

`python -m verification.streams` prints them.

- `faults.py`: what the first target does wrong. A new fault is a line there.
- `fault_table.py`: plays and judges the table of faults, ways to ask and dialects.
- `failover.py`: the public failover scenarios, with the model's default settings.
"""

"""Every fault of the simulator, by every way to ask, at every place of a chain: the fault matrix.

`python -m tests.matrix` prints it, over real sockets and both SDKs. The rooms:

- `rows.py`, `refusing.py`, `breaking.py`, `replying.py`: what a target does wrong, and what it is
  to be taken for. A new step or option of the simulator needs a line there: `test_rows.py` fails
  until it has one.
- `ways.py`: the seven ways to ask, and what came of it.
- `places.py`: where in the chain the fault is, and under which limits.
- `cell.py`, `expect.py`: what one cell asks, and what is wrong with what came of it.
- `stock.py`: sockets, busy connections, threads and files of the process, before and after.
- `runs.py`: plays cells, some at a time; those that a busy machine may have spoilt again, alone.
- `processes.py`: the same by several processes.
- `cover.py`: which cells there are, and which are run every day.
- `report.py`: how it is printed.
"""
